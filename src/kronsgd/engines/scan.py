"""The scan engine: lazy sparse coefficients over training rows, evaluated for all neurons.

w_r = w_r(0) + Σ_j α_jr x_j, so ⟨w_r, x_i⟩ = ⟨w_r(0), x_i⟩ + Σ_j α_jr ⟨x_j, x_i⟩, and α_jr is non-zero only where
neuron r has fired on row j. Nothing has the product's dimension.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from itertools import chain, repeat
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.buffers import Buffers
from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.engines.coefficients import Added, Coefficients
from kronsgd.engines.combining import combined
from kronsgd.engines.segments import Segments
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram, tiled
from kronsgd.features.serialize import compress
from kronsgd.initial import InitialWeights, StartingValues
from kronsgd.kernels import scan as kernels
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["ScanEngine", "ScanState", "lanes_for"]


@dataclass(frozen=True)
class Begun:
    """What a batch needs and no step changes. Never pickled."""

    rows: NDArray[np.int64]  # (S,)
    hidden: Array  # (tiles, m, lanes): starting values
    panel: Iterator[Array]  # (n, lanes) for each tile

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()


@dataclass
class ScanState(State):
    """Coefficients, and what evaluates inner products."""

    gram: RowGram
    initial: InitialWeights
    start: StartingValues
    coefficients: Coefficients
    buffers: Buffers = field(default_factory=Buffers)
    expected: NDArray[np.int64] | None = None  # the batch after the one to come
    begun: Begun | None = None  # of the batch to come


@dataclass(frozen=True)
class ScanView:
    """New rows and their starting values."""

    features: Features
    start: StartingValues
    buffers: Buffers = field(default_factory=Buffers)  # its own, so that several threads can predict at once


@dataclass(frozen=True)
class ScanActivations(Activations):
    """hidden (tiles, m, lanes): zero where a neuron does not fire."""

    fired: NDArray[np.uint64]  # (tiles, m): bit s of neuron r is set where it fires on row s of the tile


def lanes_for(size: int) -> int:
    """Columns of a tile of a batch of so many rows."""
    return next((width for width in kernels.LANES if size <= width), kernels.LANES[-1])


class ScanEngine(Engine):
    """Evaluates every neuron on every row of the batch. Cost of a step: 2·S·nnz(α) flops + 2·S·n gathers per factor."""

    name: ClassVar[str] = "scan"
    narrow: ClassVar[bool] = True

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> ScanState:
        segments = Segments.of(network.blocks, features.n_rows)
        features = compress(features)
        initial = InitialWeights(network, features if basis is None else basis)
        return ScanState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            gram=RowGram(features, network.dtype, normalize), initial=initial,
            start=initial.values(features, normalize, network.dtype),
            coefficients=Coefficients.empty(segments, network),
        )  # fmt: skip

    def begin_epoch(self, state: ScanState) -> None:
        """Sort what is new."""
        state.coefficients.merge_long_tails()

    def expect(self, state: ScanState, rows: NDArray[np.int64] | None) -> None:
        state.expected = rows if state.network.exchange.size > 1 else None

    def stream(self, state: ScanState, on: bool) -> None:
        """Do without inner products between all entities, which take as many for a new one as there are."""
        state.gram.caching, state.start.caching, state.begun = not on, not on, None

    def forward(self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None = None) -> Activations:
        network = state.network
        hidden, fired, partial = self._evaluate(state, rows, view)
        if view is None and state.expected is not None and not network.train_output:
            hidden = hidden[:0].copy()  # no gradient needs it, and the next batch takes its memory
        counts = np.bitwise_count(fired).sum(axis=0, dtype=np.int64)
        totals, n_fired, crowded = combined(
            network, partial, 1, int(counts.sum()), lambda: view is None and not state.coefficients.has_room(counts),
            lambda: self._begin_next(state) if view is None else None,
        )  # fmt: skip
        outputs = network.scale * totals.transpose(0, 2, 1).reshape(-1, network.n_outputs)[: len(rows)]
        return ScanActivations(rows, hidden, outputs, n_fired, fired, crowded=crowded)

    def _evaluate(self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None) -> tuple[Array, Array, Array]:
        """(hidden values, fired bits, each block's part of the outputs): (tiles, m, L), (tiles, m), (tiles, blocks, C, L)."""
        network, alpha, bounds = state.network, state.coefficients, state.network.blocks
        buffers, real = (view or state).buffers, np.dtype(network.dtype).type
        begun = None
        if view is None:
            begun, state.begun = state.begun, None
        if begun is None or not np.array_equal(begun.rows, rows):
            begun = self._begin(state, rows, view)
        hidden = begun.hidden
        n_tiles, m, lanes = hidden.shape
        fired = buffers.take_other("fired", (n_tiles, m), "uint64")  # the step before may wait for this pass
        partial = buffers.take("partial", (n_tiles, len(bounds) - 1, network.n_outputs, lanes), network.dtype)
        for t, tile in enumerate(begun.panel):
            added = alpha.take_added() if view is None else Added.nothing(network.dtype)
            kernels.forward(
                hidden[t], fired[t], partial[t], tile, *added.arguments(), *alpha.lists(), bounds, state.output_weights,
                real(alpha.scale), real(1 / alpha.scale), real(network.threshold),
                min(lanes, len(rows) - t * lanes),
            )  # fmt: skip
        return hidden, fired, partial

    def _begin(
        self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None = None, early: bool = False
    ) -> Begun:
        """early: while the step before is under way. Its hidden values stay where their gradient is still to come."""
        network, alpha, buffers, lanes = state.network, state.coefficients, (view or state).buffers, lanes_for(len(rows))
        n_tiles = -(-len(rows) // lanes)
        take = buffers.take_other if early and network.train_output else buffers.take
        hidden = take("hidden", (n_tiles, network.n_hidden, lanes), network.dtype)
        (view or state).start.fill(hidden, rows)
        if early or len(alpha.values) or alpha.added is not None or alpha.tail_len.any():
            return Begun(rows, hidden, state.gram.tiles(rows, lanes, view.features if view else None, buffers))
        # nothing is learned yet: no inner product is looked at
        return Begun(rows, hidden, repeat(np.zeros((1, lanes), dtype=network.dtype), n_tiles))

    def _begin_next(self, state: ScanState) -> None:
        """The starting values and the first panel of the batch that is expected next."""
        rows, state.expected = state.expected, None
        if rows is not None:
            begun = self._begin(state, np.sort(rows), early=True)
            state.begun = replace(begun, panel=chain([next(begun.panel)], begun.panel))

    def view(self, state: ScanState, features: Features) -> ScanView:
        features = compress(features)
        return ScanView(features, state.initial.values(features, state.normalize, state.network.dtype))

    def backward(self, state: ScanState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0) -> Step:
        assert isinstance(activations, ScanActivations)
        network, hidden = state.network, activations.hidden
        scaled = tiled((-step * network.scale * slopes).T, lanes_for(len(slopes)), network.dtype)
        change = None
        if network.train_output:
            change = np.empty_like(state.output_weights)
            kernels.neuron_gradient(change, hidden, activations.fired, scaled, network.blocks)
            change = network.within_members(change)
        added = Added(activations.fired, scaled, state.output_weights, activations.rows)
        return Step(activations.rows, added, change, 1.0 - step * alpha, crowded=activations.crowded)

    def update(self, state: ScanState, step: Step) -> None:
        alpha, added = state.coefficients, step.coefficients
        alpha.decay(step.decay)
        if alpha.scale != 1:
            added = replace(added, slopes=(added.slopes / alpha.scale).astype(added.slopes.dtype))
        alpha.add(added, step.crowded)
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def size(self, state: ScanState) -> int:
        return state.coefficients.size

    def extend(self, state: ScanState, features: Features) -> ScanState:
        """Cost: that of the new rows, where `features` has grown in place; now and then that of a copy of everything."""
        state.initial.prototype.check_compatible(features)
        segments = state.coefficients.segments.over(features.n_rows)
        state.features, state.begun = features, None
        state.gram.extend(features)
        state.start.extend(features)
        state.coefficients.rearrange(segments)
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
        segments = Segments.of(state.network.blocks, state.features.n_rows)
        c = Coefficients.from_arrays(arrays, segments, state.features.n_rows, state.network)
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(state.network.dtype)
        state.coefficients = c
