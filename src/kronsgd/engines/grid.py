"""The grid engine: a product's rows as pairs of entities, at a cost per pair that hardly grows with their number.

A cell is a pair (p, q) of an inner and an outer entity. ⟨w_r, x_(p,u)⟩ = Σ_p' A[p,p'] h_r[p',u] with the half-contracted
h_r[p',u] = Σ_q' α_r[p',q'] B[q',u]. A strip keeps h for all p' and up to 64 outer entities u over many steps: it is built
once, at nnz multiply-adds per neuron and u, every step adds its own coefficients to it, and then a pair costs n1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.engines.cells import Block, Cells, Strip, Tile
from kronsgd.engines.coefficients import Coefficients
from kronsgd.engines.combining import combined
from kronsgd.engines.segments import Segments
from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.serialize import compress
from kronsgd.features.sides import Sides
from kronsgd.initial import InitialWeights
from kronsgd.kernels import grid as kernels
from kronsgd.kernels.bfloat16 import to_float
from kronsgd.kernels.scan import LANES
from kronsgd.network import TwoLayer
from kronsgd.parallel import map_threads
from kronsgd.validation import check_array, check_count

__all__ = ["GridEngine", "GridState"]

VIEW_NUMBERS = 1 << 26  # of starting values of each side that a prediction keeps at a time
PREDICT_ROWS = 32  # inner entities of a block of predictions


@dataclass
class GridState(State):
    """Coefficients by cell p·2^bits + q, a slice for each inner entity p, and what evaluates inner products."""

    cells: Cells
    coefficients: Coefficients

    @property
    def shape(self) -> tuple[int, int]:
        """(inner, outer) entities of the training rows."""
        tables = self.cells.tables
        return len(tables.inner_gram), len(tables.outer_gram)


@dataclass(frozen=True)
class GridActivations(Activations):
    """hidden: (m, T, L), by tile row and lane of the block; it holds numbers of no meaning where no row is."""

    block: Block
    strip: Strip  # that of the last tile
    fired: NDArray[np.uint64]  # (m, T): bit s is set where the neuron fires on the rows in lane s


@dataclass(frozen=True)
class GridStep(Step):
    """coefficients: (m, T) bits, where a neuron fires; a cell's coefficient is Σ_c slopes · a there."""

    block: Block
    strip: Strip
    slopes: Array  # (C, T, L)


