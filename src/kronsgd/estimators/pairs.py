"""Scores of all pairs of two tables, and the best partners of each entity."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.grouping import same_index
from kronsgd.features.known import known_rows
from kronsgd.features.leaf import Leaf
from kronsgd.features.serialize import map_leaves
from kronsgd.validation import check_choice, check_integer

__all__ = ["PairScores", "two_tables"]

Array = NDArray[Any]
BLOCK_ROWS = 1 << 18  # pairs whose scores are computed at once
LEFT_ENTITIES = 4096  # of a block: few enough that it still has a strip of right entities


class PairScores:
    """What a fitted model says of whole tables; an estimator adds `_scores(X)`, one number (or several) for each row."""

    @property
    def features_(self) -> Features:
        """The training rows, as a feature expression."""
        raise NotImplementedError

    def _scores(self, X: Any) -> Array:
        """Predictions of a regressor, decision scores of a classifier. Shape: (n',) or (n', C)."""
        raise NotImplementedError

    def predict_grid(self, X: Features) -> Array:
        """Scores of every left entity with every right one: `predict` for a regressor, else `decision_function`.

        X: an expression over two tables, such as `drugs[i] * proteins[j]`; which rows i, j it has does not matter. Left is
        the table that comes first. Shape: (left entities, right entities) or (left entities, right entities, C).
        """
        left, right = two_tables(X)
        out: Array | None = None
        for rows, columns, scores in self._blocks(X, left, right):
            if out is None:
                out = np.empty((left.n_entities, right.n_entities, *scores.shape[2:]))
            out[rows, columns] = scores
        assert out is not None
        return out

    def top_k(self, X: Features, k: int) -> tuple[Array, Array]:
        """(right entities, scores) of the k best-scored partners of every left entity, best first; see `predict_grid`.

        Holds one block of scores at a time. Shape: (left entities, k) each, or as many columns as there are right entities
        where those are fewer than k: all partners, ranked. Of equal scores the one with the smaller number comes first.
        ValueError for models with several scores for a row.
        """
        left, right = two_tables(X)
        k = min(check_integer("k", k, 1), right.n_entities)
        best = np.full((left.n_entities, k), -np.inf)
        found = np.full((left.n_entities, k), right.n_entities)
        for rows, columns, scores in self._blocks(X, left, right):
            if scores.ndim > 2:
                raise ValueError(f"top_k ranks one score per pair, but the model gives {scores.shape[2]}; use predict_grid.")
            numbers = np.broadcast_to(np.arange(right.n_entities)[columns], scores.shape)
            all_scores, all_numbers = np.hstack([best[rows], scores]), np.hstack([found[rows], numbers])
            order = np.lexsort((all_numbers, -all_scores), axis=1)[:, :k]
            best[rows] = np.take_along_axis(all_scores, order, axis=1)
            found[rows] = np.take_along_axis(all_numbers, order, axis=1)
        return found, best

    def rank(
        self, X: Features, entity: int, k: int = 10, *, side: str = "left", exclude_known: bool = True
    ) -> tuple[Array, Array]:
        """(partners, scores) of the k best-scored partners of one entity, best first; X as for `predict_grid`.

        entity: its row number in the table of its `side`, "left" or "right"; partners are row numbers in the other table.
        exclude_known: leave out pairs that the model was trained on, entities with the same features counting as one. Shape:
        (k,) each, or fewer where fewer partners are left. Equal scores go by number. ValueError as for `top_k`.
        """
        left, right = two_tables(X)
        check_choice("side", side, ["left", "right"])
        own, other = (left, right) if side == "left" else (right, left)
        k, entity = check_integer("k", k, 1), check_integer("entity", entity, 0, own.n_entities - 1)
        alone, partners = np.full(other.n_entities, entity), np.arange(other.n_entities)
        pairs = _pairs(X, left, *((alone, partners) if side == "left" else (partners, alone)))
        if exclude_known:
            partners = np.flatnonzero(~known_rows(self.features_, pairs))
        scores = self._scores(pairs[partners]) if len(partners) else np.empty(0)
        if scores.ndim > 1:
            raise ValueError(f"rank orders one score per pair, but the model gives {scores.shape[1]}; use predict_grid.")
        order = np.lexsort((partners, -scores))[:k]
        return partners[order], scores[order]

    def _blocks(self, X: Features, left: Leaf, right: Leaf) -> Iterator[tuple[slice, slice, Array]]:
        """(left entities, right entities, scores of their pairs), block by block."""
        height = min(left.n_entities, LEFT_ENTITIES)
        width = max(1, BLOCK_ROWS // height)
        for top in range(0, left.n_entities, height):
            rows = slice(top, min(top + height, left.n_entities))
            for start in range(0, right.n_entities, width):
                columns = slice(start, min(start + width, right.n_entities))
                i, j = np.meshgrid(np.arange(rows.start, rows.stop), np.arange(columns.start, columns.stop), indexing="ij")
                pairs = _pairs(X, left, i.ravel(), j.ravel())
                scores = self._scores(pairs)
                yield rows, columns, scores.reshape(*i.shape, *scores.shape[1:])


def two_tables(X: Features) -> tuple[Leaf, Leaf]:
    """A leaf of the left table and one of the right. ValueError unless X is over just two of them."""
    if not isinstance(X, Features):
        raise TypeError(f"expected a feature expression over two tables, such as A[i] * B[j], not {type(X).__name__}.")
    different: list[Leaf] = []
    for leaf in X.leaves():
        if not any(same_index(leaf, known) for known in different):
            different.append(leaf)
    if len(different) != 2:
        raise ValueError(
            f"{X.expression()} has {len(different)} different row indices; all pairs need an expression over two tables, such "
            "as A[i] * B[j]."
        )
    return different[0], different[1]


def _pairs(X: Features, left: Leaf, i: NDArray[np.int64], j: NDArray[np.int64]) -> Features:
    """The same expression over rows of left entities i with right entities j."""
    return map_leaves(X, lambda leaf: leaf.with_index(i if same_index(leaf, left) else j))
