"""Rows as cells of the grid of training entities: inner products, starting values, and how a batch falls into tiles."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.buffers import Buffers
from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.sides import Side, Sides
from kronsgd.initial import InitialWeights
from kronsgd.kernels.scan import LANES

__all__ = ["MAX_BYTES", "Block", "Cells", "Strip", "Tile"]

Array = NDArray[Any]
Index = NDArray[np.int64]
MAX_BYTES = 1 << 31  # of the inner products of one side, of a strip, of a side's starting values


@dataclass(frozen=True)
class Strip:
    """Coefficients contracted with some outer entities: a buffer, which steps keep exact and which is never saved."""

    outer: Index  # (≤ L,) sorted outer entities
    h: Array  # (m, n1, L), or (m, 0, L) where nothing is learned, for batches over several strips
    start: Array  # (m, Q, L) starting values of the outer entities
    own: Array  # (L, L) inner products among them; meaningful for training rows only


@dataclass(frozen=True)
class Tile:
    """The tile rows first … beyond − 1 of a block, over one strip's lanes."""

    outer: Index  # (≤ L,)
    first: int
    beyond: int


@dataclass(frozen=True)
class Block:
    """A batch as tiles: every row has a place, and rows of the same cell share one."""

    lanes: int
    tiles: tuple[Tile, ...]
    inner: Index  # (T,) inner entity of each tile row
    places: Index  # (S,) tile row · L + lane of each row
    planes: NDArray[np.uint64]  # (most rows in one place, T): bit s of plane d is set where more than d rows are in place s

    def tile(self, values: Array, dtype: Any) -> Array:
        """Sums of rows' values over each place. Shape: (S, C) -> (C, T, L)."""
        shape = (len(self.inner), self.lanes)
        sums = [np.bincount(self.places, column, minlength=shape[0] * shape[1]) for column in values.T]
        return np.array(sums, dtype=dtype).reshape(-1, *shape)


@dataclass(frozen=True)
class Tables:
    """What the rows of one expression need against the training grid: all from inner products between entities."""

    inner: Index  # (n',) inner entity of each row
    outer: Index  # (n',)
    inner_gram: Array  # (n1', n1) unit-norm inner products with the training entities
    outer_gram: Array  # (n2, n2')
    inner_start: Array  # (m, Q, n1') factors of the starting values
    outer_start: Array  # (m, Q, n2')


