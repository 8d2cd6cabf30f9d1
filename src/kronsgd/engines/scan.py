"""The scan engine: lazy sparse coefficients over training rows, evaluated for all neurons.

w_r = w_r(0) + Σ_j α_jr x_j, so ⟨w_r, x_i⟩ = ⟨w_r(0), x_i⟩ + Σ_j α_jr ⟨x_j, x_i⟩, and α_jr is non-zero only where
neuron r has fired on row j. Nothing has the product's dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram, tiled
from kronsgd.features.serialize import compress
from kronsgd.initial import InitialWeights, StartingValues
from kronsgd.kernels import scan as kernels
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["Coefficients", "ScanEngine", "ScanState"]

TAIL = 256  # places for new rows of a neuron between two compactions
SMALLEST_SCALE = 1e-6  # of the decay factor, before it is multiplied into the coefficients


@dataclass
class Coefficients:
    """α by neuron: a sorted list of (row, value) each, and a short tail of rows that are new. α = scale · values."""

    indptr: NDArray[np.int64]  # (m + 1,)
    rows: NDArray[np.int32]  # (nnz,)
    values: Array  # (nnz,)
    tail_len: NDArray[np.int64]  # (m,)
    tail_rows: NDArray[np.int32]  # (m, T)
    tail_values: Array  # (m, T)
    scale: float = 1.0

    @classmethod
    def empty(cls, n_hidden: int, dtype: str, tail: int = TAIL) -> Coefficients:
        """No coefficients yet."""
        none = np.zeros(0, dtype=np.int32)
        tail_rows = np.zeros((n_hidden, tail), dtype=np.int32)
        return cls(
            np.zeros(n_hidden + 1, dtype=np.int64), none, np.zeros(0, dtype=dtype),
            np.zeros(n_hidden, dtype=np.int64), tail_rows, np.zeros(tail_rows.shape, dtype=dtype),
        )  # fmt: skip

    @property
    def nnz(self) -> int:
        """Number of stored coefficients."""
        return len(self.values) + int(self.tail_len.sum())

    def sorted_lists(self) -> tuple[Array, Array, Array]:
        """(indptr, rows, values), as the kernels take them."""
        return self.indptr, self.rows, self.values

    def tails(self) -> tuple[Array, Array, Array]:
        """(lengths, rows, values), as the kernels take them."""
        return self.tail_len, self.tail_rows, self.tail_values

    def make_room(self, n: int) -> None:
        """See that every tail takes `n` more rows, compacting if one is too full."""
        if int(self.tail_len.max()) + n > self.tail_rows.shape[1]:
            self.compact()
        if n > self.tail_rows.shape[1]:
            self.tail_rows = np.zeros((len(self.tail_len), n), dtype=np.int32)
            self.tail_values = np.zeros(self.tail_rows.shape, dtype=self.values.dtype)

    def compact(self) -> None:
        """Merge the tails into the sorted lists."""
        sizes = np.empty(len(self.tail_len), dtype=np.int64)
        order = np.empty(self.tail_rows.shape, dtype=np.int32)
        kernels.merged_sizes(sizes, order, self.indptr, self.tail_len, self.tail_rows)
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        rows, values = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=self.values.dtype)
        kernels.compact(indptr, rows, values, *self.sorted_lists(), *self.tails(), order)
        self.indptr, self.rows, self.values = indptr, rows, values

    def decay(self, factor: float) -> None:
        """α ← factor · α, lazily: only `scale` changes, until it has become small."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self.values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.tail_values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.scale = 1.0

    def matrix(self, n_rows: int) -> sp.csr_array:
        """α as a CSR matrix (m, n), float64."""
        shape = (len(self.tail_len), n_rows)
        main = sp.csr_array((self.values.astype(np.float64), self.rows, self.indptr), shape=shape)
        used = np.arange(self.tail_rows.shape[1]) < self.tail_len[:, None]
        neurons = np.nonzero(used)[0]
        tail = sp.coo_array((self.tail_values[used].astype(np.float64), (neurons, self.tail_rows[used])), shape=shape)
        return sp.csr_array((main + tail.tocsr()) * self.scale)


