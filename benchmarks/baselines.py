"""A planted interaction between two sides: product features beside models that see the two vectors side by side.

    python -m benchmarks.run baselines
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor

import kronsgd as ks
from benchmarks.common import report
from kronsgd.compare import Fold
from kronsgd.compare.kernel_methods import KroneckerRidge
from kronsgd.compare.selection import chosen_setting
from kronsgd.datasets import make_kron_teacher

ROWS, DIMS, ENTITIES, NEURONS, NOISE, M = 12_000, (12, 12), 300, 8, 0.1, 2048
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MLP: dict[str, Any] = {"hidden_layer_sizes": (256, 256), "early_stopping": True, "n_iter_no_change": 20, "max_iter": 300,
                       "random_state": 0}  # fmt: skip
Array = NDArray[Any]


def best_ridge(X: Any, y: Array, train: Array, test: Array) -> Array:
    """Predictions of the test rows; penalty by five folds of the training rows."""
    inner = tuple(held for _, held in KFold(5, shuffle=True, random_state=0).split(train))
    fold = Fold(X[train], y[train], X[test], y[test], 0, inner)
    method = KroneckerRidge(settings=[{"penalty": penalty} for penalty in PENALTIES])
    return method.predict(fold, [chosen_setting(method, fold)], 0)[0].values


def contestants(X: Any, y: Array, train: Array, test: Array) -> dict[str, Callable[[], Array]]:
    """Name -> a function that fits on the training rows and predicts the test rows."""
    left, right = X.leaves()
    beside = np.hstack([leaf.array[leaf.index] for leaf in (left, right)])

    def plain(model: Any) -> Callable[[], Array]:
        return lambda: model.fit(beside[train], y[train]).predict(beside[test])

    return {
        "kronsgd, a * b": lambda: ks.KronRegressor(M, random_state=0).fit(X[train], y[train]).predict(X[test]),
        "Kronecker ridge, a * b, conjugate gradients": lambda: best_ridge(X, y, train, test),
        "Kronecker ridge, (1 + a) ** 2 * (1 + b) ** 2":
            lambda: best_ridge((1 + left) ** 2 * (1 + right) ** 2, y, train, test),
        "HistGradientBoostingRegressor, [a, b]": plain(HistGradientBoostingRegressor(max_iter=500, random_state=0)),
        "MLPRegressor((256, 256)), [a, b]": plain(MLPRegressor(**MLP)),
    }  # fmt: skip


def main() -> None:
    """A quarter of the rows is held out; noise sets the smallest possible error."""
    X, y, teacher = make_kron_teacher(ROWS, DIMS, NEURONS, NOISE, random_state=0, n_entities=ENTITIES)
    order = np.random.default_rng(0).permutation(ROWS)
    train, test = np.sort(order[ROWS // 4 :]), np.sort(order[: ROWS // 4])
    truth, rows = teacher(X[test])[:, 0], []
    for name, run in contestants(X, y, train, test).items():
        started = time.perf_counter()
        prediction = run()
        rows.append({"model": name, "relative error against the noiseless truth": float(np.mean((prediction - truth) ** 2)
                     / np.var(truth)), "seconds": round(time.perf_counter() - started, 1)})  # fmt: skip
    report("baselines", "A planted interaction of two sides", rows,
           f"{ROWS:,} random pairs of {ENTITIES} entities a side, {DIMS[0]} and {DIMS[1]} columns, labelled by {NEURONS} ReLU "
           f"neurons on the product, noise {NOISE}; a quarter of the pairs held out. Ridge: penalty by five folds, its search "
           "in the seconds.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.barh([row["model"] for row in rows], [row["relative error against the noiseless truth"] for row in rows])
    axes.set(xlabel="mean squared error / variance, held-out pairs")
    axes.invert_yaxis()
