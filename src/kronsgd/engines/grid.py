"""The grid engine: a product's rows as pairs of entities, at a cost per pair that hardly grows with their number.

A cell is a pair (p, q) of an inner and an outer entity. ⟨w_r, x_(p,u)⟩ = Σ_p' A[p,p'] h_r[p',u] with the half-contracted
h_r[p',u] = Σ_q' α_r[p',q'] B[q',u]. A strip keeps h for all p' and up to 64 outer entities u over many steps: it is built
once, at nnz multiply-adds per neuron and u, every step adds its own coefficients to it, and then a pair costs n1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.engines.cells import Block, Cells, Strip, Tile, aligned
from kronsgd.engines.coefficients import TAIL, Coefficients
from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.serialize import compress
from kronsgd.features.sides import Sides
from kronsgd.initial import InitialWeights
from kronsgd.kernels import grid as kernels
from kronsgd.network import TwoLayer
from kronsgd.parallel import matmul
from kronsgd.validation import check_array

__all__ = ["GridEngine", "GridState"]

VIEW_NUMBERS = 1 << 26  # of starting values of each side that a prediction keeps at a time
PREDICT_ROWS = 32  # inner entities of a block of predictions


@dataclass
class GridState(State):
    """Coefficients by cell p·n2 + q, and what evaluates inner products."""

    cells: Cells
    coefficients: Coefficients
    runs: tuple[Array, Array] | None = None  # (the lists' indptr, where each inner entity's cells begin in them: (m, n1 + 1))

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "runs": None}

    @property
    def shape(self) -> tuple[int, int]:
        """(inner, outer) entities of the training rows."""
        tables = self.cells.tables
        return len(tables.inner_gram), len(tables.outer_gram)


@dataclass(frozen=True)
class GridActivations(Activations):
    """hidden: (m, T, L), by tile row and lane of the block."""

    block: Block
    strip: Strip  # that of the last tile
    n_cells: NDArray[np.int64]  # (m,) cells on which each neuron fires


@dataclass(frozen=True)
class GridStep(Step):
    """coefficients: (m, T, L) activations, which say where a neuron fires; a cell's coefficient is Σ_c slopes · a."""

    block: Block
    strip: Strip
    n_cells: NDArray[np.int64]
    slopes: Array  # (C, T, L)