@dataclass
class ScanState(State):
    """Coefficients, and what evaluates inner products."""

    gram: RowGram
    initial: InitialWeights
    start: StartingValues
    coefficients: Coefficients
    buffers: dict[str, Array] = field(default_factory=dict)  # reused from step to step; hold nothing between phases

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "buffers": {}}


@dataclass(frozen=True)
class ScanView:
    """New rows and their starting values."""

    features: Features
    start: StartingValues
    buffers: dict[str, Array] = field(default_factory=dict)  # its own, so that several threads can predict at once


class ScanEngine(Engine):
    """Evaluates every neuron on every row of the batch. Cost of a step: 2·S·nnz(α) flops + 2·S·n gathers per factor."""

    name: ClassVar[str] = "scan"

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> ScanState:
        features = compress(features)
        initial = InitialWeights(network, features if basis is None else basis)
        return ScanState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            gram=RowGram(features, network.dtype, normalize), initial=initial,
            start=initial.values(features, normalize, network.dtype),
            coefficients=Coefficients.empty(network.n_hidden, network.dtype),
        )  # fmt: skip

    def forward(self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None = None) -> Activations:
        network, alpha = state.network, state.coefficients
        lanes = next((w for w in kernels.LANES if len(rows) <= w), kernels.LANES[-1])
        n_tiles = -(-len(rows) // lanes)
        buffers, dtype = (view or state).buffers, network.dtype
        panel = _buffer(buffers, dtype, "panel", (n_tiles, state.gram.n_rows, lanes))
        state.gram.panel(rows, lanes, view.features if view else None, out=panel)
        hidden = _buffer(buffers, dtype, "hidden", (n_tiles, network.n_hidden, lanes))
        bounds = network.blocks
        partial = np.empty((n_tiles, len(bounds) - 1, network.n_outputs, lanes), dtype=network.dtype)
        fired = np.zeros((n_tiles, len(bounds) - 1), dtype=np.int64)
        cursor = np.empty(network.n_hidden, dtype=np.int64)
        z0 = (view or state).start(rows)
        real = np.dtype(network.dtype).type
        for t in range(n_tiles):
            size = min(lanes, len(rows) - t * lanes)
            kernels.accumulate(hidden[t], cursor, panel[t], *alpha.sorted_lists(), bounds)
            kernels.activate(
                hidden[t], partial[t], fired[t], panel[t], z0, *alpha.tails(), bounds, state.output_weights,
                real(alpha.scale), real(network.threshold), size, t,
            )  # fmt: skip
        totals = partial.astype(np.float64).sum(axis=1)  # blocks in order: (tiles, C, lanes)
        outputs = network.scale * totals.transpose(0, 2, 1).reshape(-1, network.n_outputs)[: len(rows)]
        return Activations(rows, hidden, outputs, int(fired.sum()))

    def view(self, state: ScanState, features: Features) -> ScanView:
        features = compress(features)
        return ScanView(features, state.initial.values(features, state.normalize, state.network.dtype))

    def backward(
        self, state: ScanState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0
    ) -> Step:
        network, hidden = state.network, activations.hidden
        decay = 1.0 - step * alpha
        scaled = -step * network.scale * slopes
        change = None
        if network.train_output:
            change = np.empty_like(state.output_weights)
            kernels.neuron_gradient(change, hidden, _tiled_slopes(scaled, hidden), network.blocks)
        kernels.step_coefficients(hidden, _tiled_slopes(scaled, hidden), state.output_weights, network.blocks)
        return Step(activations.rows, hidden, change, decay)

    def update(self, state: ScanState, step: Step) -> None:
        alpha = state.coefficients
        alpha.make_room(len(step.rows))
        alpha.decay(step.decay)
        if alpha.scale != 1:
            step.coefficients[:] *= np.asarray(1 / alpha.scale, dtype=step.coefficients.dtype)
        kernels.record(step.coefficients, step.rows, *alpha.sorted_lists(), *alpha.tails(), state.network.blocks)
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def extend(self, state: ScanState, features: Features) -> ScanState:
        state.features = features
        state.gram = RowGram(features, state.network.dtype, state.normalize)
        state.start = state.initial.values(features, state.normalize, state.network.dtype)
        return state

    def hidden(self, state: ScanState, activations: Activations) -> Array:
        tiles, m, lanes = activations.hidden.shape
        return activations.hidden.transpose(0, 2, 1).reshape(tiles * lanes, m)[: len(activations.rows)]

    def hidden_weights(self, state: ScanState) -> Array:
        start = state.initial.hidden_weights()
        x = state.initial.prototype.coordinates(state.features) * state.gram.inverse_norms[:, None]
        return np.asarray(start + state.coefficients.matrix(state.features.n_rows) @ x)

    def basis(self, state: ScanState) -> Features:
        return state.initial.prototype

    def arrays(self, state: ScanState) -> dict[str, Array]:
        c = state.coefficients
        longest = max(int(c.tail_len.max()), 1)
        return {
            "indptr": c.indptr, "rows": c.rows, "values": c.values, "tail_len": c.tail_len,
            "tail_rows": np.ascontiguousarray(c.tail_rows[:, :longest]),
            "tail_values": np.ascontiguousarray(c.tail_values[:, :longest]),
            "scale": np.array([c.scale]), "tail_room": np.array([c.tail_rows.shape[1]]),
            "output_weights": state.output_weights,
        }  # fmt: skip

    def restore(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        m, n, dtype = state.network.n_hidden, state.features.n_rows, state.network.dtype
        indptr = check_array("indptr", arrays, (m + 1,), "i").astype(np.int64)
        if indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError("array 'indptr' does not grow from 0")
        rows = check_array("rows", arrays, (int(indptr[-1]),), "i").astype(np.int32)
        values = check_array("values", arrays, (int(indptr[-1]),), "f").astype(dtype)
        tail_len = check_array("tail_len", arrays, (m,), "i").astype(np.int64)
        tail_rows = check_array("tail_rows", arrays, (m, None), "i").astype(np.int32)
        tail_values = check_array("tail_values", arrays, tail_rows.shape, "f").astype(dtype)
        room = int(check_array("tail_room", arrays, (1,), "i")[0])
        if not 0 <= tail_len.min() <= tail_len.max() <= tail_rows.shape[1] <= room <= 2**20:
            raise ValueError("array 'tail_len' does not fit the tails")
        if any(len(r) and not 0 <= r.min() <= r.max() < n for r in (rows, tail_rows.ravel())):
            raise ValueError(f"coefficients point outside the {n} training rows")
        c = Coefficients.empty(m, dtype, room)
        c.indptr, c.rows, c.values, c.tail_len = indptr, rows, values, tail_len
        c.tail_rows[:, : tail_rows.shape[1]], c.tail_values[:, : tail_rows.shape[1]] = tail_rows, tail_values
        c.scale = float(check_array("scale", arrays, (1,), "f")[0])
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(dtype)
        state.coefficients = c


def _buffer(buffers: dict[str, Array], dtype: str, name: str, shape: tuple[int, ...]) -> Array:
    """A C-contiguous array of this shape that is reused by later steps."""
    size = int(np.prod(shape))
    kept = buffers.get(name)
    if kept is None or kept.size < size:
        kept = buffers[name] = np.empty(size, dtype=dtype)
    return kept[:size].reshape(shape)


def _tiled_slopes(slopes: Array, hidden: Array) -> Array:
    """(S, C) -> (tiles, C, lanes) in the precision of `hidden`."""
    return tiled(slopes.T, hidden.shape[2], hidden.dtype)
