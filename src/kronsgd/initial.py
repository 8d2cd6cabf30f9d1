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

from kronsgd.features.base import Constant, Features, Sum, describe_dim
from kronsgd.features.gram import inverse_norms
from kronsgd.features.grouping import Combination, Group, coordinate_dim, expand_powers, group_by_index, groups, product_groups
from kronsgd.features.growth import added_rows, regrouped, starts_with
from kronsgd.features.leaf import Leaf
from kronsgd.features.serialize import map_leaves, prototype
from kronsgd.growing import Growing
from kronsgd.kernels import products
from kronsgd.network import TwoLayer, generator
from kronsgd.parallel import map_threads, matmul

__all__ = ["InitialWeights", "StartingValues", "coordinate_dim"]

Array = NDArray[Any]
Slot = tuple[str, tuple[int, ...], int]  # where a factor's draws come from, and how many a neuron has
CACHE_BYTES = 1 << 30  # most memory for the projections of a table's entities
LOT = 32  # entities projected together
MOST_DRAWS, KEPT_DRAWS = 1 << 19, 1 << 25  # bytes of draws made at a time, and kept for entities yet to come
MAX_COORDINATES = 1 << 31  # bytes of a materialised (m, d) or (n, d) array


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
                f"{n} vectors of {describe_dim(coordinate_dim(self.prototype))} coordinates would take "
                f"{describe_dim(need >> 30)} GiB, above the {MAX_COORDINATES / 2**30:.0f} GiB allowed for {what}."
            )

    def factor(self, slot: Slot, block: int, size: int) -> Array:
        """One factor's Gaussian draws for a block of neurons. Shape: (size · Q, coordinates of the factor)."""
        purpose, key, width = slot
        rank = self.network.init_rank
        return self._draw(size, (rank, width), purpose, *key, block).reshape(size * rank, width)

    def _draw(self, size: int, shape: tuple[int, ...], purpose: str, *key: int) -> Array:
        """Gaussian numbers for a block of neurons, from each network's own seed in turn. Shape: (size, *shape)."""
        seeds, share = self.network.seeds, 2 if self.network.antisymmetric else 1  # antisymmetric pairs share theirs
        own = size // len(seeds)
        draws = [generator(seed, purpose, *key).standard_normal((-(-own // share), *shape)) for seed in seeds]
        return np.concatenate([np.repeat(part, share, axis=0)[:own] if share > 1 else part for part in draws])

    def slots(self, expanded: Features) -> dict[int, Slot]:
        """For each leaf and constant of an expression without powers: where its draws come from, and how many.

        Keyed by kind, dimension and first entity rather than by place, so that A * B and B * A draw the same factors.
        """
        seen: Counter[tuple[int, ...]] = Counter()
        out: dict[int, Slot] = {}
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

    def _leaf_slots(self) -> list[Slot]:
        """Slots of the leaves from left to right; a kernel's width is that of its anchors, not of the new rows."""
        leaves = list(expand_powers(self.prototype).leaves())
        kinds = [(zlib.crc32(type(leaf).__name__.encode()), leaf.n_coordinates) for leaf in leaves]
        by_content = sorted(range(len(leaves)), key=lambda k: (kinds[k], leaves[k].entity_keys()[0], k))
        seen: Counter[tuple[int, ...]] = Counter()
        slots: dict[int, Slot] = {}
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
        return self._draw(size, (coordinate_dim(self.prototype),), "gaussian", block)

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
    """⟨w_r(0), x_i⟩/‖x_i‖ for the rows of one expression: factor projections per entity, combined per batch.

    Entities are projected LOT at a time, those of a lot together whenever one of them is new: so the bits of a value do not
    depend on how many entities there are, nor on when they came.
    """

    def __init__(self, weights: InitialWeights, rows: Features, normalize: bool, dtype: Any) -> None:
        self._weights, self._normalize, self._dtype = weights, normalize, np.dtype(dtype)
        self.caching = True  # of true Gaussian weights' values at all rows; False where rows come once
        self._dense = weights.network.init == "gaussian"
        self._draws: dict[Slot, Array] | None = None  # kept once there have been new entities; None: drawn when needed
        self._build(rows)

    def _build(self, rows: Features) -> None:
        self._rows, self._scales = rows, Growing(inverse_norms(rows, self._normalize))
        self._all: Array | None = None  # every row's values, where weights are true Gaussians
        self._product: list[Group] = []  # of a pure product whose tables all fit: combined in one pass
        if self._dense:
            return
        expanded, basis = expand_powers(rows), expand_powers(self._weights.prototype)
        self._slots = self._weights.slots(expanded)
        self._basis = dict(zip(map(id, expanded.leaves()), basis.leaves(), strict=True))
        self._set_tree(expanded, group_by_index(expanded))
        self._room = [group.n_entities for group in self._kept]
        self._filled = [0 for _ in self._kept]
        self._stack: Array | None = None  # (blocks, room for all kept groups' entities, neurons of a block · Q)

    def _set_tree(self, expanded: Features, tree: Group | Combination) -> None:
        self._expanded, self._tree = expanded, tree
        self._sum_ranks = isinstance(tree, Group)  # one group: the Q terms can be added once per entity
        network = self._weights.network
        width = network.whole.n_hidden * (1 if self._sum_ranks else network.init_rank)  # of the whole: it decides about bits
        left, kept = CACHE_BYTES, set()
        for group in sorted(groups(tree), key=lambda g: g.n_entities):
            left -= group.n_entities * width * self._dtype.itemsize
            if left >= 0:
                kept.add(id(group))
        self._kept = [group for group in groups(tree) if id(group) in kept]
        self._product = product_groups(tree) if left >= 0 else []

    def extend(self, rows: Features) -> None:
        """Take more rows: `rows` starts with those known. Cost: that of the new rows, where tables have grown in place."""
        before = self._rows.n_rows
        if rows is self._rows:
            return
        if rows.n_rows == before or not starts_with(rows, self._rows):
            self._build(rows)
            return
        self._scales.append(inverse_norms(added_rows(rows, before), self._normalize))
        self._rows, self._all = rows, None
        if self._dense:
            return
        leaves = list(zip(self._expanded.leaves(), expand_powers(rows).leaves(), strict=True))
        after = {id(old): new for old, new in leaves}
        tree, n_kept = regrouped(self._tree, after, (before, rows.n_rows)), len(self._kept)
        if tree is None:
            self._build(rows)
            return
        for old, new in leaves:
            self._slots[id(new)], self._basis[id(new)] = self._slots.pop(id(old)), self._basis.pop(id(old))
        self._set_tree(map_leaves(self._expanded, lambda leaf: after[id(leaf)]), tree)
        if len(self._kept) < n_kept:  # the tables have become too large
            self._build(rows)
        elif any(group.n_entities > room for group, room in zip(self._kept, self._room, strict=True)):
            self._make_room([2 * group.n_entities for group in self._kept])
        self._draws = {} if self._draws is None else self._draws

    @property
    def _starts(self) -> NDArray[np.int64]:
        return np.cumsum([0, *self._room])[:-1]

    def _make_room(self, room: list[int]) -> None:
        """Room for so many entities of each group."""
        old, starts, self._room = self._stack, self._starts, room
        if old is None:
            return
        self._stack = np.empty((len(old), sum(room), old.shape[2]), dtype=self._dtype)
        for start, new_start, count in zip(starts, self._starts, self._filled, strict=True):
            self._stack[:, new_start : new_start + count] = old[:, start : start + count]

    def __reduce__(self) -> tuple[Any, ...]:
        return StartingValues, (self._weights, self._rows, self._normalize, self._dtype)

    def __call__(self, rows: NDArray[np.int64]) -> Array:
        """The starting values of the given rows. Shape: (S, m). Cost: S·m·Q for each group of factors."""
        network = self._weights.network
        if self._product:
            out = np.empty((1, network.n_hidden, len(rows)), dtype=self._dtype)
            self.fill(out, rows)
            return out[0].T
        if self._dense:
            return self._gaussian_at(rows)
        values = self._combine(self._tree, rows)
        scale = self._scales.array[rows] / np.sqrt(network.init_rank)
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
        stack = self._filled_stack()
        entities = np.stack([
            group.entity_rows(rows) + start for group, start in zip(self._product, self._starts, strict=True)
        ])  # fmt: skip
        scale = (self._scales.array[rows] / np.sqrt(network.init_rank)).astype(self._dtype)
        rank = 1 if self._sum_ranks else network.init_rank
        products.start_tiles(out, stack, entities, scale, rank, network.blocks)

    def tables(self) -> tuple[Group | Combination, dict[int, Array]] | None:
        """The expression, and by its groups' ids their values (blocks, entities, width). None where not all are kept."""
        if self._dense or len(self._kept) < len(groups(self._tree)):
            return None
        stack = self._filled_stack()
        return self._tree, {id(g): stack[:, k : k + g.n_entities] for g, k in zip(self._kept, self._starts, strict=True)}

    def _filled_stack(self) -> Array:
        """The values of all kept groups' entities, block by block. Cost: those of entities not asked for before."""
        if self._stack is None:
            sizes = self._weights.network.block_sizes()
            width = self._weights.network.block_size * (1 if self._sum_ranks else self._weights.network.init_rank)
            self._stack = np.empty((len(sizes), sum(self._room), width), dtype=self._dtype)
        for k, group in enumerate(self._kept):
            if self._filled[k] < group.n_entities:
                self._project_lots(group, self._stack, int(self._starts[k]), self._filled[k])
                self._filled[k] = group.n_entities
        return self._stack

    def _project_lots(self, group: Group, stack: Array, start: int, first: int) -> None:
        """Fill a group's part of the stack, which begins at `start`, from the lot of entity `first` on."""
        slots = self._group_slots(group)
        rank, width, n_blocks = self._weights.network.init_rank, stack.shape[2], len(stack)
        size = 8 * width * (rank if self._sum_ranks else 1) * sum(slot[2] for slot in slots)  # bytes of a block's draws
        keep = self._draws is not None and n_blocks * size <= KEPT_DRAWS
        step = n_blocks if keep else max(1, MOST_DRAWS // size)
        for block in range(0, n_blocks, step):
            blocks = range(block, min(block + step, n_blocks))
            draws = {slot: self._draws_of(slot, blocks, keep) for slot in slots}

            def project(lot: int, blocks: range = blocks, draws: dict[Slot, Array] = draws) -> None:
                entities = np.minimum(np.arange(lot, lot + LOT), group.n_entities - 1)
                values = self._at(group.node, entities, draws)
                if self._sum_ranks and rank > 1:
                    values = values.reshape(*values.shape[:2], width, rank).sum(axis=3)
                used = min(LOT, group.n_entities - lot)
                values = np.broadcast_to(values, (len(blocks), LOT, width))[:, :used]
                stack[blocks.start : blocks.stop, start + lot : start + lot + used] = values

            map_threads(project, range(first // LOT * LOT, group.n_entities, LOT), 0.25 * LOT * size * (len(blocks)))

    def _group_slots(self, group: Group) -> list[Slot]:
        nodes = [group.node]
        for node in nodes:
            nodes.extend(node.children)
        return [self._slots[id(node)] for node in nodes if not node.children]

    def _draws_of(self, slot: Slot, blocks: range, keep: bool) -> Array:
        """One factor's draws for some blocks; the last block's are padded with zeros. Shape: (blocks, width, neurons · Q)."""
        if self._draws is not None and slot in self._draws:
            return self._draws[slot]
        sizes, rank = self._weights.network.block_sizes(), self._weights.network.init_rank
        out = np.zeros((len(blocks), slot[2], self._weights.network.block_size * rank))
        for k, (block, _, size) in enumerate(sizes[blocks.start : blocks.stop]):
            out[k, :, : size * rank] = self._weights.factor(slot, block, size).T
        if keep and self._draws is not None:
            self._draws[slot] = out
        return out

    def _at(self, node: Features, entities: NDArray[np.int64], draws: dict[Slot, Array]) -> Array:
        """Values of a random function at some entities. Shape: (blocks, entities, neurons of a block · Q); or one entity's."""
        if node.children:
            values = [self._at(child, entities, draws) for child in node.children]
            return np.asarray(reduce(add if isinstance(node, Sum) else mul, values))
        own = draws[self._slots[id(node)]]
        if isinstance(node, Constant):
            return node.parameter * own
        assert isinstance(node, Leaf)
        return node.project_blocks(self._basis[id(node)], entities, own)

    def _combine(self, tree: Group | Combination, rows: NDArray[np.int64]) -> Array:
        """Values of a tree at some rows. Shape: (S, m·Q), or (S, m) if it is one group."""
        if isinstance(tree, Combination):
            return np.asarray(tree.combine([self._combine(part, rows) for part in tree.parts]))
        entities = tree.entity_rows(rows)
        place = next((k for k, group in enumerate(self._kept) if group is tree), None)
        if place is None:
            return self._project(tree, entities)
        network = self._weights.network
        values = self._filled_stack()[:, self._starts[place] + entities].transpose(1, 0, 2).reshape(len(rows), -1)
        return np.asarray(values[:, : network.n_hidden * (1 if self._sum_ranks else network.init_rank)])

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

    def _project(self, group: Group, entities: NDArray[np.int64]) -> Array:
        """Values of a group that is not kept. Shape: (entities, m·Q), or (entities, m) if it is the only one."""
        network = self._weights.network
        rank = network.init_rank
        width = 1 if self._sum_ranks else rank
        out = np.empty((len(entities), network.n_hidden * width), dtype=self._dtype)
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

    def _gaussian_at(self, rows: NDArray[np.int64]) -> Array:
        """True Gaussian weights' values, kept for all rows where that pays and fits. Shape: (S, m)."""
        n, network = self._rows.n_rows, self._weights.network
        if not self.caching or n * network.whole.n_hidden * self._dtype.itemsize > CACHE_BYTES:
            return self._gaussian(rows)
        if self._all is None:
            self._all = self._gaussian(np.arange(n))
        return np.asarray(self._all[rows])

    def _gaussian(self, rows: NDArray[np.int64]) -> Array:
        coordinates = self._weights.prototype.coordinates(self._rows[rows]) * self._scales.array[rows][:, None]
        network = self._weights.network
        out = np.empty((len(rows), network.n_hidden), dtype=self._dtype)
        for block, start, size in network.block_sizes():
            out[:, start : start + size] = matmul(coordinates, self._weights.gaussian(block, size).T)
        return out
