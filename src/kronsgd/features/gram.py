"""Panels of inner products between the training rows and a batch, at a cost free of the product's dimension."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.buffers import Buffers
from kronsgd.features.base import Features, Power, Sum
from kronsgd.features.grouping import Combination, Group, group_by_index, groups, product_groups
from kronsgd.features.growth import added_rows, regrouped, starts_with
from kronsgd.growing import Growing
from kronsgd.kernels import panels, products
from kronsgd.validation import check_count

__all__ = ["RowGram", "inverse_norms", "tiled"]

Array = NDArray[Any]
CACHE_BYTES = 1 << 30  # most memory for inner products between entities kept over a whole training


def inverse_norms(features: Features, normalize: bool) -> Array:
    """1/‖x_i‖ for each row (1 for a row of zeros, or where rows are not normalised). Shape: (n,), float64."""
    if not normalize:
        return np.ones(features.n_rows)
    norms = np.sqrt(np.maximum(features.squared_norms(), 0))
    if not np.isfinite(norms.sum()):
        k = int(np.argmin(np.isfinite(norms)))
        raise ValueError(
            f"row {k} of {features.expression()} has a norm beyond what floating point holds; scale its tables, or leave "
            "normalize=True to them."
        )
    return np.asarray(1.0 / np.where(norms == 0, 1.0, norms))


def tiled(array: Array, lanes: int, dtype: Any) -> Array:
    """(n, S) -> (⌈S / lanes⌉, n, lanes), padded with zeros."""
    n, size = array.shape
    n_tiles = -(-size // lanes)
    padded = np.zeros((n, n_tiles * lanes), dtype=dtype)
    padded[:, :size] = array
    return np.ascontiguousarray(padded.reshape(n, n_tiles, lanes).transpose(1, 0, 2))


class RowGram:
    """Inner products of unit-norm training rows with batches of training rows or of new rows.

    Inner products between entities are computed once and kept while they fit in CACHE_BYTES; a panel then costs n·S
    gathers and multiplications for each factor, whatever the dimensions.
    """

    def __init__(self, features: Features, dtype: Any, normalize: bool = True) -> None:
        self.dtype, self.normalize = np.dtype(dtype), normalize
        self.caching = True  # False where rows come once: inner products between entities are then made for each panel
        self._build(features)

    def _build(self, features: Features) -> None:
        norms = inverse_norms(features, self.normalize)
        self._norms, self._scales = Growing(norms), Growing(norms.astype(self.dtype))
        self._set_rows(features, group_by_index(features))
        self._lay_out([group.n_entities for group in self._product])

    def _set_rows(self, features: Features, tree: Group | Combination) -> None:
        self.features, self._tree = features, tree
        self._position = {id(leaf): i for i, leaf in enumerate(features.leaves())}
        self._index = {id(g): np.arange(g.n_entities) if g.index is None else g.index for g in groups(tree)}
        self._product = product_groups(tree)  # these are multiplied in one pass over the rows
        self._cached: dict[int, Array | None] = {}  # group -> inner products of its entities; None: made on first use
        left = CACHE_BYTES
        for group in sorted(groups(tree), key=lambda g: g.n_entities):
            left -= group.n_entities**2 * self.dtype.itemsize
            if left >= 0:
                self._cached[id(group)] = None

    def _lay_out(self, room: list[int]) -> None:
        """Where each group's entities lie in the stack of all, with room for so many of each."""
        check_count("entities of all tables", sum(room), "give tables without the entities that no row has")
        self._room, self._stack_starts = room, np.cumsum([0, *room])[:-1]
        self._stack_index = Growing(self._stacked_rows(slice(None)))

    def _stacked_rows(self, rows: slice) -> Array:
        """Places of the rows' entities in the stack. Shape: (rows, groups), int32."""
        indices = [self._index[id(g)][rows] + start for g, start in zip(self._product, self._stack_starts, strict=True)]
        return np.ascontiguousarray(np.array(indices, dtype=np.int32).T)

    def extend(self, features: Features) -> None:
        """Take more rows: `features` starts with those known. Cost: that of the new rows, where tables have grown in place.

        Inner products between entities that were kept are dropped, for each new entity would take as many as there are.
        """
        if features is self.features:
            return
        n = self.n_rows
        leaves = dict(zip(map(id, self.features.leaves()), features.leaves(), strict=True))
        grown = features.n_rows > n and starts_with(features, self.features)
        tree = regrouped(self._tree, leaves, (n, features.n_rows)) if grown else None
        if tree is None:
            self._build(features)
            return
        self._set_rows(features, tree)
        norms = inverse_norms(added_rows(features, n), self.normalize)
        self._norms.append(norms)
        self._scales.append(norms.astype(self.dtype))
        sizes = [group.n_entities for group in self._product]
        if all(size <= room for size, room in zip(sizes, self._room, strict=True)):
            self._stack_index.append(self._stacked_rows(slice(n, None)))
        else:
            self._lay_out([2 * size for size in sizes])

    @property
    def inverse_norms(self) -> Array:
        """1/‖x_j‖ of each row. Shape: (n,), float64."""
        return self._norms.array

    def _entity_gram(self, group: Group) -> Array:
        gram = self._cached[id(group)]
        if gram is None:
            whole = group.node.evaluate(lambda leaf: leaf.entity_inner(leaf, slice(None), slice(None)))
            gram = np.ascontiguousarray(np.broadcast_to(whole, (group.n_entities,) * 2), dtype=self.dtype)
            self._cached[id(group)] = gram
        return gram

    def __reduce__(self) -> tuple[Any, ...]:
        return RowGram, (self.features, self.dtype, self.normalize)

    @property
    def n_rows(self) -> int:
        """Number of training rows."""
        return self.features.n_rows

    @property
    def tree(self) -> Group | Combination:
        """How inner products of rows are made of those of groups of entities."""
        return self._tree

    def kept(self, group: Group) -> Array | None:
        """Inner products between all entities of a group, where they are kept. Shape: (E, E)."""
        return self._entity_gram(group) if self.caching and id(group) in self._cached else None

    def entity_values(self, group: Group, rows: NDArray[np.int64], new: Features | None = None) -> Array:
        """Inner products of a group's entities with those of some rows of `new`, or of the training rows, made anew.

        Shape: (E, S), in the tables' own precision; not to be written to.
        """
        others = list((self.features if new is None else new).leaves())

        def value(leaf: Any) -> Array:
            other = others[self._position[id(leaf)]]
            return leaf.entity_inner(other, slice(None), rows if other.index is None else other.index[rows])

        return np.broadcast_to(group.node.evaluate(value), (group.n_entities, len(rows)))

    def panel(
        self, rows: NDArray[np.int64], lanes: int, new: Features | None = None, buffers: Buffers | None = None
    ) -> Array:
        """⟨x_j, x'_s⟩ for every training row j and the given rows of `new` (None: of the training rows themselves).

        Shape: (⌈S / lanes⌉, n, lanes), in memory of `buffers`. Cost: n·S per factor, and |entities|·S·(its dimension)
        where not cached.
        """
        n_tiles, buffers = -(-len(rows) // lanes), buffers or Buffers()
        out = buffers.take("panel", (n_tiles, self.n_rows, lanes), self.dtype)
        if self._product:
            stack = self._stack(rows, lanes, new, buffers)
            products.panel_tiles(out, stack, self._stack_index.array, self._scales.array)
            return out
        self._fill(self._tree, out, rows, new)
        panels.power_scale(out, 1, self._scales.array, self._column_scale(rows, lanes, new)[:, 0])
        return out

    def tiles(
        self, rows: NDArray[np.int64], lanes: int, new: Features | None = None, buffers: Buffers | None = None
    ) -> Iterator[Array]:
        """The tiles of `panel` one after the other, each in the same memory for a product. Shape: (n, lanes) each."""
        if not self._product:
            yield from self.panel(rows, lanes, new, buffers)
            return
        buffers = buffers or Buffers()
        for entities in self._stack(rows, lanes, new, buffers):
            out = buffers.take("panel", (1, self.n_rows, lanes), self.dtype)
            products.panel_tiles(out, entities[None], self._stack_index.array, self._scales.array)
            yield out[0]

    def _column_scale(self, rows: NDArray[np.int64], lanes: int, new: Features | None) -> Array:
        norms = self.inverse_norms[rows] if new is None else inverse_norms(new[rows], self.normalize)
        return tiled(norms[None, :], lanes, self.dtype)  # (tiles, 1, lanes)

    def _stack(self, rows: NDArray[np.int64], lanes: int, new: Features | None, buffers: Buffers) -> Array:
        """Inner products of the entities of a product's factors with those of the batch. Shape: (tiles, room, lanes)."""
        stack = buffers.take("entity panels", (-(-len(rows) // lanes), sum(self._room), lanes), self.dtype)
        for group, start in zip(self._product, self._stack_starts, strict=True):
            self._entity_panel(group, rows, new, stack[:, start : start + group.n_entities])
        stack[:, : self._product[0].n_entities] *= self._column_scale(rows, lanes, new)
        return stack

    def _fill(self, tree: Group | Combination, out: Array, rows: NDArray[np.int64], new: Features | None) -> None:
        if isinstance(tree, Group):
            entities = np.empty((out.shape[0], tree.n_entities, out.shape[2]), dtype=self.dtype)
            panels.set_rows(out, self._entity_panel(tree, rows, new, entities), self._index[id(tree)])
            return
        self._fill(tree.parts[0], out, rows, new)
        if isinstance(tree.node, Power):
            ones = np.ones((out.shape[0], out.shape[2]), dtype=self.dtype)
            panels.power_scale(out, tree.node.parameter, np.ones(out.shape[1], dtype=self.dtype), ones)
        accumulate = panels.add_rows if isinstance(tree.node, Sum) else panels.multiply_rows
        for part in tree.parts[1:]:
            if isinstance(part, Group):
                entities = np.empty((out.shape[0], part.n_entities, out.shape[2]), dtype=self.dtype)
                accumulate(out, self._entity_panel(part, rows, new, entities), self._index[id(part)])
            else:
                inner = np.empty_like(out)
                self._fill(part, inner, rows, new)
                accumulate(out, inner, np.arange(out.shape[1]))

    def _entity_panel(self, group: Group, rows: NDArray[np.int64], new: Features | None, out: Array) -> Array:
        """Inner products of the group's entities with those of the batch. Shape: out (tiles, entities, lanes)."""
        gram = self.kept(group) if new is None else None
        if gram is not None:
            panels.copy_columns(out, gram, group.entity_rows(rows))
            return out
        out[:] = tiled(self.entity_values(group, rows, new), out.shape[2], self.dtype)
        return out
