"""Sums of items that are known by their inner products: the items are kept, and every pair of them is evaluated."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from functools import reduce
from itertools import pairwise
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.features.base import Features, Power
from kronsgd.features.kernel_leaves import SpanLeaf
from kronsgd.features.leaf import Array, Leaf
from kronsgd.features.leaves import Sparse
from kronsgd.features.serialize import compress, features_from_state, features_state, map_leaves
from kronsgd.growing import Room
from kronsgd.validation import check_array

__all__ = ["ItemSums", "bag_matrix", "item_width"]

TILE = 1 << 9  # items on either side of a tile of their inner products
BLOCK = 1 << 8  # items of bags whose norms are made at a time


class ItemSums(SpanLeaf):
    """Bags as rows of a weight matrix W over items: inner products are W_A · K · W_Bᵀ with K those of the items.

    Every pair of items that occurs is evaluated once for each call, TILE² at a time; memory beside the result is that of two
    more arrays of its size and of TILE · bags numbers. The items are different rows of any expression.
    """

    items: Features
    bags: Any  # W (bags, items), CSR
    squared: Array  # (bags,) squared norms

    @classmethod
    def of(cls, items: Features, bags: Any, normalize: bool) -> Self:
        """Equal items, by their entities' numbers, are kept once. Cost: the inner products between a bag's items."""
        out = cls.__new__(cls)
        chosen, number = _different(items)
        used, places = np.unique(number[bags.indices], return_inverse=True)
        weights = sp.csr_array((bags.data, places, bags.indptr), shape=(bags.shape[0], len(used)))
        weights.sum_duplicates()
        out.items = compress(items[chosen[used]])
        out.bags, out.squared = weights, _squared_norms(out.items, weights)
        if normalize:
            scale = 1 / np.sqrt(np.where(out.squared > 0, out.squared, 1))
            out.bags = sp.csr_array(sp.diags_array(scale) @ weights)
            out.squared = np.where(out.squared > 0, 1.0, 0.0)
        return out

    @property
    def n_entities(self) -> int:
        return int(self.bags.shape[0])

    @property
    def dim(self) -> float:
        return self.items.dim

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*(leaf.dtype for leaf in self.items.leaves()))

    def entity_inner(self, other: ItemSums, mine: Any, others: Any) -> Array:
        left, right = _columns(self.bags[_numbers(self, mine)]), _columns(other.bags[_numbers(other, others)])
        out = np.zeros((left.shape[0], right.shape[0]))
        for i, columns in _tiles(right):
            half = np.zeros((len(out), len(i)))  # of all bags on the left with these items on the right
            for j, own in _tiles(left):
                half += own @ _item_inner(self.items[j], other.items[i])
            out += (columns @ half.T).T
        return out

    def entity_squared_norms(self) -> Array:
        return self.squared

    def precision(self) -> float:
        unit = float(np.finfo(np.float64).eps)
        return self._spread() * (sum(leaf.precision() + 8 * unit for leaf in self.items.leaves()) + self.bags.shape[1] * unit)

    def distortion(self) -> float:
        return self._spread() * sum(leaf.distortion() for leaf in self.items.leaves())

    def _spread(self) -> float:
        """The most that an error of unit-norm items' inner products is multiplied by: (Σ |weight| ‖item‖)² / ‖bag‖²."""
        sizes = abs(self.bags) @ np.sqrt(np.maximum(self.items.squared_norms(), 0))
        full = sizes > 0
        return float((sizes[full] ** 2 / np.maximum(self.squared[full], np.finfo(np.float64).tiny)).max(initial=1.0))

    def in_double_precision(self) -> Self:
        return self._over(map_leaves(self.items, lambda leaf: leaf.in_double_precision()), self.bags, self.squared).with_index(
            self.index
        )

    def _same_structure(self, other: Features) -> bool:
        return isinstance(other, ItemSums) and self.items._same_structure(other.items)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays, tree = features_state(self.items, "items")
        own = {"data": self.bags.data, "indices": self.bags.indices, "indptr": self.bags.indptr, "squared": self.squared}
        return arrays | own, {"items": tree}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        out = cls.__new__(cls)
        out.items = features_from_state(arrays, options["items"], "items")
        indptr, indices = check_array("indptr", arrays, (None,), "i"), check_array("indices", arrays, (None,), "i")
        shape = (len(indptr) - 1, out.items.n_rows)
        out.bags = sp.csr_array((check_array("data", arrays, indices.shape, "f"), indices, indptr), shape=shape)
        out.bags.check_format(full_check=True)
        out.squared = check_array("squared", arrays, (shape[0],), "f")
        return out

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        part = self.bags[entities]
        used, places = np.unique(part.indices, return_inverse=True)
        used = used if len(used) else np.zeros(1, dtype=np.int64)  # of empty bags: an item tells what space they are in
        bags = sp.csr_array((part.data, places.astype(part.indices.dtype), part.indptr), shape=(part.shape[0], len(used)))
        return self._over(compress(self.items[used]), bags, self.squared[entities])

    def append_entities(self, other: ItemSums) -> Self:
        return self.grow(other, Room())

    def grow(self, other: ItemSums, room: Room) -> Self:
        n, m, its = self.items.n_rows, self.bags, other.bags
        pairs = zip(self.items.leaves(), other.items.leaves(), strict=True)
        grown = iter([_grown(mine, new, room.part(f"leaf {k}")) for k, (mine, new) in enumerate(pairs)])
        indices = room.append("indices", m.indices.astype(np.int64, copy=False), its.indices + np.int64(n))
        indptr = room.append("indptr", m.indptr.astype(np.int64, copy=False), m.indptr[-1] + its.indptr[1:].astype(np.int64))
        bags = sp.csr_array((room.append("data", m.data, its.data), indices, indptr), shape=(len(indptr) - 1, n + its.shape[1]))
        squared = room.append("squared", self.squared, other.squared)
        return self._over(map_leaves(self.items, lambda _: next(grown)), bags, squared)

    def _over(self, items: Features, bags: Any, squared: Array) -> Self:
        out = copy.copy(self)
        out.items, out.bags, out.squared, out.index, out._root = items, bags, squared, None, None
        return out

    def entity_keys(self) -> list[bytes]:
        tables = [(leaf.entity_keys(), np.arange(leaf.n_entities)[leaf.rows]) for leaf in self.items.leaves()]
        keys = [b"".join(_framed(own[index[i]]) for own, index in tables) for i in range(self.items.n_rows)]
        m, starts = self.bags, self.bags.indptr
        return [
            b"".join(sorted(_framed(keys[i]) + w.tobytes() for i, w in zip(m.indices[a:b], m.data[a:b], strict=True)))
            for a, b in pairwise(starts)
        ]


