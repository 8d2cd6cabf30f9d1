"""The eager engine: every training row's inner product with every neuron is stored, and moved whenever the neuron learns.

The update of arXiv 2305.08001 (section 4) without its trees. A step forms no inner product of a neuron, it looks them up; in
return each fired pair moves n stored numbers, and n·m of them are kept. It pays for tiny batches, where the scan engine's
sums cannot run over many rows at a time, as long as the numbers fit into memory, better still into a cache.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Step
from kronsgd.engines.scan import ScanActivations, ScanEngine, ScanState, ScanView
from kronsgd.features.base import Features
from kronsgd.kernels import eager as kernels
from kronsgd.kernels.scan import LANES
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["EagerEngine", "EagerState"]

GROWTH = 2  # rows that stored numbers have room for once there are more, in multiples of those there are


@dataclass
class EagerState(ScanState):
    """The scan engine's state and the stored inner products: a buffer, made from coefficients and never saved."""

    moved: Array = field(default_factory=lambda: np.zeros((0, 0)))  # (m, ≥ n): ⟨w_r − w_r(0), x_i⟩ in units of α's scale
    n_stored: int = 0  # rows whose numbers are up to date

    def __getstate__(self) -> dict[str, Any]:
        self.n_stored = 0  # this object and its copy go on alike, to the last bit
        return {**self.__dict__, "moved": np.zeros((0, 0))}


class EagerEngine(ScanEngine):
    """Cost of a step: S·m cache lines, 2·n flops for each fired pair. Memory: n·m numbers more than the scan engine.

    After `arrays` and `restore` all n·m numbers are made anew, 2·n·nnz(α) flops, so that a model that was saved goes on to the
    last bit as its copy does.
    """

    name: ClassVar[str] = "eager"
    narrow: ClassVar[bool] = False

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> EagerState:
        return EagerState(**super().initialize(network, features, normalize, basis).__dict__)

    def forward(self, state: ScanState, rows: NDArray[np.int64], view: ScanView | None = None) -> Activations:
        if view is not None:
            return super().forward(state, rows, view)
        assert isinstance(state, EagerState)
        self._catch_up(state)
        network, buffers, alpha = state.network, state.buffers, state.coefficients
        m, c, real = network.n_hidden, network.n_outputs, np.dtype(network.dtype).type
        lanes = min(len(rows), LANES[-1])
        n_tiles, n_blocks = -(-len(rows) // lanes), len(network.blocks) - 1
        hidden = buffers.take("hidden", (n_tiles, m, lanes), network.dtype)
        state.start.fill(hidden, rows)
        fired = buffers.take("fired", (n_tiles, m), "uint64")
        partial = buffers.take("partial", (n_tiles, n_blocks, c, lanes), network.dtype)
        kernels.forward(
            hidden, fired, partial, state.moved, rows, network.blocks, state.output_weights, real(alpha.scale),
            real(network.threshold),
        )  # fmt: skip
        totals = partial.sum(axis=1, dtype=np.float64)
        outputs = network.scale * totals.transpose(0, 2, 1).reshape(-1, c)[: len(rows)]
        return ScanActivations(rows, hidden, outputs, int(np.bitwise_count(fired).sum(dtype=np.int64)), fired)

    def _catch_up(self, state: EagerState) -> None:
        """Make the stored numbers of rows that are new, or of all."""
        n, m, first = state.features.n_rows, state.network.n_hidden, state.n_stored
        if first == n:
            return
        if state.moved.shape[1] < n:
            stored = np.empty((m, GROWTH * n if first else n), dtype=state.network.dtype)
            stored[:, :first] = state.moved[:, :first] if first else 0
            state.moved = stored
        for low in range(first, n, kernels.COLUMNS):
            new = np.arange(low, min(low + kernels.COLUMNS, n))
            panel = state.gram.panel(new, kernels.COLUMNS, None, state.buffers)
            kernels.fill(state.moved[:, low : new[-1] + 1], panel[0], *state.coefficients.lists())
        state.n_stored = n

    def update(self, state: ScanState, step: Step) -> None:
        assert isinstance(state, EagerState)
        alpha = state.coefficients
        before = alpha.scale * step.decay
        super().update(state, step)
        if alpha.scale != before:  # it has been multiplied in
            state.moved *= np.asarray(before, dtype=state.moved.dtype)
        added = alpha.added
        assert added is not None
        panel = state.gram.panel(step.rows, 1, None, state.buffers)
        kernels.update(state.moved, added.fired, added.slopes, added.weights, panel[:, :, 0])
        alpha.settle()  # the fired pairs' memory is used again

    def arrays(self, state: ScanState) -> dict[str, Array]:
        assert isinstance(state, EagerState)
        state.n_stored = 0
        return super().arrays(state)

    def restore(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        super().restore(state, arrays)
        assert isinstance(state, EagerState)
        state.n_stored = 0

    def checkpoint(self, state: ScanState) -> dict[str, Array]:
        """The stored numbers too: made anew, they would differ in their last bits from those that steps have moved."""
        assert isinstance(state, EagerState)
        return {**super().arrays(state), "moved": state.moved[:, : state.n_stored]}

    def resume(self, state: ScanState, arrays: Mapping[str, Array]) -> None:
        self.restore(state, arrays)
        assert isinstance(state, EagerState)
        moved = check_array("moved", arrays, (state.network.n_hidden, None), "f")
        if moved.shape[1] not in (0, state.features.n_rows):
            raise ValueError(f"array 'moved' has numbers of {moved.shape[1]} of the {state.features.n_rows} training rows")
        if moved.shape[1]:
            state.moved, state.n_stored = moved.astype(state.network.dtype), moved.shape[1]
