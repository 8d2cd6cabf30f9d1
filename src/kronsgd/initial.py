"""Initial hidden weights w_r(0), known by their inner products with rows: nothing here has the product's dimension.

"structured": w_r(0) = Q^{-1/2} Σ_q (a random function over the expression), where a product is the Kronecker product of
independent Gaussian factors and a sum their concatenation: its covariance over rows is exactly their inner product, for
every rank Q. "gaussian": true N(0, I_d) over coordinates, for moderate d.

Every factor is drawn per neuron block from its own generator, so that no result depends on threads or machines.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from functools import reduce
from operator import add, mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Constant, Features, Power, Sum
from kronsgd.features.gram import inverse_norms
from kronsgd.features.grouping import Combination, Group, expand_powers, group_by_index, groups, product_groups
from kronsgd.features.leaf import Leaf
from kronsgd.features.serialize import prototype
from kronsgd.kernels import products
from kronsgd.network import TwoLayer, generator
from kronsgd.parallel import matmul

__all__ = ["InitialWeights", "StartingValues", "coordinate_dim"]

Array = NDArray[Any]
CACHE_BYTES = 1 << 30  # most memory for the projections of a table's entities
MAX_COORDINATES = 1 << 31  # bytes of a materialised (m, d) or (n, d) array


def coordinate_dim(node: Features) -> int:
    """Length of the coordinate vectors of `node.dense()` (kernels count their anchors)."""
    if isinstance(node, Leaf):
        return node.n_coordinates
    parts = [coordinate_dim(child) for child in node.children]
    if isinstance(node, Constant):
        return 1
    if isinstance(node, Power):
        return int(parts[0] ** node.parameter)
    return sum(parts) if isinstance(node, Sum) else reduce(mul, parts)


class InitialWeights:
    """w(0) of one network over one feature space; holds seeds and the space's prototype, never the weights."""

    def __init__(self, network: TwoLayer, features: Features) -> None:
        self.network = network
        self.prototype = prototype(features)
        if network.init == "gaussian":
            self._check_dense(network.n_hidden, 'init="gaussian"; use init="structured"')

    def _check_dense(self, n: int, what: str) -> None:
        need = 8 * n * coordinate_dim(self.prototype)
        if need > MAX_COORDINATES:
            raise ValueError(
                f"{n} vectors of {coordinate_dim(self.prototype):,} coordinates would take {need / 2**30:.1f} GiB, above the "
                f"{MAX_COORDINATES / 2**30:.0f} GiB allowed for {what}."
            )

    def _pairs(self, size: int) -> int:
        return (size + 1) // 2 if self.network.antisymmetric else size

    def _spread(self, block: Array, size: int) -> Array:
        """Rows for single neurons from rows for antisymmetric pairs, which share their hidden weights."""
        return np.repeat(block, 2, axis=0)[:size] if self.network.antisymmetric else block

    def factor(self, slot: tuple[str, tuple[int, ...], int], block: int, size: int) -> Array:
        """One factor's Gaussian draws for a block of neurons. Shape: (size · Q, coordinates of the factor)."""
        purpose, key, width = slot
        rank = self.network.init_rank
        draws = generator(self.network.seed, purpose, *key, block).standard_normal((self._pairs(size), rank, width))
        return self._spread(draws, size).reshape(size * rank, width)

    def slots(self, expanded: Features) -> dict[int, tuple[str, tuple[int, ...], int]]:
        """For each leaf and constant of an expression without powers: where its draws come from, and how many.

        Keyed by kind, dimension and first entity rather than by place, so that A * B and B * A draw the same factors.
        """
        seen: Counter[tuple[int, ...]] = Counter()
        out: dict[int, tuple[str, tuple[int, ...], int]] = {}
        numbered = iter(self._leaf_slots())

        def visit(node: Features) -> None:
            for child in node.children:
                visit(child)
            if isinstance(node, Constant):
                key: tuple[int, ...] = (1,)
                out[id(node)] = ("constant", (seen[key],), 1)
                seen[key] += 1
            elif isinstance(node, Leaf):
                out[id(node)] = next(numbered)

        visit(expanded)
        return out

    def _leaf_slots(self) -> list[tuple[str, tuple[int, ...], int]]:
        """Slots of the leaves from left to right; a kernel's width is that of its anchors, not of the new rows."""
        leaves = list(expand_powers(self.prototype).leaves())
        kinds = [(zlib.crc32(type(leaf).__name__.encode()), leaf.n_coordinates) for leaf in leaves]
        by_content = sorted(range(len(leaves)), key=lambda k: (kinds[k], leaves[k].entity_keys()[0], k))
        seen: Counter[tuple[int, ...]] = Counter()
        slots: dict[int, tuple[str, tuple[int, ...], int]] = {}
        for k in by_content:
            slots[k] = ("leaf", (*kinds[k], seen[kinds[k]]), kinds[k][1])
            seen[kinds[k]] += 1
        return [slots[k] for k in range(len(leaves))]

    def values(self, rows: Features, normalize: bool, dtype: Any) -> StartingValues:
        """⟨w_r(0), x_i⟩ for every neuron and the rows of any expression over the same space."""
        self.prototype.check_compatible(rows)
        return StartingValues(self, rows, normalize, dtype)

    def gaussian(self, block: int, size: int) -> Array:
        """N(0, I_d) weights of one block. Shape: (size, d)."""
        draws = generator(self.network.seed, "gaussian", block)
        return self._spread(draws.standard_normal((self._pairs(size), coordinate_dim(self.prototype))), size)

    def hidden_weights(self) -> Array:
        """W(0) in the coordinates of `prototype.dense()`. Shape: (m, d), float64. ValueError where that is too large."""
        self._check_dense(self.network.n_hidden, "hidden weights; ask for fired sets and predictions instead")
        blocks = [self._block_weights(block, size) for block, _, size in self.network.block_sizes()]
        return np.concatenate(blocks)

    def _block_weights(self, block: int, size: int) -> Array:
        if self.network.init == "gaussian":
            return self.gaussian(block, size)
        expanded = expand_powers(self.prototype)
        slots, rank = self.slots(expanded), self.network.init_rank

        def build(node: Features) -> Array:
            if not node.children:
                return self.factor(slots[id(node)], block, size)
            return node.join([build(child) for child in node.children])

        weights = build(expanded).reshape(size, rank, -1)
        return np.asarray(weights.sum(axis=1) / np.sqrt(rank))


