"""Scores of predicted affinities: concordance index, r_m², and the area under the precision-recall curve."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kronsgd.validation import check_finite, check_real

__all__ = ["aupr_score", "concordance_index", "rm2_score"]

Array = NDArray[Any]


def concordance_index(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Over the pairs with different y_true, the mean of 1 (predicted in the right order), 0.5 (tied predictions), 0.

    Shape: (n,) each. Cost: O(n log n). Raises ValueError when all y_true are equal, so that no pair can be compared.
    Source: Gönen and Heller 2005, Biometrika 92, 965.
    """
    y_true, y_pred = _checked(y_true, y_pred)
    true_ranks, pred_ranks = _ranks(y_true), _ranks(y_pred)
    n = len(y_true)
    comparable = n * (n - 1) // 2 - _tied_pairs(true_ranks)
    if comparable == 0:
        raise ValueError("all of y_true are equal, so no pair can be compared; give at least two different targets.")
    # Within equal y_true predictions descend, so that no pair of equal y_true is counted as ascending.
    concordant = _ascending_pairs(pred_ranks[np.lexsort((-pred_ranks, true_ranks))])
    tied = _tied_pairs(pred_ranks) - _tied_pairs(true_ranks * n + pred_ranks)
    return (concordant + 0.5 * tied) / comparable


def rm2_score(y_true: ArrayLike, y_pred: ArrayLike, *, squared: bool = False) -> float:
    """r_m² = r² (1 − √|r² − r₀²|), with r² the squared correlation and r₀² that of the line through the origin.

    r₀² = 1 − Σ(y − k ŷ)² / Σ(y − ȳ)², k = Σ y ŷ / Σ ŷ². Shape: (n,) each. `squared`: √|(r²)² − (r₀²)²| in place of
    √|r² − r₀²|; the code published with DeepDTA computes this, and so do most scores reported since.
    Raises ValueError when y_true or y_pred is constant. Source: Roy et al. 2013, J. Comput. Chem. 34, 1071.
    """
    y_true, y_pred = _checked(y_true, y_pred)
    for name, y in (("y_true", y_true), ("y_pred", y_pred)):
        if y.min() == y.max():
            raise ValueError(f"all of {name} are {y[0]:g}, so r² is not defined; give at least two different values.")
    y, p = y_true - y_true.mean(), y_pred - y_pred.mean()
    total = float(y @ y)
    r2 = float(y @ p) ** 2 / (total * float(p @ p))
    residual = y_true - y_pred * (float(y_true @ y_pred) / float(y_pred @ y_pred))
    r02 = 1 - float(residual @ residual) / total
    gap = r2**2 - r02**2 if squared else r2 - r02
    return float(r2 * (1 - np.sqrt(abs(gap))))


def aupr_score(y_true: ArrayLike, y_pred: ArrayLike, threshold: float = 7.0) -> float:
    """Area under the precision-recall curve of finding y_true > threshold by y_pred, as average precision.

    Shape: (n,) each. Raises ValueError when y_true lies on one side of the threshold. Computed by
    sklearn.metrics.average_precision_score: a sum over steps, which does not flatter as interpolation does.
    """
    from sklearn.metrics import average_precision_score

    y_true, y_pred = _checked(y_true, y_pred)
    positive = y_true > check_real("threshold", threshold, -np.inf)
    if positive.all() or not positive.any():
        raise ValueError(
            f"y_true from {y_true.min():g} to {y_true.max():g} lies on one side of threshold={threshold:g}; choose a "
            "threshold between these."
        )
    return float(average_precision_score(positive, y_pred))


def _checked(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    """Both as finite float64 of the same shape (n,), n ≥ 1."""
    a, b = np.asarray(y_true, dtype=np.float64), np.asarray(y_pred, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or a.size == 0:
        raise ValueError(
            f"y_true has shape {a.shape} and y_pred {b.shape}; give two non-empty 1-D arrays of equal length, for "
            "example with .ravel()."
        )
    for name, array in (("y_true", a), ("y_pred", b)):
        check_finite(name, array)
    return a, b


def _ranks(values: Array) -> NDArray[np.int64]:
    """0 for the smallest value, 1 for the next different one, and so on."""
    return np.unique(values, return_inverse=True)[1].astype(np.int64)


def _tied_pairs(values: NDArray[np.int64]) -> int:
    """Number of pairs with equal values."""
    counts = np.unique(values, return_counts=True)[1].astype(np.int64)
    return int((counts * (counts - 1) // 2).sum())


def _ascending_pairs(ranks: NDArray[np.int64]) -> int:
    """Number of i < j with ranks[i] < ranks[j].

    Such a pair agrees above one bit, where i has 0 and j has 1. From the highest bit down, elements that agree so far
    form a group in their first order; each 1 counts the 0s before it in its group, which then splits into 0s and 1s.
    """
    n, total = len(ranks), 0
    for bit in reversed(range(int(ranks.max()).bit_length())):
        one = (ranks >> bit) & 1
        start = np.flatnonzero(np.diff(ranks >> (bit + 1), prepend=-1))
        sizes = np.diff(start, append=n)
        first = np.repeat(start, sizes)
        zeros_so_far = np.cumsum(1 - one)
        zeros_before = zeros_so_far - (1 - one) - np.repeat((zeros_so_far - (1 - one))[start], sizes)
        total += int(zeros_before[one == 1].sum())
        zeros_in_group = np.repeat(np.add.reduceat(1 - one, start), sizes)
        ones_before = np.arange(n) - first - zeros_before
        place = first + np.where(one == 1, zeros_in_group + ones_before, zeros_before)
        ranks, before = np.empty_like(ranks), ranks
        ranks[place] = before
    return total
