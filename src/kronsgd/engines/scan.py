"""The scan engine: lazy sparse coefficients over training rows, evaluated for all neurons.

w_r = w_r(0) + Σ_j α_jr x_j, so ⟨w_r, x_i⟩ = ⟨w_r(0), x_i⟩ + Σ_j α_jr ⟨x_j, x_i⟩, and α_jr is non-zero only where
neuron r has fired on row j. Nothing has the product's dimension.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.engines.coefficients import Coefficients
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram, tiled
from kronsgd.features.serialize import compress
from kronsgd.initial import InitialWeights, StartingValues
from kronsgd.kernels import scan as kernels
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["ScanEngine", "ScanState"]


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
        return {**state.coefficients.arrays(), "output_weights": state.output_weights}

    def restore(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        c = Coefficients.from_arrays(arrays, state.network.n_hidden, state.features.n_rows, state.network.dtype)
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(state.network.dtype)
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