class StartingValues:
    """⟨w_r(0), x_i⟩/‖x_i‖ for the rows of one expression: factor projections per entity, combined per batch."""

    def __init__(self, weights: InitialWeights, rows: Features, normalize: bool, dtype: Any) -> None:
        self._weights, self._rows, self._normalize, self._dtype = weights, rows, normalize, np.dtype(dtype)
        self._scale = inverse_norms(rows, normalize)
        self._dense = weights.network.init == "gaussian"
        fits = rows.n_rows * weights.network.n_hidden * self._dtype.itemsize <= CACHE_BYTES
        self._keep_all = self._dense and fits  # every row's values, where weights are true Gaussians
        self._all: Array | None = None
        self._tables: dict[int, Array | None] = {}  # group -> values of its entities; None: made on first use
        self._product: list[Group] = []  # of a pure product whose tables all fit: they are stacked instead
        self._stack: Array | None = None  # see _stacked; made on first use
        if self._dense:
            return
        expanded = self._expanded = expand_powers(rows)
        self._slots = weights.slots(expanded)
        basis = expand_powers(weights.prototype)
        self._basis = dict(zip(map(id, expanded.leaves()), basis.leaves(), strict=True))
        self._tree = group_by_index(expanded)
        self._sum_ranks = isinstance(self._tree, Group)  # one group: the Q terms can be added once per entity
        width = weights.network.n_hidden * (1 if self._sum_ranks else weights.network.init_rank)
        left = CACHE_BYTES
        for group in sorted(groups(self._tree), key=lambda g: g.n_entities):
            left -= group.n_entities * width * self._dtype.itemsize
            if left >= 0:
                self._tables[id(group)] = None
        if left >= 0:
            self._product = product_groups(self._tree)
            self._stack_starts = np.cumsum([0] + [group.n_entities for group in self._product[:-1]])

    def __reduce__(self) -> tuple[Any, ...]:
        return StartingValues, (self._weights, self._rows, self._normalize, self._dtype)

    def __call__(self, rows: NDArray[np.int64]) -> Array:
        """The starting values of the given rows. Shape: (S, m). Cost: S·m·Q for each group of factors."""
        network = self._weights.network
        if self._product:
            out = np.empty((1, network.n_hidden, len(rows)), dtype=self._dtype)
            self.fill(out, rows)
            return out[0].T
        if self._keep_all:
            if self._all is None:
                self._all = self._gaussian(np.arange(self._rows.n_rows))
            return np.asarray(self._all[rows])
        if self._dense:
            return self._gaussian(rows)
        values = self._combine(self._tree, rows)
        scale = self._scale[rows] / np.sqrt(network.init_rank)
        if not self._sum_ranks and network.init_rank > 1:
            values = values.reshape(len(rows), network.n_hidden, network.init_rank).sum(axis=2)
        return np.asarray(values * scale[:, None].astype(self._dtype))

    def fill(self, out: Array, rows: NDArray[np.int64]) -> None:
        """The same values in tiles of the batch: out[t, r, s] is row t·L + s; the rest of the last tile stays as it is.

        Shape: out (tiles, m, L). Cost: S·m·Q for each group of factors, in one pass for a product of groups.
        """
        network, lanes = self._weights.network, out.shape[2]
        if not self._product:
            values = self(rows)
            for t in range(out.shape[0]):
                tile = values[t * lanes : (t + 1) * lanes]
                out[t, :, : len(tile)] = tile.T
            return
        if self._stack is None:
            self._stack = self._stacked()
        entities = np.stack([
            group.entity_rows(rows) + start for group, start in zip(self._product, self._stack_starts, strict=True)
        ])  # fmt: skip
        scale = (self._scale[rows] / np.sqrt(network.init_rank)).astype(self._dtype)
        rank = 1 if self._sum_ranks else network.init_rank
        products.start_tiles(out, self._stack, entities, scale, rank, network.blocks)

    def _stacked(self) -> Array:
        """The tables of all groups, block by block. Shape: (blocks, entities, neurons of a block · Q)."""
        network, rank = self._weights.network, 1 if self._sum_ranks else self._weights.network.init_rank
        sizes, n_entities = network.block_sizes(), [group.n_entities for group in self._product]
        out = np.zeros((len(sizes), sum(n_entities), sizes[0][2] * rank), dtype=self._dtype)
        for group, first, count in zip(self._product, self._stack_starts, n_entities, strict=True):
            table = self._project(group, slice(None))
            for block, start, size in sizes:
                out[block, first : first + count, : size * rank] = table[:, start * rank : (start + size) * rank]
        return out

    def _combine(self, tree: Group | Combination, rows: NDArray[np.int64]) -> Array:
        if isinstance(tree, Combination):
            return np.asarray(tree.combine([self._combine(part, rows) for part in tree.parts]))
        entities = tree.entity_rows(rows)
        if id(tree) not in self._tables:
            return self._project(tree, entities)
        table = self._tables[id(tree)]
        if table is None:
            table = self._tables[id(tree)] = self._project(tree, slice(None))
        return np.asarray(table[entities])

    def factors(self, chosen: Sequence[int]) -> Array:
        """Product of some factors' random functions at every row, before ranks are added up and rows scaled.

        chosen: numbers of the children of the product that the expression is, its powers written out. The Q ranks of
        disjoint choices multiply to those of the whole. Shape: (m, Q, n). ValueError where weights are true Gaussians.
        """
        network = self._weights.network
        if self._dense:
            raise ValueError('init="gaussian" has no factors; use init="structured".')
        out = np.empty((network.n_hidden, network.init_rank, self._rows.n_rows), dtype=self._dtype)
        for block, start, size in network.block_sizes():
            values = [self._random_function(self._expanded.children[c], None, block, size) for c in chosen]
            out[start : start + size] = reduce(mul, values).T.reshape(size, network.init_rank, -1)
        return out

    def _project(self, group: Group, entities: Any) -> Array:
        """Values of one group's random function at its entities. Shape: (entities, m·Q), or (entities, m) if one group."""
        network = self._weights.network
        rank = network.init_rank
        count = len(range(group.n_entities)[entities]) if isinstance(entities, slice) else len(entities)
        width = 1 if self._sum_ranks else rank
        out = np.empty((count, network.n_hidden * width), dtype=self._dtype)
        for block, start, size in network.block_sizes():
            values = self._random_function(group.node, entities, block, size)
            if self._sum_ranks and rank > 1:
                values = values.reshape(-1, size, rank).sum(axis=2)
            out[:, start * width : (start + size) * width] = values
        return out

    def _random_function(self, node: Features, entities: Any, block: int, size: int) -> Array:
        """At the given entities, or at all rows (None). Shape: (entities or rows, size · Q)."""
        if node.children:
            values = [self._random_function(child, entities, block, size) for child in node.children]
            return np.asarray(reduce(add if isinstance(node, Sum) else mul, values))
        draws = self._weights.factor(self._slots[id(node)], block, size)
        if isinstance(node, Constant):
            return node.parameter * draws.T
        assert isinstance(node, Leaf)
        chosen = node.rows if entities is None else entities
        return node.entity_project(self._basis[id(node)], chosen, np.ascontiguousarray(draws.T))

    def _gaussian(self, rows: NDArray[np.int64]) -> Array:
        coordinates = self._weights.prototype.coordinates(self._rows[rows]) * self._scale[rows][:, None]
        network = self._weights.network
        out = np.empty((len(rows), network.n_hidden), dtype=self._dtype)
        for block, start, size in network.block_sizes():
            out[:, start : start + size] = matmul(coordinates, self._weights.gaussian(block, size).T)
        return out
