"""Scores of predictions for pairs: errors, correlations, the order of all pairs, and the partners of each entity.

Those of the last kind take the entity of each row, such as its drug or its user, and average over the entities for which they
are defined, each of which counts the same: a model that only knows which drugs bind well at all scores 0.5 by
`per_entity(concordance_index, …)`, however well it orders all pairs together.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kronsgd.validation import check_finite, check_integer, check_real

__all__ = [
    "aupr_score", "concordance_index", "hit_rate_at_k", "mean_absolute_error", "ndcg_at_k", "pearson_correlation", "per_entity",
    "precision_at_k", "rm2_score", "root_mean_squared_error", "spearman_correlation",
]  # fmt: skip

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
    y_true, y_pred = _varied(y_true, y_pred)
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


def root_mean_squared_error(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """√ mean (y − ŷ)², in the units of y. Shape: (n,) each."""
    y_true, y_pred = _checked(y_true, y_pred)
    return float(np.sqrt(np.mean((y_true - y_pred) ** 2)))


def mean_absolute_error(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Mean |y − ŷ|, in the units of y. Shape: (n,) each."""
    y_true, y_pred = _checked(y_true, y_pred)
    return float(np.mean(np.abs(y_true - y_pred)))


def pearson_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Correlation of targets and predictions. Shape: (n,) each. ValueError when either is constant."""
    return _correlation("pearsonr", *_varied(y_true, y_pred))


def spearman_correlation(y_true: ArrayLike, y_pred: ArrayLike) -> float:
    """Correlation of ranks, those of ties averaged. Shape: (n,) each. ValueError when either is constant."""
    return _correlation("spearmanr", *_varied(y_true, y_pred))


def per_entity(
    score: Callable[[Array, Array], float], y_true: ArrayLike, y_pred: ArrayLike, entities: ArrayLike
) -> float:
    """Mean of `score(y_true, y_pred)` over the rows of each entity; entities for which it raises ValueError are left out.

    Shape: (n,) each. Raises ValueError when no entity has a score, such as a concordance index with a single row.
    """
    values = []
    for own_true, own_pred in _by_entity(y_true, y_pred, entities):
        try:
            values.append(score(own_true, own_pred))
        except ValueError:  # not defined for these rows
            continue
    if not values:
        raise ValueError(f"{getattr(score, '__name__', score)} is defined for no entity; it needs more rows for each of them.")
    return float(np.mean(values))


def hit_rate_at_k(relevant: ArrayLike, y_pred: ArrayLike, entities: ArrayLike, k: int = 10) -> float:
    """Share of the entities with at least one relevant row among their k best-scored, of entities that have relevant rows.

    relevant (n,): true or false for each row. Of rows with tied scores the chance of a hit is counted.
    """
    return _at_k(relevant, y_pred, entities, k, _hit_chance)


def precision_at_k(relevant: ArrayLike, y_pred: ArrayLike, entities: ArrayLike, k: int = 10) -> float:
    """Mean share of relevant rows among the k best-scored of each entity (of all its rows, where they are fewer than k).

    relevant (n,): true or false for each row; entities without relevant rows are left out. Tied scores share their places.
    """
    return _at_k(relevant, y_pred, entities, k, _expected_share)


def ndcg_at_k(y_true: ArrayLike, y_pred: ArrayLike, entities: ArrayLike, k: int = 10) -> float:
    """Mean over entities of the discounted gain of the k best-scored rows, relative to that of the best order.

    y_true (n,): gains of at least 0, such as ratings, or 0 and 1; entities whose gains are all 0 are left out. Ties are
    averaged over. Computed by sklearn.metrics.ndcg_score. Source: Järvelin and Kekäläinen 2002, ACM TOIS 20, 422.
    """
    from sklearn.metrics import ndcg_score

    k = check_integer("k", k, 1)
    if np.min(np.asarray(y_true, dtype=np.float64), initial=0) < 0:
        raise ValueError("y_true has negative gains; give gains of at least 0, for example y_true - y_true.min().")

    def gain(own_true: Array, own_pred: Array) -> float:
        if not own_true.any():
            raise ValueError("no gain")
        return 1.0 if len(own_true) == 1 else float(ndcg_score(own_true[None], own_pred[None], k=k))

    return per_entity(gain, y_true, y_pred, entities)


def _at_k(
    relevant: ArrayLike, y_pred: ArrayLike, entities: ArrayLike, k: int, value: Callable[[int, int, int, int, int], float]
) -> float:
    """Mean of value(places, relevant rows above the ties at the last, rows tied there, relevant ones of them, places left)."""
    k = check_integer("k", k, 1)
    flags = np.asarray(relevant)
    if not np.isin(flags, (0, 1)).all():
        raise ValueError(f"relevant has the value {flags[~np.isin(flags, (0, 1))][0]}; give true or false, such as y > 7.")

    def of_entity(own: Array, scores: Array) -> float:
        if not own.any():
            raise ValueError("nothing is relevant")
        size = min(k, len(own))
        last = -np.partition(-scores, size - 1)[size - 1]
        above, tied = scores > last, scores == last
        return value(size, int(own[above].sum()), int(tied.sum()), int(own[tied].sum()), size - int(above.sum()))

    return per_entity(of_entity, flags, y_pred, entities)


def _expected_share(size: int, sure: int, tied: int, relevant_tied: int, places: int) -> float:
    """Of relevant rows among the first, the tied ones drawn at random."""
    return (sure + places * relevant_tied / tied) / size


def _hit_chance(size: int, sure: int, tied: int, relevant_tied: int, places: int) -> float:
    """That a relevant row is among the first, with so many places drawn from the tied rows."""
    if sure:
        return 1.0
    miss = 1.0
    for drawn in range(places):
        miss *= max(tied - relevant_tied - drawn, 0) / (tied - drawn)
    return 1.0 - miss


def _by_entity(y_true: ArrayLike, y_pred: ArrayLike, entities: ArrayLike) -> list[tuple[Array, Array]]:
    """(y_true, y_pred) of each entity's rows."""
    y_true, y_pred = _checked(y_true, y_pred)
    ids = np.asarray(entities)
    if ids.shape != y_true.shape:
        raise ValueError(f"entities has shape {ids.shape} but y_true has {y_true.shape}; give the entity of each row.")
    codes = np.unique(ids.astype(str) if ids.dtype == object else ids, return_inverse=True)[1]
    order = np.argsort(codes, kind="stable")
    return [(y_true[rows], y_pred[rows]) for rows in np.split(order, np.cumsum(np.bincount(codes))[:-1])]


def _correlation(name: str, y_true: Array, y_pred: Array) -> float:
    import scipy.stats

    return float(getattr(scipy.stats, name)(y_true, y_pred).statistic)


def _varied(y_true: ArrayLike, y_pred: ArrayLike) -> tuple[Array, Array]:
    """Both, checked; ValueError when one of them is constant."""
    y_true, y_pred = _checked(y_true, y_pred)
    for name, y in (("y_true", y_true), ("y_pred", y_pred)):
        if y.min() == y.max():
            raise ValueError(f"all of {name} are {y[0]:g}, so r² is not defined; give at least two different values.")
    return y_true, y_pred


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