class GridEngine(Engine):
    """For blocks of pairs. Cost of a step of P × U cells: 2·m·P·U·n1 flops, and 2·U·nnz(α) once for each strip."""

    name: ClassVar[str] = "grid"
    narrow: ClassVar[bool] = True

    def __init__(self, flip: bool = False) -> None:
        self.flip = flip  # the larger side inside

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> GridState:
        features = compress(features)
        sides = Sides.of(features, self.flip)
        if network.init != "structured":
            raise ValueError(f'engine="grid" needs init="structured", not {network.init!r}; or use engine="scan".')
        initial = InitialWeights(network, features if basis is None else basis)
        initial.prototype.check_compatible(features)
        cells = Cells(features, sides, initial, normalize)
        return GridState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            cells=cells, coefficients=Coefficients.empty(_segments(cells), network),
        )  # fmt: skip

    def begin_epoch(self, state: GridState) -> None:
        """Forget the strip: an epoch starts alike whether or not the model was saved before it."""
        state.cells.strip = None

    def stream(self, state: GridState, on: bool) -> None:
        """Forget the strip, as before an epoch."""
        state.cells.strip = None

    def sides(self, state: GridState) -> Sides:
        return state.cells.sides

    def forward(self, state: GridState, rows: NDArray[np.int64], view: Cells | None = None) -> GridActivations:
        network, cells = state.network, state.cells if view is None else view
        block, bounds, tables = cells.block(rows), network.blocks, cells.tables
        shape, real = (len(block.inner), block.lanes), np.dtype(network.dtype).type
        hidden = cells.buffer("block", network.n_hidden, *shape)
        fired = cells.buffers.take("fired", (network.n_hidden, shape[0]), "uint64")
        partial = cells.buffer("partial outputs", len(bounds) - 1, network.n_outputs, *shape)
        gram, scale = np.ascontiguousarray(tables.inner_gram[block.inner].T), state.coefficients.scale
        for tile in block.tiles:
            strip = _strip(state, cells, tile, block.lanes, len(block.tiles) > 1)
            gram = gram[: strip.h.shape[1]]
            kernels.activate(
                hidden, fired, partial, strip.h, gram, strip.start, tables.inner_start, block.inner, block.planes[0],
                tile.first, tile.beyond, state.output_weights, real(scale), real(1 / scale), real(network.threshold), bounds,
            )  # fmt: skip
        n_fired = sum(int(np.bitwise_count(fired & plane).sum(dtype=np.int64)) for plane in block.planes)
        totals, n_fired, crowded = combined(
            network, partial, 0, n_fired, lambda: view is None and not state.coefficients.has_room(_counts(fired))
        )  # fmt: skip
        totals = totals.reshape(network.n_outputs, -1)[:, block.places]
        return GridActivations(rows, hidden, network.scale * totals.T, n_fired, block, strip, fired, crowded=crowded)

    def view(self, state: GridState, features: Features) -> Cells:
        state.cells.initial.prototype.check_compatible(features)
        cells = state.cells
        return Cells(compress(features), cells.sides, cells.initial, state.normalize, grid=state.features)

    def backward(
        self, state: GridState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0
    ) -> GridStep:
        assert isinstance(activations, GridActivations)
        network, hidden, block = state.network, activations.hidden, activations.block
        tile = block.tile(-step * network.scale * slopes, network.dtype)
        change = None
        if network.train_output:
            change = network.within_members(_neuron_gradient(hidden.reshape(len(hidden), -1), tile, network.blocks))
        return GridStep(
            activations.rows, activations.fired, change, 1.0 - step * alpha, block, activations.strip, tile,
            crowded=activations.crowded,
        )  # fmt: skip

    def update(self, state: GridState, step: Step) -> None:
        assert isinstance(step, GridStep)
        alpha, cells, block = state.coefficients, state.cells, step.block
        expected = alpha.scale * step.decay
        alpha.decay(step.decay)
        if alpha.scale != expected:
            cells.strip = None  # its coefficients have been scaled
        slopes = step.slopes if alpha.scale == 1 else step.slopes / step.slopes.dtype.type(alpha.scale)
        alpha.make_room(_counts(step.coefficients), step.crowded)
        whole = len(block.inner) == state.shape[0]  # no other block of this strip will follow
        live = cells.strip is step.strip and len(block.tiles) == 1 and not whole
        if not live:
            cells.strip = None
        salt = alpha.next_salt()
        for tile in block.tiles:
            kernels.record(
                step.strip.h, step.coefficients, slopes, state.output_weights, block.inner, tile.first, tile.beyond,
                tile.outer, step.strip.own, live, *alpha.lists(), state.network.blocks, salt,
            )  # fmt: skip
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def outputs(self, state: GridState, features: Features) -> Array:
        """The network's outputs on new rows, block by block whatever their order. Shape: (n', C), float64."""
        state.cells.initial.prototype.check_compatible(features)
        out = np.empty((features.n_rows, state.network.n_outputs))
        inner, outer = (side.entity for side in state.cells.sides.split(features))
        lanes = LANES[-1]
        network = state.network
        most = max(lanes, VIEW_NUMBERS // (network.whole.n_hidden * network.init_rank) // lanes * lanes)
        for part in _by_key(outer // most, inner // most):
            view = self.view(state, features[part])
            tables = view.tables
            for strip in _by_key(tables.outer // lanes):
                outer = np.unique(tables.outer[strip])  # all at once: blocks that lack some of them would each begin anew
                _strip(state, view, Tile(outer, 0, 0), next(w for w in LANES if len(outer) <= w), passing=True)
                inner = np.unique(tables.inner[strip], return_inverse=True)[1]  # few of all, where rows are scattered
                for block in _by_key(inner // PREDICT_ROWS):
                    out[part[strip[block]]] = self.forward(state, strip[block], view).outputs
        return out

    def size(self, state: GridState) -> int:
        return state.coefficients.size

    def extend(self, state: GridState, features: Features) -> GridState:
        """More rows: the coefficients move to the cells that the old rows have in the larger grid."""
        old, alpha, n_old = state.cells.tables, state.coefficients, state.features.n_rows
        alpha.compact()
        before = _numbers(alpha.segments, old.inner, old.outer)
        state.features = features
        state.cells = Cells(features, state.cells.sides, state.cells.initial, state.normalize)
        lists = alpha.by_neuron()
        alpha.segments = _segments(state.cells)
        new = state.cells.tables
        cell = np.zeros(int(before.max()) + 1, dtype=np.int32)
        cell[before] = _numbers(alpha.segments, new.inner[:n_old], new.outer[:n_old])
        indptr, rows, values = lists
        moved = sp.csr_array((to_float(values), cell[rows], indptr), shape=(state.network.n_hidden, alpha.segments.n_rows))
        moved.sum_duplicates()  # sorts, and adds up cells whose entities turned out to be equal
        alpha.set_lists(moved.indptr.astype(np.int64), moved.indices.astype(np.int32), alpha.kept(moved.data))
        return state

    def hidden(self, state: GridState, activations: Activations) -> Array:
        assert isinstance(activations, GridActivations)
        flat = activations.hidden.reshape(state.network.n_hidden, -1)
        return np.ascontiguousarray(flat[:, activations.block.places].T)

    def hidden_weights(self, state: GridState) -> Array:
        start, tables, alpha = state.cells.initial.hidden_weights(), state.cells.tables, state.coefficients
        seen, rows = np.unique(_numbers(alpha.segments, tables.inner, tables.outer), return_index=True)
        kept = state.features[rows]
        x = state.cells.initial.prototype.coordinates(kept) * inverse_norms(kept, state.normalize)[:, None]
        return np.asarray(start + alpha.matrix(alpha.segments.n_rows)[:, seen] @ x)

    def basis(self, state: GridState) -> Features:
        return state.cells.initial.prototype

    def arrays(self, state: GridState) -> dict[str, Array]:
        state.cells.strip = None  # so that this state goes on just as one restored from the arrays
        sides = np.zeros(len(state.cells.sides.inner) + len(state.cells.sides.outer), dtype=np.int64)
        sides[list(state.cells.sides.outer)] = 1
        return {**state.coefficients.arrays(), "output_weights": state.output_weights, "sides": sides}

    def restore(self, state: GridState, arrays: Mapping[str, Array]) -> None:
        cells = state.cells
        n_factors = len(cells.sides.inner) + len(cells.sides.outer)
        outer = check_array("sides", arrays, (n_factors,), "i") != 0
        if outer.all() or not outer.any():
            raise ValueError("array 'sides' leaves one side without factors")
        inside, outside = (tuple(np.flatnonzero(chosen).tolist()) for chosen in (~outer, outer))
        if (inside, outside) != (cells.sides.inner, cells.sides.outer):
            cells = Cells(state.features, Sides(inside, outside), cells.initial, state.normalize)
        segments = _segments(cells)
        alpha = Coefficients.from_arrays(arrays, segments, segments.n_rows, state.network)
        n_outer, last = len(cells.tables.outer_gram), (1 << segments.slice_bits) - 1
        if any(((arrays[name] & last) >= n_outer).any() for name in ("rows", "tail_rows")):
            raise ValueError(f"coefficients point outside the {n_outer} outer entities")
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(state.network.dtype)
        state.cells, state.coefficients = cells, alpha
        cells.strip = None

    def checkpoint(self, state: GridState) -> dict[str, Array]:
        """The strip in use too: built anew, it would differ in its last bits from the one that steps have added to."""
        strip = state.cells.strip
        arrays = self.arrays(state)
        state.cells.strip = strip
        return arrays if strip is None else {**arrays, "strip_outer": strip.outer, "strip": strip.h}

    def resume(self, state: GridState, arrays: Mapping[str, Array]) -> None:
        self.restore(state, arrays)
        if "strip" not in arrays:
            return
        n_inner, n_outer = state.shape
        outer = check_array("strip_outer", arrays, (None,), "i").astype(np.int64)
        h = check_array("strip", arrays, (state.network.n_hidden, n_inner, None), "f")
        lanes = h.shape[2]
        rising = len(outer) and outer[0] >= 0 and outer[-1] < n_outer and (np.diff(outer) > 0).all()
        if lanes not in LANES or not rising or len(outer) > lanes:
            raise ValueError("array 'strip_outer' does not name a strip's outer entities")
        _strip(state, state.cells, Tile(outer, 0, 0), lanes, passing=False).h[:] = h


def _neuron_gradient(hidden: Array, slopes: Array, bounds: NDArray[np.int64]) -> Array:
    """Σ over cells of hidden · slopes, a product for each neuron block: its bits do not depend on what others there are.

    Shape: hidden (m, T·L), slopes (C, T, L) -> (m, C). Cost: 2·m·T·L·C flops.
    """
    columns = np.ascontiguousarray(slopes.reshape(len(slopes), -1).T)
    out = np.empty((len(hidden), len(slopes)), dtype=hidden.dtype)

    def fill(block: tuple[int, int]) -> None:
        rows = slice(*block)
        out[rows] = hidden[rows] @ columns

    map_threads(fill, pairwise(bounds.tolist()), 2.0 * bounds[1] * columns.size)
    return out


def _counts(fired: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Cells that each neuron fires on. Shape: (m, T) bits -> (m,)."""
    return np.asarray(np.bitwise_count(fired).sum(axis=1, dtype=np.int64))


def _segments(cells: Cells) -> Segments:
    """A slice of the cells for each inner entity."""
    n_inner, n_outer = len(cells.tables.inner_gram), len(cells.tables.outer_gram)
    bits = (n_outer - 1).bit_length()
    check_count(f"cells ({n_inner:,} × {n_outer:,} entities, the second rounded up)", n_inner << bits, 'use engine="scan"')
    return Segments.consecutive(cells.initial.network.n_hidden, n_inner, bits)


def _numbers(segments: Segments, inner: NDArray[np.int64], outer: NDArray[np.int64]) -> NDArray[np.int64]:
    """Cell numbers."""
    return (inner << segments.slice_bits) + outer


def _strip(state: GridState, cells: Cells, tile: Tile, lanes: int, passing: bool) -> Strip:
    """The strip in use if it is over these outer entities, else a new one in its place.

    passing: the next one follows at once; then it is empty where nothing is learned, as while a step size is chosen.
    """
    kept = cells.strip
    if kept is not None and kept.h.size and kept.h.shape[2] == lanes and np.array_equal(kept.outer, tile.outer):
        return kept
    network, tables = state.network, cells.tables
    gram = cells.buffer("gram", len(tables.outer_gram), lanes)
    gram[:, : len(tile.outer)] = tables.outer_gram[:, tile.outer]
    gram[:, len(tile.outer) :] = 0
    own = cells.buffer("own", lanes, lanes)
    own[:] = 0
    if cells.grid is None:
        own[: len(tile.outer)] = gram[tile.outer]
    alpha = state.coefficients
    n_inner = 0 if passing and not len(alpha.values) and not alpha.tail_len.any() else state.shape[0]
    h = cells.buffer("strip", network.n_hidden, n_inner, lanes)
    start = cells.buffer("start", network.n_hidden, network.init_rank, lanes)
    kernels.build_strip(h, start, gram, tables.outer_start, tile.outer, *alpha.lists(), network.blocks)
    cells.strip = Strip(tile.outer, h, start, own)
    return cells.strip


def _by_key(*keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers with equal keys, together, in order within."""
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)