def bag_matrix(weights: NDArray[np.float64], owner: NDArray[np.int64], n_bags: int) -> Any:
    """(bags, items) CSR: a bag's items in the order in which they are given."""
    order = np.argsort(owner, kind="stable")
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner, minlength=n_bags))])
    return sp.csr_array((weights[order], order, indptr), shape=(n_bags, len(owner)))


def item_width(node: Features) -> float:
    """Multiplications of one inner product between items."""
    if isinstance(node, Leaf):
        table = node.storage
        if isinstance(table, ItemSums):
            return (table.bags.nnz / table.n_entities) ** 2 * item_width(table.items)
        if isinstance(table, Sparse):
            return float(table.matrix.nnz) / table.n_entities
        array = getattr(table, "array", None)
        return 1.0 if array is None else float(array.shape[1])
    own = node.parameter if isinstance(node, Power) else len(node.children)
    return own + sum(item_width(child) for child in node.children)


def _different(items: Features) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(a row of each different item, number of each row's item), rows being equal where all their entities' numbers are."""
    leaves = list(items.leaves())
    n = items.n_rows
    if not leaves or any(leaf.index is None for leaf in leaves):
        return np.arange(n), np.arange(n)
    codes = reduce(_paired, (np.asarray(leaf.index) for leaf in leaves), np.zeros(n, dtype=np.int64))
    _, first, number = np.unique(codes, return_index=True, return_inverse=True)
    return first, number.astype(np.int64)


def _paired(codes: NDArray[np.int64], index: NDArray[np.int64]) -> NDArray[np.int64]:
    return np.unique(codes, return_inverse=True)[1] * (int(index.max()) + 1) + index


def _numbers(leaf: ItemSums, entities: Any) -> NDArray[np.int64]:
    return np.arange(leaf.n_entities)[entities]


def _columns(bags: Any) -> Any:
    return sp.csc_array(bags)


def _tiles(bags: Any) -> Iterator[tuple[NDArray[np.int64], Any]]:
    """(items, their columns as CSR) of those items that occur, TILE at a time."""
    used = np.flatnonzero(np.diff(bags.indptr))
    for start in range(0, len(used), TILE):
        part = used[start : start + TILE]
        yield part, sp.csr_array(bags[:, part])


def _item_inner(a: Features, b: Features) -> Array:
    """Inner products in double precision, of rows that are known to be of one space. Shape: (|a|, |b|)."""
    partner = dict(zip(map(id, a.leaves()), b.leaves(), strict=True))
    value = a.evaluate(lambda leaf: leaf.entity_inner(partner[id(leaf)], leaf.rows, partner[id(leaf)].rows))
    return np.broadcast_to(np.asarray(value, dtype=np.float64), (a.n_rows, b.n_rows))


def _squared_norms(items: Features, bags: Any) -> Array:
    """Of W_b · items for each bag. Cost: bags with BLOCK items together are evaluated at once, a larger one alone."""
    out, starts, first = np.zeros(bags.shape[0]), bags.indptr, 0
    while first < bags.shape[0]:
        beyond = max(first + 1, int(np.searchsorted(starts, starts[first] + BLOCK, side="right")) - 1)
        part = bags[first:beyond]
        if part.nnz > 4 * BLOCK:
            alone = ItemSums.__new__(ItemSums)
            alone.items, alone.bags = items, part
            out[first] = alone.entity_inner(alone, slice(None), slice(None))[0, 0]
        elif part.nnz:
            used, places = np.unique(part.indices, return_inverse=True)
            local = sp.csr_array((part.data, places, part.indptr), shape=(beyond - first, len(used)))
            rows = items[used]
            out[first:beyond] = np.asarray(local.multiply(local @ _item_inner(rows, rows)).sum(axis=1)).ravel()
        first = beyond
    return np.maximum(out, 0)


def _grown(mine: Leaf, new: Leaf, room: Room) -> Leaf:
    """A leaf over my rows and then those of `new`, its entities behind mine."""
    index = np.arange(mine.n_entities) if mine.index is None else mine.index
    more = np.arange(new.n_entities)[new.rows] + mine.n_entities
    return mine.grow(new.with_index(None), room).with_index(room.append("rows", index, more))


def _framed(key: bytes) -> bytes:
    """A key with its length before it, so that keys behind one another are told apart."""
    return len(key).to_bytes(8, "little") + key
