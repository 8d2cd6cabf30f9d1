"""Text ⊗ audio ⊗ video: a target that depends on how three sources agree, and on none of them alone.

    python examples/fusion.py            # about two minutes on two cores; --quick: seconds

The rows are planted: each pairs a text, an audio track and a video, and a few neurons on the product of the three give the
target. kronsgd trains on the product without building it. An MLP sees the three side by side; tangent-kernel ridge sees the
same product, but cannot learn which of its directions matter. All settings are chosen inside the training rows.
"""

from __future__ import annotations

from _shared import arguments, draw_curves, learning_curve, picture
from kronsgd.compare.methods import make_method
from kronsgd.datasets import make_kron_teacher


def main() -> None:
    args = arguments(__doc__)
    sizes, dims, n_test = ([100, 200], (3, 3, 3), 100) if args.quick else ([250, 500, 1000, 2000], (6, 6, 6), 1000)
    X, y, teacher = make_kron_teacher(sizes[-1] + n_test, dims, n_neurons=4, noise=0.1, random_state=0, n_entities=100)
    print(f"text ⊗ audio ⊗ video: {X}")
    params = {"n_hidden": 64 if args.quick else 1024}
    grid = [{"output_scale": scale} for scale in ((0.1,) if args.quick else (0.1, 0.03))]
    methods = {
        "kronsgd on text ⊗ audio ⊗ video": make_method("kronsgd", params, grid),
        "tangent-kernel ridge, same product": make_method("tangent-ridge", params, []),
        "MLP on [text, audio, video]": make_method("mlp", {}, []),
    }
    if args.quick:
        methods.pop("MLP on [text, audio, video]")
    curves = learning_curve(X, y, teacher(X)[:, 0], sizes, methods, n_test)
    mine, *others = (curve[-1] for curve in curves.values())
    print(f"at {sizes[-1]:,} rows: kronsgd {mine:.3f}, best of the others {min(others):.3f} ({min(others) / mine:.1f} times)")
    picture(args.out / "fusion.png", lambda axes: draw_curves(axes, sizes, curves, "Three-way fusion"))


if __name__ == "__main__":
    main()
