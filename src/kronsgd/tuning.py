"""Which features to train on: kernel ridge on a grid of pairs as a quick judge of feature expressions.

A network that learns still starts from its factors' inner products, so that what is wrong with them costs a kernel method
and the network alike. Ridge takes seconds where a training takes a minute: try powers, widths, and sums of similarities
with weights by ridge, and train on the best few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import LinearOperator, cg

from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.sides import Side, Sides
from kronsgd.validation import as_index, check_finite, check_real

__all__ = ["PairRidge", "RidgeScore", "compare_features"]

Array = NDArray[Any]
Index = NDArray[np.int64]
TOLERANCE = 1e-5  # relative residual of conjugate gradients: scores are given to four digits
MOST_STEPS = 2000
PENALTIES = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class RidgeScore:
    """A mean squared error on held-out rows, and the penalty that it belongs to."""

    error: float
    penalty: float


class PairRidge:
    """Kernel ridge regression on rows of a product over two sides, such as `A[i] * B[j]`, each scaled to norm 1.

    A product with the kernel of n pairs is two products of small matrices (the vec trick; Airola and Pahikkala 2018,
    arXiv 1601.01507): n1·n2·(n1 + n2) flops on a grid of n1 × n2 entities, and n² numbers are never held.
    Raises ValueError where X is no such product.
    """

    def __init__(self, X: Features) -> None:
        self._inner, self._outer = Sides.of(X).split(X)
        self._a, self._b = _gram(self._inner), _gram(self._outer)

    def predict(self, train: Index, y: Array, penalty: float, rows: Index) -> Array:
        """Scores of `rows` after fitting to targets y of the rows `train`. Shapes: (n,), (n,), (n',). Returns (n',)."""
        mean, seen, wanted = y.mean(), self._cells(train), self._cells(rows)

        def product(coefficients: Array) -> Array:
            return self._spread(coefficients, seen)[seen] + penalty * coefficients

        solution, _ = cg(LinearOperator((len(y), len(y)), matvec=product), y - mean, rtol=TOLERANCE, maxiter=MOST_STEPS)
        return np.asarray(self._spread(solution, seen)[wanted] + mean)

    def _cells(self, rows: Index) -> tuple[Index, Index]:
        return self._inner.entity[rows], self._outer.entity[rows]

    def _spread(self, coefficients: Array, cells: tuple[Index, Index]) -> Array:
        """K_A · C · K_B on the whole grid, with the coefficients in their cells. Shape: (n1, n2)."""
        shape = len(self._a), len(self._b)
        number = np.ravel_multi_index(cells, shape)  # a pair that was measured twice adds up
        grid = np.bincount(number, coefficients, minlength=shape[0] * shape[1])
        return np.asarray(self._a @ grid.reshape(shape) @ self._b)

    def score(self, y: Array, folds: Sequence[Index], penalties: Sequence[float] = PENALTIES) -> RidgeScore:
        """The penalty with the least mean squared error over `folds`, row numbers that are held out in turn."""
        rows, errors = np.arange(len(y)), []
        for penalty in penalties:
            each = []
            for held in folds:
                kept = np.setdiff1d(rows, held)
                each.append(np.mean((self.predict(kept, y[kept], penalty, held) - y[held]) ** 2))
            errors.append(float(np.mean(each)))
        best = int(np.argmin(errors))
        return RidgeScore(errors[best], penalties[best])


def compare_features(
    candidates: Mapping[str, Features], y: ArrayLike, folds: Sequence[ArrayLike], penalties: Sequence[float] = PENALTIES
) -> dict[str, RidgeScore]:
    """The ridge score of every candidate on the same folds, best first; min(...) is the features to begin with.

    candidates: expressions for the same n rows, each a product over two sides; y (n,): targets; folds: row numbers of the
    training rows that are held out in turn; penalties: of ridge, in units of a row's squared norm of 1.
    Cost: a conjugate gradient of some hundred steps for each candidate, fold and penalty.

        found = compare_features({p: Kernel(S**p, psd="clip")[i] * B[j] for p in (0.5, 1, 2)}, y, folds)
    """
    if not candidates:
        raise ValueError("there are no candidates to compare; give at least one feature expression by name.")
    targets = np.asarray(y, dtype=np.float64)
    check_finite("y", targets)
    checked = [check_real("penalty", penalty, 0, open_low=True) for penalty in penalties]
    for name, X in candidates.items():
        if targets.shape != (len(X),):
            raise ValueError(f"candidate {name!r} has {len(X)} rows but y has shape {targets.shape}; give one number per row.")
    held = [np.unique(as_index("fold", fold, len(targets))) for fold in folds]
    if not held or not checked or not all(0 < len(fold) < len(targets) for fold in held):
        raise ValueError(f"every fold must hold out some of the {len(targets)} rows and leave some, at one penalty or more.")
    scores = {name: PairRidge(X).score(targets, held, checked) for name, X in candidates.items()}
    return dict(sorted(scores.items(), key=lambda item: item[1].error))


def _gram(side: Side) -> Array:
    """Inner products between a side's entities, each scaled to norm 1. Shape: (entities, entities)."""
    scale = inverse_norms(side.node, normalize=True)
    return np.asarray(side.node.inner() * scale[:, None] * scale, dtype=np.float64)