@dataclass
class Cells:
    """The rows of one expression as cells, made on first use, and the strip in use."""

    features: Features
    sides: Sides
    initial: InitialWeights
    normalize: bool
    grid: Features | None = None  # the training rows, where `features` are others
    strip: Strip | None = None
    buffers: Buffers = field(default_factory=Buffers)
    _tables: Tables | None = None

    def __getstate__(self) -> dict[str, Any]:
        self.strip = None  # this object and its copy go on alike, to the last bit
        return {**self.__dict__, "buffers": Buffers(), "_tables": None}

    @property
    def tables(self) -> Tables:
        """Inner products and starting values. Cost: those of all entities with the training entities."""
        if self._tables is None:
            self._tables = self._make_tables()
        return self._tables

    def _make_tables(self) -> Tables:
        inner, outer = self.sides.split(self.features)
        known = None if self.grid is None else self.sides.split(self.grid)
        dtype = np.dtype(self.initial.network.dtype)
        return Tables(
            inner=inner.entity, outer=outer.entity,
            inner_gram=_unit_gram("inner", inner, inner if known is None else known[0], self.normalize, dtype),
            outer_gram=_unit_gram("outer", outer if known is None else known[1], outer, self.normalize, dtype),
            inner_start=self._start(inner, self.sides.inner, dtype) / dtype.type(np.sqrt(self.initial.network.init_rank)),
            outer_start=self._start(outer, self.sides.outer, dtype),
        )  # fmt: skip

    def _start(self, side: Side, factors: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
        """⟨w_r(0), ·⟩ of one side's unit-norm entities, by neuron and rank. Shape: (m, Q, entities)."""
        network = self.initial.network
        _check_bytes("starting values", network.n_hidden * network.init_rank * side.n_entities * dtype.itemsize)
        values = self.initial.values(self.features[side.first], self.normalize, dtype).factors(factors)
        return np.ascontiguousarray(values * inverse_norms(side.node, self.normalize).astype(dtype))

    def block(self, rows: Index) -> Block:
        """How these rows fall into tiles: the strip in use where it has their outer entities, else new strips."""
        inner, outer = self.tables.inner[rows], self.tables.outer[rows]
        wanted, rank = self._lanes_for(outer)
        lanes = next((w for w in LANES if len(wanted) <= w), LANES[-1])
        strip, lane = np.divmod(rank[outer], lanes)
        n_inner, n_strips = len(self.tables.inner_gram), -(-len(wanted) // lanes)
        keys, tile_row = _distinct(strip * n_inner + inner, n_strips * n_inner)
        bounds = np.searchsorted(keys, np.arange(n_strips + 1) * n_inner).tolist()
        tiles = tuple(Tile(wanted[k * lanes : (k + 1) * lanes], bounds[k], bounds[k + 1]) for k in range(n_strips))
        places = tile_row[strip * n_inner + inner] * lanes + lane
        counts = np.bincount(places, minlength=len(keys) * lanes).reshape(-1, lanes)
        planes = np.stack([_as_bits(counts >= d) for d in range(1, counts.max() + 1)])
        return Block(lanes, tiles, keys % n_inner, places, planes)

    def _lanes_for(self, outer: Index) -> tuple[Index, Index]:
        """`_distinct` of the outer entities: with those of the strip in use where that has them, or has room for the rest."""
        n = self.tables.outer_gram.shape[1]
        wanted, rank = _distinct(outer, n)
        if self.strip is None:
            return wanted, rank
        union, rank_in_union = _distinct(np.concatenate([self.strip.outer, wanted]), n)
        overlap = len(union) < len(self.strip.outer) + len(wanted)
        keep = len(union) == len(self.strip.outer) or (overlap and len(union) <= LANES[-1])
        return (union, rank_in_union) if keep else (wanted, rank)

    def buffer(self, name: str, *shape: int) -> Array:
        """A C-contiguous array of this shape that later steps reuse. ValueError where it cannot fit."""
        dtype = np.dtype(self.initial.network.dtype)
        _check_bytes(f"a {name} of {' × '.join(map(str, shape))} numbers", math.prod(shape) * dtype.itemsize)
        return self.buffers.take(name, shape, dtype)


def _distinct(numbers: Index, n: int) -> tuple[Index, Index]:
    """(sorted distinct numbers, array (n,) that gives the rank of each). Cost: n + S, without sorting."""
    rank = np.zeros(n, dtype=np.int64)
    rank[numbers] = 1
    distinct = np.flatnonzero(rank)
    rank[distinct] = np.arange(len(distinct))
    return distinct, rank


def _as_bits(flags: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """(T, L ≤ 64) -> (T,), bit s from column s."""
    packed = np.packbits(flags, axis=1, bitorder="little")
    return np.pad(packed, [(0, 0), (0, 8 - packed.shape[1])]).view("<u8")[:, 0].astype(np.uint64)


def _unit_gram(which: str, a: Side, b: Side, normalize: bool, dtype: np.dtype[Any]) -> Array:
    """Inner products of unit-norm entities. Shape: (|a|, |b|)."""
    what = f"inner products of {a.n_entities} × {b.n_entities} {which} entities"
    _check_bytes(what, a.n_entities * b.n_entities * dtype.itemsize)
    gram = a.node.inner(b.node) * inverse_norms(a.node, normalize)[:, None]
    gram *= inverse_norms(b.node, normalize)
    return np.ascontiguousarray(gram, dtype=dtype)


def _check_bytes(what: str, need: int) -> None:
    if need > MAX_BYTES:
        raise ValueError(
            f'engine="grid" would keep {need / 2**30:.1f} GiB for {what}, above the {MAX_BYTES / 2**30:.0f} GiB allowed; use '
            'engine="scan", or fewer neurons or entities.'
        )
