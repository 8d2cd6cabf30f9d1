"""Crosses of table columns: (1 + X) ** 2 beside boosting, SVM and linear models on scikit-learn's own tables.

    python examples/crosses.py      # about two minutes on two cores; --quick: seconds

Given a plain array, the estimators stand on all pairwise products of its columns, which are never built. Every method has
the same folds and chooses its settings inside the training rows. California housing and forest cover (its first 4,000 rows)
join in if scikit-learn has them in its cache; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.datasets import fetch_california_housing, fetch_covtype, load_breast_cancer, load_diabetes, load_wine

from _shared import BLUE, GREEN, GREY, ORANGE, arguments, picture
from kronsgd.compare import Fold, random_folds
from kronsgd.compare.methods import make_method
from kronsgd.compare.selection import chosen_setting, scores

METHODS = {"kronsgd, (1 + X) ** 2": "kronsgd", "boosting": "boosting", "SVM": "svm", "linear": "linear"}
COLORS = (BLUE, ORANGE, GREEN, GREY)
MOST_ROWS = 4000


def tables() -> dict[str, tuple[Any, Any, int]]:
    """Name -> (X, y, number of classes, 0 for regression)."""
    out = {"diabetes": (*load_diabetes(return_X_y=True), 0), "breast cancer": (*load_breast_cancer(return_X_y=True), 2),
           "wine": (*load_wine(return_X_y=True), 3)}  # fmt: skip
    cached = {"california housing": (fetch_california_housing, 0), "forest cover": (fetch_covtype, 7)}
    for name, (fetch, n_classes) in cached.items():
        try:
            X, y = fetch(return_X_y=True, download_if_missing=False)
        except OSError:
            print(f"{name}: left out, because scikit-learn has not cached it")
            continue
        rows = np.random.default_rng(0).permutation(len(y))[:MOST_ROWS]
        out[name] = X[rows], (np.unique(y, return_inverse=True)[1] if n_classes else y)[rows], n_classes
    return out


def mean_score(kind: str, folds: list[Fold], quick: bool) -> float:
    """Mean accuracy or R² over the folds."""
    found = []
    for fold in folds:
        method = make_method(kind, {"n_hidden": 64} if quick else {}, [{}])
        setting = method.settings[0] if quick else chosen_setting(method, fold)
        (prediction,) = method.predict(fold, [setting], 0)
        found.append(scores(fold, prediction)["accuracy" if fold.n_classes else "r2"])
    return float(np.mean(found))


def main() -> None:
    args = arguments(__doc__)
    results: dict[str, list[float]] = {}
    for name, (X, y, n_classes) in tables().items():
        folds = random_folds(X, y, n_classes, n_folds=2 if args.quick else 5, n_inner=2)
        kinds = {label: kind for label, kind in METHODS.items() if not (args.quick and kind == "boosting")}
        results[name] = [mean_score(kind, folds, args.quick) for kind in kinds.values()]
        cells = "   ".join(f"{label} {value:.3f}" for label, value in zip(kinds, results[name], strict=True))
        print(f"{name} ({len(y):,} × {X.shape[1]}, {'accuracy' if n_classes else 'R²'}):   {cells}")

    def draw(axes: Any) -> None:
        for k, (label, color) in enumerate(zip(kinds, COLORS, strict=False)):
            place = np.arange(len(results)) + 0.2 * (k - (len(kinds) - 1) / 2)
            axes.bar(place, [values[k] for values in results.values()], 0.19, label=label, color=color)
        axes.set_xticks(range(len(results)), results)
        axes.set(title="Crosses of table columns", ylabel="R² (diabetes), accuracy; new rows", ylim=(0, 1.18))
        axes.legend(frameon=False, ncols=2, fontsize=9, loc="upper left")

    picture(args.out / "crosses.png", draw, width=7.5)


if __name__ == "__main__":
    main()
