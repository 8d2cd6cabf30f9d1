"""Few directions matter: where a network that learns features beats its own tangent kernel.

    python examples/feature_learning.py      # about two minutes on two cores; --quick: seconds

The target depends on two of a hundred directions of a ⊗ b. With output_scale γ = 1 the wide network stays close to its
tangent kernel; a smaller γ, with a step that is larger by 1/γ² (chosen automatically), makes the neurons turn towards the
two directions. Tangent-kernel ridge chooses its penalty, and whether neurons have a threshold, inside the training rows.
"""

from __future__ import annotations

from _shared import arguments, draw_curves, learning_curve, picture
from kronsgd.compare.methods import make_method
from kronsgd.datasets import make_kron_teacher


def main() -> None:
    args = arguments(__doc__)
    sizes, dims, n_test = ([100, 200], (4, 4), 100) if args.quick else ([250, 500, 1000, 2000], (10, 10), 1000)
    X, y, teacher = make_kron_teacher(sizes[-1] + n_test, dims, n_neurons=2, noise=0.1, random_state=0, n_entities=200)
    print(f"two of {dims[0] * dims[1]} directions matter: {X}")
    params = {"n_hidden": 64 if args.quick else 1024}
    methods = {
        f"kronsgd, γ = {scale:g}": make_method("kronsgd", {**params, "output_scale": scale}, []) for scale in (0.03, 0.1, 1.0)
    }
    methods["tangent-kernel ridge"] = make_method("tangent-ridge", params, [])
    curves = learning_curve(X, y, teacher(X)[:, 0], sizes, methods, n_test)
    best, ridge = curves["kronsgd, γ = 0.03"][-1], curves["tangent-kernel ridge"][-1]
    print(f"at {sizes[-1]:,} rows: γ = 0.03 {best:.3f}, tangent-kernel ridge {ridge:.3f} ({ridge / best:.1f} times)")
    picture(args.out / "feature_learning.png", lambda axes: draw_curves(axes, sizes, curves, "Learning features"))


if __name__ == "__main__":
    main()
