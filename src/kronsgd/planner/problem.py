"""What the cost of a training depends on: sizes of the network, the rows and the tables, and how densely neurons fire."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Constant, Features, Sum
from kronsgd.features.gram import CACHE_BYTES
from kronsgd.features.grouping import Group, expand_powers, group_by_index, groups, product_groups
from kronsgd.features.item_sums import TILE, ItemSums, item_width
from kronsgd.features.kernel_leaves import Kernel, SpanLeaf
from kronsgd.features.leaf import Leaf
from kronsgd.features.mapped import MappedRows
from kronsgd.features.serialize import compress
from kronsgd.features.sides import Sides
from kronsgd.features.weighted import Weighted
from kronsgd.initial import coordinate_dim
from kronsgd.network import TwoLayer

__all__ = ["Problem", "Schedule", "Table", "firing_share"]

Array = NDArray[Any]
SAMPLE_ROWS = 256  # rows whose norms stand for all in the share of firing neurons
SAMPLES = 1 << 16  # random neurons × rows; the share has a relative error of about 2 %
MEAN_GROWTH = 1.5  # α's density over a whole training, in multiples of the share that fires at the start (measured)
LAST_GROWTH = 3.0  # and at its end; 1.6 to 4.5 were measured after 3 to 150 epochs


@dataclass(frozen=True)
class Table:
    """The factors over one row index, as one table."""

    entities: int  # that occur
    dim: float  # flops / 2 of one inner product
    itemsize: int  # bytes of a number in the tables
    gram_arrays: int  # (entities, entities) arrays alive at once while all inner products are made
    span: int  # entities that span a kernel's coordinates, 0 for tables with coordinates of their own
    scratch: int = 0  # bytes beside the inner products while they are made, of bags whose items are kept


@dataclass(frozen=True)
class Schedule:
    """What a fit does beside its steps, as far as it takes memory."""

    batch_size: int = 64
    block_size: int = 1024  # rows of a batch where it is a block of pairs, as the grid engine takes them
    blocks: bool = False  # whether batches are blocks
    probe: int = 0  # rows evaluated at once to choose a step size or a number of epochs
    validation: int = 0  # rows held out
    stream: bool = False  # whether rows go on coming, each of them once
    one_epoch: bool = False  # whether no row is visited again


@dataclass(frozen=True)
class Problem:
    """Everything that costs are counted from. Densities are shares of (row, neuron) pairs."""

    network: TwoLayer
    n_rows: int
    dim: float  # of the product
    d: int  # coordinates that the dense engine would build
    has_coordinates: bool  # for all entities; else the dense engine would not be exact
    tables: tuple[Table, ...]
    passes: int  # over the rows to fill a panel
    nested: int  # panels beside the first
    copied: int  # bytes of tables that are copied because some of their entities do not occur
    inner_arrays: int  # (rows, rows) arrays alive at once while inner products between rows are evaluated
    coordinate_size: int  # bytes of a coordinate, as a table gives it
    sides: tuple[int, int, int] | None  # inner entities, outer entities, different pairs; None: no grid of pairs
    schedule: Schedule
    start_fired: float  # at the start
    fired: float  # during training
    alpha: float  # of α, mean over the training
    alpha_last: float  # of α at the end

    @classmethod
    def of(cls, network: TwoLayer, features: Features, schedule: Schedule, normalize: bool = True) -> Problem:
        """Count. Cost: n·ln n for each factor; nothing of the size of a table is allocated."""
        leaves = list(features.leaves())
        tree = group_by_index(features)
        share = firing_share(network, features, normalize)
        parts = groups(tree)
        product = bool(product_groups(tree))
        return cls(
            network=network, n_rows=features.n_rows, dim=features.dim, d=coordinate_dim(features),
            has_coordinates=all(leaf.own_coordinates or leaf.n_coordinates >= leaf.n_entities for leaf in leaves),
            tables=tuple(_table(group) for group in parts), passes=1 if product else len(parts) + 1,
            nested=0 if product or isinstance(tree, Group) else sum(not isinstance(part, Group) for part in tree.parts[1:]),
            copied=sum(_copied(leaf) for leaf in leaves), inner_arrays=_arrays(features),
            coordinate_size=8 if _has_constant(features) else max(_itemsize(leaf) for leaf in leaves),
            sides=_sides(features), schedule=schedule, start_fired=share, fired=share,
            alpha=min(1.0, MEAN_GROWTH * share), alpha_last=min(1.0, LAST_GROWTH * share),
        )  # fmt: skip

    @property
    def itemsize(self) -> int:
        """Bytes of a number in the engine."""
        return int(np.dtype(self.network.dtype).itemsize)

    @property
    def scratch(self) -> int:
        """Bytes that any table takes while its inner products are made."""
        return max(table.scratch for table in self.tables)

    @property
    def rank(self) -> int:
        """Gaussian draws of a factor for each neuron: Q, or 0 where all of w(0) is drawn in coordinates."""
        return self.network.init_rank if self.network.init == "structured" else 0

    def kept(self, width: float | None = None) -> tuple[Table, ...]:
        """The tables for which the scan engine keeps `width` numbers for each entity (None: inner products with all)."""
        left, out = float(CACHE_BYTES), []
        for table in sorted(self.tables, key=lambda table: table.entities):
            left -= table.entities * (table.entities if width is None else width) * self.itemsize
            out += [table] if left >= 0 else []
        return tuple(out)


def firing_share(network: TwoLayer, features: Features, normalize: bool = True) -> float:
    """Share of (row, neuron) pairs that fire before training: Φ(−b) for Gaussian weights, estimated for structured ones.

    A product of few Gaussian factors has heavier tails than a Gaussian. Always draws the same numbers.
    """
    n = features.n_rows
    some = compress(features[np.unique(np.linspace(0, n - 1, min(n, SAMPLE_ROWS)).astype(np.int64))])
    expanded = expand_powers(some)
    rank = network.init_rank if network.init == "structured" else 1
    draws = max(1, SAMPLES // (some.n_rows * min(rank, 16)))
    rng = np.random.default_rng(0)

    def value(node: Features) -> Any:
        if isinstance(node, Leaf):
            norms = np.sqrt(np.maximum(node.entity_squared_norms()[node.rows], 0))
            return rng.standard_normal((draws, min(rank, 16), node.n_rows)) * norms
        if isinstance(node, Constant):
            return node.parameter * rng.standard_normal((draws, min(rank, 16), 1))
        return reduce(add if isinstance(node, Sum) else mul, (value(child) for child in node.children))  # two alive at a time

    squared = np.maximum(some.squared_norms(), 0)
    scale = np.where(squared > 0, 1 / np.sqrt(np.where(squared > 0, squared, 1)), 1) if normalize else np.ones(len(squared))
    if network.init == "gaussian":
        z = rng.standard_normal((draws, some.n_rows)) * np.sqrt(squared)
    else:
        z = value(expanded).sum(axis=1) / math.sqrt(min(rank, 16))
    return max(float((z * scale > network.threshold).mean()), 1 / (network.n_hidden * n))


def _table(group: Group) -> Table:
    leaves = list(group.node.leaves())
    n = group.n_entities if group.index is None else len(np.unique(group.index))
    return Table(
        entities=n, dim=sum(item_width(leaf) for leaf in leaves),
        itemsize=max((_itemsize(leaf) for leaf in leaves), default=8),
        gram_arrays=_arrays(group.node),
        span=max((leaf.n_coordinates for leaf in leaves if isinstance(leaf.storage, SpanLeaf)), default=0),
        scratch=max((_scratch(leaf) for leaf in leaves), default=0),
    )  # fmt: skip


def _itemsize(leaf: Leaf) -> int:
    return 8 if isinstance(leaf.storage, SpanLeaf) else leaf.dtype.itemsize


def _arrays(node: Features) -> int:
    """Arrays alive at once while inner products of `node` are evaluated, its own result among them."""
    if isinstance(node, Leaf):
        own = 2 if isinstance(node.storage, Kernel) else 3 if isinstance(node.storage, SpanLeaf) else 1
        return own + isinstance(node, Weighted)
    if not node.children:
        return 0
    done, most = 0, 0
    for child in node.children:
        peak = _arrays(child)
        most, done = max(most, done + peak), done + min(peak, 1)
    factors = getattr(node, "parameter", len(node.children))
    return max(most, done + (factors > 1))


def _has_constant(node: Features) -> bool:
    return isinstance(node, Constant) or any(_has_constant(child) for child in node.children)


def _copied(leaf: Leaf) -> int:
    """Bytes that dropping unused entities allocates: the rest of the table, and a new row index."""
    if leaf.index is None:
        return 0
    used = len(np.unique(leaf.index))
    if used == leaf.n_entities:
        return 0
    whole = isinstance(leaf.storage, Kernel)  # which keeps its table
    arrays: dict[str, Any] = {} if whole else leaf.state()[0]
    table = sum(
        array.selected_bytes(used) if isinstance(array, MappedRows) else array.nbytes * used / leaf.n_entities
        for array in arrays.values()
    )
    return int(table) + 8 * len(leaf.index)


def _scratch(leaf: Leaf) -> int:
    """Bytes beside its inner products that a table of bags takes while they are made: tiles of items, and weights by item."""
    table = leaf.storage
    if not isinstance(table, ItemSums):
        return 0
    side = min(TILE, table.items.n_rows)
    return 8 * side * ((1 + _arrays(table.items)) * side + 2 * table.n_entities) + 32 * table.bags.nnz


def _sides(features: Features) -> tuple[int, int, int] | None:
    """(inner entities, outer entities, different pairs of them) where the rows are pairs."""
    try:
        inner, outer = Sides.of(features).split(features)
    except ValueError:  # no product of factors with different row indices
        return None
    return inner.n_entities, outer.n_entities, len(np.unique(inner.entity * outer.n_entities + outer.entity))
