"""A planted interaction between two sides: product features beside models that see the two vectors side by side.

    python -m benchmarks.run baselines
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import KFold
from sklearn.neural_network import MLPRegressor

import kronsgd as ks
from benchmarks.common import report
from kronsgd.datasets import make_kron_teacher

ROWS, DIMS, ENTITIES, NEURONS, NOISE, M = 12_000, (12, 12), 300, 8, 0.1, 2048
PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
MLP: dict[str, Any] = {"hidden_layer_sizes": (256, 256), "early_stopping": True, "n_iter_no_change": 20, "max_iter": 300,
                       "random_state": 0}  # fmt: skip
Array = NDArray[Any]


class KroneckerRidge:
    """Kernel ridge on pairs by conjugate gradients: α solves (R (K ⊗ L) Rᵀ + λI) α = y − mean(y).

    The pair kernel is never built: a product with it is two products of entity kernels around a sparse grid.
    Cost of an iteration: |left|·nnz + |left|·|right|·|right|.
    """

    def __init__(self, left: Array, right: Array, penalty: float) -> None:
        self.left, self.right, self.penalty = left, right, penalty

    def _scores(self, coefficients: Array) -> Array:
        grid = sp.coo_array((coefficients, self.pairs), shape=(len(self.left), len(self.right))).tocsr()
        return np.asarray((grid.T @ self.left).T @ self.right)  # left is symmetric

    def fit(self, pairs: tuple[Array, Array], y: Array) -> KroneckerRidge:
        """pairs: (left, right) entity of each row."""
        self.pairs, self.mean = pairs, float(y.mean())
        system = LinearOperator((len(y), len(y)), lambda v: self._scores(v.ravel())[pairs] + self.penalty * v.ravel())
        self.coefficients, failed = cg(system, y - self.mean, rtol=1e-8, maxiter=5000)
        if failed:
            warnings.warn(f"conjugate gradients stopped after {failed} iterations; use a larger penalty.", stacklevel=2)
        return self

    def predict(self, pairs: tuple[Array, Array]) -> Array:
        """Scores of pairs of the same entities."""
        return self._scores(self.coefficients)[pairs] + self.mean


def check_ridge() -> float:
    """Against a direct solution with the explicit pair kernel, duplicates included. Largest difference; asserts 1e-6."""
    rng = np.random.default_rng(0)
    left, right = (np.cov(rng.normal(size=(k, 20))) for k in (7, 9))
    i, j, y = rng.integers(7, size=100), rng.integers(9, size=100), rng.normal(size=100)
    kernel = left[np.ix_(i, i)] * right[np.ix_(j, j)]
    expected = kernel @ np.linalg.solve(kernel + 0.1 * np.eye(100), y - y.mean()) + y.mean()
    difference = float(np.abs(KroneckerRidge(left, right, 0.1).fit((i, j), y).predict((i, j)) - expected).max())
    assert difference < 1e-6, difference
    return difference


def best_ridge(left: Array, right: Array, pairs: tuple[Array, Array], y: Array) -> KroneckerRidge:
    """Penalty by five folds, then all rows."""

    def error(penalty: float) -> float:
        errors = []
        for kept, held in KFold(5, shuffle=True, random_state=0).split(y):
            model = KroneckerRidge(left, right, penalty).fit((pairs[0][kept], pairs[1][kept]), y[kept])
            errors.append(np.mean((model.predict((pairs[0][held], pairs[1][held])) - y[held]) ** 2))
        return float(np.mean(errors))

    return KroneckerRidge(left, right, min(PENALTIES, key=error)).fit(pairs, y)


def contestants(X: Any, y: Array, train: Array, test: Array) -> dict[str, Callable[[], Array]]:
    """Name -> a function that fits on the training rows and predicts the test rows."""
    left, right = X.leaves()
    grams = [leaf.array @ leaf.array.T for leaf in (left, right)]
    beside = np.hstack([leaf.array[leaf.index] for leaf in (left, right)])

    def pairs(rows: Array) -> tuple[Array, Array]:
        return left.index[rows], right.index[rows]

    def plain(model: Any) -> Callable[[], Array]:
        return lambda: model.fit(beside[train], y[train]).predict(beside[test])

    return {
        "kronsgd, a * b": lambda: ks.KronRegressor(M, random_state=0).fit(X[train], y[train]).predict(X[test]),
        "Kronecker ridge, a * b, conjugate gradients": lambda: best_ridge(*grams, pairs(train), y[train]).predict(pairs(test)),
        "Kronecker ridge, (1 + a) ** 2 * (1 + b) ** 2":
            lambda: best_ridge(*((1 + g) ** 2 / 4 for g in grams), pairs(train), y[train]).predict(pairs(test)),
        "HistGradientBoostingRegressor, [a, b]": plain(HistGradientBoostingRegressor(max_iter=500, random_state=0)),
        "MLPRegressor((256, 256)), [a, b]": plain(MLPRegressor(**MLP)),
    }  # fmt: skip


def main() -> None:
    """A quarter of the rows is held out; noise sets the smallest possible error."""
    difference = check_ridge()
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
           f"in the seconds; agrees with a direct solution to {difference:.1g}.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.barh([row["model"] for row in rows], [row["relative error against the noiseless truth"] for row in rows])
    axes.set(xlabel="mean squared error / variance, held-out pairs")
    axes.invert_yaxis()