class GridEngine(Engine):
    """For blocks of pairs. Cost of a step of P × U cells: 2·m·P·U·n1 flops, and 2·U·nnz(α) once for each strip."""

    name: ClassVar[str] = "grid"

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
        state = GridState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            cells=Cells(features, sides, initial, normalize), coefficients=Coefficients.empty(network.n_hidden, network.dtype),
        )  # fmt: skip
        _check_cells(state)
        return state

    def begin_epoch(self, state: GridState) -> None:
        """Forget the strip and merge the tails: an epoch starts alike whether or not the model was saved before it."""
        state.cells.strip = None
        _compact(state)

    def sides(self, state: GridState) -> Sides:
        return state.cells.sides

    def forward(self, state: GridState, rows: NDArray[np.int64], view: Cells | None = None) -> GridActivations:
        network, cells = state.network, state.cells if view is None else view
        block, bounds, tables = cells.block(rows), network.blocks, cells.tables
        hidden = cells.buffer("block", network.n_hidden, *block.counts.shape)
        partial = np.empty((len(bounds) - 1, network.n_outputs + 1, *block.counts.shape), dtype=np.float64)
        n_cells = np.zeros(network.n_hidden, dtype=np.int64)
        gram, real = tables.inner_gram[block.inner], np.dtype(network.dtype).type
        observed = (block.counts > 0).astype(network.dtype)
        for tile in block.tiles:
            strip = _strip(state, cells, tile, block.lanes)
            kernels.activate(
                hidden, partial, n_cells, strip.h, gram, strip.start, tables.inner_start, block.inner, observed,
                tile.first, tile.beyond, state.output_weights, real(state.coefficients.scale), real(network.threshold), bounds,
            )  # fmt: skip
        totals = partial.sum(axis=0).reshape(network.n_outputs + 1, -1)[:, block.places]  # blocks in order
        return GridActivations(rows, hidden, network.scale * totals[:-1].T, int(totals[-1].sum()), block, strip, n_cells)

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
            change = matmul(hidden.reshape(len(hidden), -1), np.ascontiguousarray(tile.reshape(len(tile), -1).T))
        return GridStep(
            activations.rows, hidden, change, 1.0 - step * alpha, block, activations.strip, activations.n_cells, tile
        )

    def update(self, state: GridState, step: Step) -> None:
        assert isinstance(step, GridStep)
        alpha, cells, block = state.coefficients, state.cells, step.block
        expected = alpha.scale * step.decay
        alpha.decay(step.decay)
        if alpha.scale != expected:
            cells.strip = None  # its coefficients have been scaled
        slopes = step.slopes if alpha.scale == 1 else step.slopes / step.slopes.dtype.type(alpha.scale)
        _make_room(state, step.n_cells)
        live = cells.strip is step.strip and len(block.tiles) == 1
        if not live:
            cells.strip = None
        for tile in block.tiles:
            kernels.record(
                step.strip.h, step.coefficients, slopes, state.output_weights, block.inner, tile.first, tile.beyond,
                tile.outer, step.strip.own, live, state.shape[1], _runs(state), alpha.rows, alpha.values, *alpha.tails(),
                state.network.blocks,
            )  # fmt: skip
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def outputs(self, state: GridState, features: Features) -> Array:
        """The network's outputs on new rows, block by block whatever their order. Shape: (n', C), float64."""
        state.cells.initial.prototype.check_compatible(features)
        out = np.empty((features.n_rows, state.network.n_outputs))
        inner, outer = (side.entity for side in state.cells.sides.split(features))
        lanes = kernels.LANES[-1]
        network = state.network
        most = max(lanes, VIEW_NUMBERS // (network.n_hidden * network.init_rank) // lanes * lanes)
        for part in _by_key(outer // most, inner // most):
            view = self.view(state, features[part])
            tables = view.tables
            for places in _by_key(tables.outer // lanes, tables.inner // PREDICT_ROWS):
                out[part[places]] = self.forward(state, places, view).outputs
        return out

    def extend(self, state: GridState, features: Features) -> GridState:
        """More rows: the coefficients move to the cells that the old rows have in the larger grid."""
        old, n_outer = state.cells.tables, state.shape[1]
        n_old = state.features.n_rows
        _compact(state)
        state.features = features
        state.cells = Cells(features, state.cells.sides, state.cells.initial, state.normalize)
        _check_cells(state)
        new = state.cells.tables
        cell = np.empty(len(old.inner_gram) * n_outer, dtype=np.int32)
        cell[old.inner * n_outer + old.outer] = new.inner[:n_old] * state.shape[1] + new.outer[:n_old]
        alpha = state.coefficients
        shape = (state.network.n_hidden, state.shape[0] * state.shape[1])
        moved = sp.csr_array((alpha.values, cell[alpha.rows], alpha.indptr), shape=shape)
        moved.sum_duplicates()  # sorts, and adds up cells whose entities turned out to be equal
        alpha.indptr, alpha.rows, alpha.values = moved.indptr.astype(np.int64), moved.indices.astype(np.int32), moved.data
        return state

    def hidden(self, state: GridState, activations: Activations) -> Array:
        assert isinstance(activations, GridActivations)
        flat = activations.hidden.reshape(state.network.n_hidden, -1)
        return np.ascontiguousarray(flat[:, activations.block.places].T)

    def hidden_weights(self, state: GridState) -> Array:
        start, tables = state.cells.initial.hidden_weights(), state.cells.tables
        seen, rows = np.unique(tables.inner * state.shape[1] + tables.outer, return_index=True)
        kept = state.features[rows]
        x = state.cells.initial.prototype.coordinates(kept) * inverse_norms(kept, state.normalize)[:, None]
        return np.asarray(start + state.coefficients.matrix(state.shape[0] * state.shape[1])[:, seen] @ x)

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
        tables = cells.tables
        n_cells = len(tables.inner_gram) * len(tables.outer_gram)
        alpha = Coefficients.from_arrays(arrays, state.network.n_hidden, n_cells, state.network.dtype)
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(state.network.dtype)
        state.cells, state.coefficients = cells, alpha
        cells.strip = None


def _check_cells(state: GridState) -> None:
    n_inner, n_outer = state.shape
    if n_inner * n_outer >= 2**31:
        raise ValueError(f'engine="grid" numbers at most {2**31 - 1} cells, not {n_inner} × {n_outer}; use engine="scan".')


def _strip(state: GridState, cells: Cells, tile: Tile, lanes: int) -> Strip:
    """The strip in use if it is over these outer entities, else a new one in its place."""
    if cells.strip is not None and np.array_equal(cells.strip.outer, tile.outer):
        return cells.strip
    network, tables = state.network, cells.tables
    size = len(tile.outer)
    gram = aligned(len(tables.outer_gram) * lanes, network.dtype).reshape(-1, lanes)
    gram[:, :size], gram[:, size:] = tables.outer_gram[:, tile.outer], 0
    own = aligned(lanes * lanes, network.dtype).reshape(lanes, lanes)
    own[:] = 0
    if cells.grid is None:
        own[:size] = gram[tile.outer]
    h = cells.buffer("strip", network.n_hidden, state.shape[0], lanes)
    start = cells.buffer("start", network.n_hidden, network.init_rank, lanes)
    alpha = state.coefficients
    kernels.build_strip(
        h, start, gram, tables.outer_start, tile.outer, _runs(state), alpha.rows, alpha.values, *alpha.tails(), network.blocks
    )
    cells.strip = Strip(tile.outer, h, start, own)
    return cells.strip


def _runs(state: GridState) -> NDArray[np.int64]:
    """Where each inner entity's cells begin in the sorted lists; found anew when those have been merged with the tails."""
    alpha, known = state.coefficients, state.runs
    if known is not None and known[0] is alpha.indptr:
        return known[1]
    runs = np.empty((state.network.n_hidden, state.shape[0] + 1), dtype=np.int64)
    kernels.find_runs(runs, alpha.indptr, alpha.rows, state.shape[1], state.network.blocks)
    state.runs = alpha.indptr, runs  # only once it is whole: several threads may predict at once
    return runs


def _compact(state: GridState) -> None:
    if state.coefficients.tail_len.any():
        state.coefficients.compact()


def _make_room(state: GridState, n_cells: NDArray[np.int64]) -> None:
    """See that every tail takes the cells its neuron fires on."""
    alpha = state.coefficients
    room = alpha.tail_rows.shape[1]
    if int((alpha.tail_len + n_cells).max()) > room:
        _compact(state)
    most = int(n_cells.max(initial=0))
    if most > room:
        alpha.make_room(max(TAIL, 2 * most))


def _by_key(*keys: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    """Row numbers with equal keys, together, in order within."""
    order = np.lexsort(keys[::-1])
    changes = np.any([np.diff(key[order]) != 0 for key in keys], axis=0)
    return np.split(order, np.flatnonzero(changes) + 1)
