"""The tree engine: the scan engine's steps, with inner products evaluated only where a neuron can fire.

The asynchronous tree of arXiv 2305.08001 keeps a search tree over stored inner products, one for every row. Here nothing is
stored for pairs of rows and neurons: a query descends through upper bounds that need 1, 8 and 32 numbers (see
`engines.movement`), and evaluates the few neurons that pass them all. Exact: the fired sets, and every bit of the weights,
are the scan engine's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Step
from kronsgd.engines.movement import Movement
from kronsgd.engines.scan import ScanEngine, ScanState, ScanView, lanes_for
from kronsgd.engines.segments import Segments
from kronsgd.features.base import Features
from kronsgd.kernels import tree as kernels
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["TreeActivations", "TreeEngine", "TreeState"]

SINGLE = {16: 0.9, 64: 1.9}  # terms that are added one by one in the time of one on a tile of so many rows (measured)
WINDOW = 64  # steps after which pruning must have paid


@dataclass
class TreeState(ScanState):
    """The scan engine's state and the neurons' bounds; None once they no longer pay."""

    movement: Movement | None = None
    counts: Array = field(default_factory=lambda: np.zeros(5))  # steps, rows, evaluated and fired pairs, evaluated terms


@dataclass(frozen=True)
class TreeActivations(Activations):
    """Fired pairs only, by neuron block: hidden[block, q] for ends[block, s] ≤ q < ends[block, s + 1] belongs to row s."""

    neurons: NDArray[np.int32]  # (blocks, room)
    moved: Array  # (blocks, room): ⟨w_r − w_r(0), x_i⟩
    ends: NDArray[np.int64]  # (blocks, S + 1)
    panel: Array  # (S, n, 1)


@dataclass(frozen=True)
class TreeCoefficients:
    """What a step adds to α: Σ_c slopes[s, c]·a[r, c] for fired pairs."""

    activations: TreeActivations
    slopes: Array  # (S, C)


class TreeEngine(ScanEngine):
    """Evaluates the pairs that can fire. Cost of a step: 6·S·m flops for the first bound, 2·n·ρ for each evaluated pair."""

    name: ClassVar[str] = "tree"
    narrow: ClassVar[bool] = False

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> TreeState:
        state = TreeState(**super().initialize(network, features, normalize, basis).__dict__)
        state.movement = Movement.of(network, state.features, normalize, state.coefficients)
        return state

    def begin_epoch(self, state: ScanState) -> None:
        super().begin_epoch(state)
        if isinstance(state, TreeState) and state.movement is not None:
            state.movement.begin_epoch(state.coefficients)

    def forward(self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None = None) -> Activations:
        assert isinstance(state, TreeState)
        if view is None and state.movement is not None and not self.pays(state):
            state.movement = None  # for good: keeping them up to date costs as much as using them
        if view is not None:  # by the lists as they are: several threads may predict at once
            return super().forward(state, rows, view)
        if state.movement is None:
            self._slice(state)
            return super().forward(state, rows)
        state.coefficients.join()
        network, alpha, bounds, movement = state.network, state.coefficients, state.network.blocks, state.movement
        size, n_blocks, dtype = len(rows), len(bounds) - 1, np.dtype(network.dtype)
        buffers, room = state.buffers, len(rows) * int(bounds[1])
        panel = state.gram.panel(rows, 1, None, buffers)
        start = buffers.take("hidden", (size, network.n_hidden, 1), dtype)
        state.start.fill(start, rows)
        neurons, hidden = buffers.take("neurons", (n_blocks, room), np.int32), buffers.take("fired", (n_blocks, room), dtype)
        moved = buffers.take("moved", (n_blocks, room), np.float64)
        ends, counts = np.empty((n_blocks, size + 1), np.int64), np.empty((kernels.GROUPS, 3), np.int64)
        partial = buffers.take("partial", (n_blocks, network.n_outputs, size), dtype)
        lists = alpha.lists()[3:]
        kernels.forward(
            neurons, hidden, moved, ends, partial, counts, start, panel, movement.t[rows], movement.rest[rows],
            *movement.bounds(), movement.terms, *lists, bounds, state.output_weights,
            dtype.type(alpha.scale), dtype.type(1 / alpha.scale), dtype.type(network.threshold),
        )  # fmt: skip
        evaluated, fired, terms = counts.sum(axis=0).tolist()
        state.counts += (1, size, evaluated, fired, terms)
        totals = np.add.accumulate(partial, axis=0, dtype=np.float64)[-1]  # block after block, as the scan engine adds them
        return TreeActivations(rows, hidden, network.scale * totals.T, fired, neurons, moved, ends, panel)

    def _slice(self, state: TreeState) -> None:
        """The lists in slices, as the scan engine reads them for many rows at a time."""
        alpha = state.coefficients
        if alpha.segments.bounds is None:
            segments = Segments.of(state.network.blocks, state.features.n_rows)
            alpha.rearrange(segments.cut_for(alpha.nnz / (state.network.n_hidden * segments.n_rows), alpha.values.itemsize))

    def pays(self, state: TreeState) -> bool:
        """Whether evaluating pairs one by one has cost less, lately, than evaluating all would have."""
        steps, rows, _, _, terms = state.counts.tolist()
        if steps < WINDOW:
            return True
        state.counts[:] = 0
        lanes = lanes_for(int(rows / steps))
        return terms < state.coefficients.nnz * max(rows / lanes, steps) * SINGLE[lanes]

    def backward(self, state: ScanState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0) -> Step:
        if not isinstance(activations, TreeActivations):
            return super().backward(state, activations, slopes, step, alpha)
        network = state.network
        scaled = (-step * network.scale * slopes).astype(network.dtype)
        change = None
        if network.train_output:
            change = np.empty_like(state.output_weights)
            fired = activations.neurons, activations.hidden, activations.ends
            kernels.neuron_gradient(change, *fired, scaled, network.blocks)
            change = network.within_members(change)
        return Step(activations.rows, TreeCoefficients(activations, scaled), change, 1.0 - step * alpha)

    def update(self, state: ScanState, step: Step) -> None:
        if not isinstance(step.coefficients, TreeCoefficients):
            super().update(state, step)
            return
        assert isinstance(state, TreeState)
        assert state.movement is not None
        alpha, movement = state.coefficients, state.movement
        before = alpha.scale * step.decay
        alpha.decay(step.decay)
        added = step.coefficients
        if alpha.scale != before:  # it has been multiplied in
            movement.multiply(before)
            added = replace(added, activations=replace(added.activations, moved=added.activations.moved * before))
        if alpha.scale != before or abs(step.decay) > 1:
            movement.refresh(alpha.scale)
        self._add(state, movement, added)
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def _add(self, state: ScanState, movement: Movement, added: TreeCoefficients) -> None:
        """Put the step's coefficients into the lists, and move the bounds."""
        alpha, network, activations, slopes = state.coefficients, state.network, added.activations, added.slopes
        neurons, ends, rows = activations.neurons, activations.ends, activations.rows
        if alpha.scale != 1:
            slopes = (slopes / alpha.scale).astype(slopes.dtype)
        counts = state.buffers.take("added", (network.n_hidden,), np.int64)
        kernels.count_added(counts, neurons, ends, network.blocks)
        alpha.settle()
        alpha.make_room(counts)
        kernels.update(
            neurons, activations.hidden, activations.moved, ends, slopes, state.output_weights, rows, activations.panel,
            movement.t[rows], *movement.bounds(), *movement.sums(), alpha.scale, 1 / alpha.scale, network.threshold,
            *alpha.lists()[3:], network.blocks,
        )  # fmt: skip

    def extend(self, state: ScanState, features: Features) -> ScanState:
        super().extend(state, features)
        if isinstance(state, TreeState) and state.movement is not None:
            state.movement = state.movement.extend(state.features, state.normalize, state.coefficients)
        return state

    def hidden(self, state: ScanState, activations: Activations) -> Array:
        if not isinstance(activations, TreeActivations):
            return super().hidden(state, activations)
        out = np.zeros((len(activations.rows), state.network.n_hidden), activations.hidden.dtype)
        for block, ends in enumerate(activations.ends):
            row = np.repeat(np.arange(len(out)), np.diff(ends))
            out[row, activations.neurons[block, : ends[-1]]] = activations.hidden[block, : ends[-1]]
        return out

    def arrays(self, state: ScanState) -> dict[str, Array]:
        arrays = super().arrays(state)
        if isinstance(state, TreeState) and state.movement is not None:
            arrays["squared_norms"] = state.movement.squared + state.movement.hidden_by_rounding()
        return arrays

    def restore(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        squared = None
        if "squared_norms" in arrays:
            squared = check_array("squared_norms", arrays, (state.network.n_hidden,), "f")
        super().restore(state, arrays)
        assert isinstance(state, TreeState)
        state.movement = Movement.of(state.network, state.features, state.normalize, state.coefficients, squared)

    def checkpoint(self, state: ScanState) -> dict[str, Array]:
        """The bounds too: they change no weight, but which engine's lists are in use, and how tight later bounds are."""
        assert isinstance(state, TreeState)
        arrays = {**super().arrays(state), "counts": state.counts}
        return arrays if state.movement is None else {**arrays, **state.movement.arrays()}

    def resume(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        assert isinstance(state, TreeState)
        movement = state.movement
        super().restore(state, arrays)
        state.counts = check_array("counts", arrays, state.counts.shape, "f").copy()
        state.movement = None
        if "path" in arrays:
            state.movement = movement or Movement.of(state.network, state.features, state.normalize, state.coefficients)
            state.movement.take(arrays, state.coefficients)
            state.coefficients.join()
