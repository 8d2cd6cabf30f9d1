"""Drug–target affinity: a kernel of drugs ⊗ a kernel of proteins, beside ridge on the same pairs.

    python examples/affinity.py                           # planted drugs and proteins, about a minute; --quick: seconds
    python examples/affinity.py --setting "new drugs"     # or "new proteins", "both new": no test pair's drug is in training
    python examples/affinity.py --data davis/             # the Davis set, in the layout of github.com/hkmztrk/DeepDTA

Measured pairs are a part of all; the others are predicted. On Davis the published test list is scored (with entities held out,
RLScore's split), and settings are chosen on the last of the five training folds. The picture shows predicted against
measured affinities.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

import kronsgd as ks
from _shared import BLUE, arguments, loaded, picture
from kronsgd.compare import Fold, folds_of_problem
from kronsgd.compare.methods import make_method
from kronsgd.compare.selection import chosen_setting, scores
from kronsgd.datasets import Problem, load_davis
from kronsgd.metrics import concordance_index
from kronsgd.model_selection import PairShuffleSplit

SETTINGS = {  # what is new in the test: its name for pairs of any kind, and the Davis set's split
    "pairs": ("pairs", "setting1"), "new drugs": ("new rows", "drugs"), "new proteins": ("new columns", "proteins"),
    "both new": ("both new", "both"),
}  # fmt: skip


def planted(n_drugs: int, n_proteins: int, n_pairs: int, setting: str) -> Problem:
    """What makes drugs and proteins alike is hidden; their similarities and some affinities are known."""
    rng = np.random.default_rng(0)
    drugs, proteins = (rng.normal(size=(n, 6)) for n in (n_drugs, n_proteins))
    tables = [ks.Kernel(np.exp(-((x[:, None] - x) ** 2).sum(axis=2) / 12)) for x in (drugs, proteins)]
    cells = rng.permutation(n_drugs * n_proteins)[:n_pairs]
    i, j = np.divmod(cells, n_proteins)
    fit = np.maximum(drugs[i] @ rng.normal(size=(6, 6)) * proteins[j], 0).sum(axis=1)
    y = 5 + np.maximum(fit / fit.std() - 1, 0) + 0.1 * rng.normal(size=n_pairs)
    X = tables[0][i] * tables[1][j]
    train, test = next(PairShuffleSplit(1, setting, train_size=0.8, random_state=0).split(X))
    return Problem(X[train], y[train], X[test], y[test], name="planted")


def davis(folder: str, split: str) -> Problem:
    """Similarities as `benchmarks/davis.toml` has them."""
    return load_davis(folder, fingerprints=2.0, names=0.2, split=split)


def one_fold(problem: Problem) -> Fold:
    """Training and test rows, with one inner part to choose settings on."""
    (fold,) = folds_of_problem(problem, n_inner=5)
    return Fold(fold.X, fold.y, fold.X_test, fold.y_test, 0, fold.inner[-1:])


def main() -> None:
    args = arguments(__doc__, data="folder of the Davis set", setting=f"what is new in the test: {', '.join(SETTINGS)}")
    if (args.setting or "pairs") not in SETTINGS:
        raise SystemExit(f"error: --setting {args.setting!r} is none of {', '.join(map(repr, SETTINGS))}.")
    setting, split = SETTINGS[args.setting or "pairs"]
    sizes = (10, 20, 150) if args.quick else (60, 150, 6000)
    problem = loaded(lambda folder: davis(folder, split), args.data) if args.data else planted(*sizes, setting)
    fold = one_fold(problem)
    print(problem)
    params: dict[str, Any] = {"n_hidden": 64} if args.quick else {"n_hidden": 1024, "max_iter": 20}
    grid = [{"output_scale": scale} for scale in ((0.1,) if args.quick else (0.1, 0.2))]
    best: Any = None
    for name, kind in {"kronsgd": "kronsgd", "Kronecker kernel ridge": "kronecker-ridge"}.items():
        method, started = make_method(kind, params, grid), time.perf_counter()
        chosen = chosen_setting(method, fold)
        (prediction,) = method.predict(fold, [chosen], 0)
        reached, ci = scores(fold, prediction), concordance_index(fold.y_test, prediction.values)
        print(f"{name:24} mean squared error {reached['mse']:.4f}, concordance index {ci:.4f}, {chosen} "
              f"({time.perf_counter() - started:.1f} s)")  # fmt: skip
        best = prediction if best is None else best

    def draw(axes: Any) -> None:
        axes.scatter(fold.y_test, best.values, s=8, alpha=0.4, color=BLUE, linewidths=0)
        ends = [fold.y_test.min(), fold.y_test.max()]
        axes.plot(ends, ends, color="#555555", linewidth=1, linestyle="--")
        axes.set(title=f"kronsgd on {problem.name} pairs", xlabel="measured affinity", ylabel="predicted affinity")

    picture(args.out / "affinity.png", draw)


if __name__ == "__main__":
    main()
