"""The torch engine: the scan engine's steps as matrix products on a GPU, or on the processor where there is none.

w_r = w_r(0) + Σ_j α_jr x_j as there, but α (n, m) is kept whole, zeros and all: a GPU multiplies matrices so fast that leaving
out what is 0, which takes gathers, would not pay. docs/gpu.md has the count.

In float32 PyTorch's own switches say whether products may be rounded to TF32; unless a user sets them, they are not.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.engines.combining import combined
from kronsgd.engines.device import ON_PROCESSOR, Device
from kronsgd.engines.tensors import DenseCoefficients, Panels, Starts
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram, inverse_norms
from kronsgd.features.serialize import compress
from kronsgd.initial import InitialWeights, StartingValues
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["TorchEngine", "TorchState"]

logger = logging.getLogger("kronsgd")


@dataclass
class TorchState(State):
    """Coefficients on the device, and what evaluates inner products there. `output_weights` stays numpy's."""

    device: Device
    initial: InitialWeights
    gram: RowGram
    start: StartingValues
    coefficients: DenseCoefficients
    panels: Panels
    starts: Starts
    sent: tuple[Array, Any] | None = field(default=None)  # output weights, and the same on the device

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "sent": None}

    @property
    def norms(self) -> Array:
        """1/‖x_i‖ of each row. Shape: (n,)."""
        return self.gram.inverse_norms

    def weights_on_device(self) -> Any:
        """Shape: (m, C)."""
        if self.sent is None or self.sent[0] is not self.output_weights:
            self.sent = self.output_weights, self.device.copy(self.output_weights)
        return self.sent[1]


@dataclass(frozen=True)
class TorchView:
    """New rows, their inverse norms and their starting values."""

    features: Features
    norms: Array
    starts: Starts


@dataclass(frozen=True)
class TorchActivations(Activations):
    """hidden (S, m): a tensor, zero where a neuron does not fire."""


class TorchEngine(Engine):
    """Cost of a step: 2·S·n·m flops, and S·n gathers for each group of factors. Memory: n·m numbers on the device.

    The device is the current GPU, else the processor; the environment's KRONSGD_DEVICE names another.
    """

    name: ClassVar[str] = "torch"

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> TorchState:
        """ModuleNotFoundError without PyTorch, MemoryError where α does not fit on the device."""
        device, features = Device.current(), compress(features)
        if not device.is_gpu:
            logger.info(ON_PROCESSOR)
        initial = InitialWeights(network, features if basis is None else basis)
        gram, start = RowGram(features, network.dtype, normalize), initial.values(features, normalize, network.dtype)
        return TorchState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            device=device, initial=initial, gram=gram, start=start,
            coefficients=DenseCoefficients.empty(device, network, features.n_rows), panels=Panels(device, gram),
            starts=Starts(device, network, start),
        )  # fmt: skip

    def stream(self, state: TorchState, on: bool) -> None:
        """Do without tables of all entities, of which a new one needs as many numbers as there are."""
        state.gram.caching = state.start.caching = not on

    def forward(self, state: TorchState, rows: NDArray[np.int64], view: TorchView | None = None) -> Activations:
        network, norms = state.network, (view or state).norms[rows]
        panel = state.panels(rows, norms, view.features if view else None)
        z = state.coefficients.add_products((view or state).starts(rows, norms), panel)
        hidden = z.sub_(network.threshold).clamp_min_(0)
        totals, n_fired, _ = combined(network, self._partial(state, hidden), 0, int((hidden > 0).sum()), lambda: False)
        return TorchActivations(rows, hidden, network.scale * totals, n_fired)

    def _partial(self, state: TorchState, hidden: Any) -> Array:
        """Each block's part of the outputs. Shape: (blocks, S, C)."""
        weights, bounds = state.weights_on_device(), state.network.blocks
        size, n_even = int(bounds[1]), len(bounds) - 1 - int(bounds[-1] % bounds[1] != 0)
        first = slice(0, n_even * size)
        even = hidden[:, first].unflatten(1, (n_even, size)).transpose(0, 1) @ weights[first].unflatten(0, (n_even, size))
        parts = [state.device.numpy(even)]
        if first.stop < len(weights):
            parts.append(state.device.numpy(hidden[:, first.stop :] @ weights[first.stop :])[None])
        return np.concatenate(parts)

    def view(self, state: TorchState, features: Features) -> TorchView:
        features = compress(features)
        start = state.initial.values(features, state.normalize, state.network.dtype)
        return TorchView(features, inverse_norms(features, state.normalize), Starts(state.device, state.network, start))

    def backward(
        self, state: TorchState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0
    ) -> Step:
        network, hidden = state.network, activations.hidden
        scaled = state.device.copy((-step * network.scale * slopes).astype(network.dtype))
        coefficients = (scaled @ state.weights_on_device().T).mul_(hidden > 0)
        change = None
        if network.train_output:
            change = network.within_members(state.device.numpy(hidden.T @ scaled))
        return Step(activations.rows, coefficients, change, 1.0 - step * alpha)

    def update(self, state: TorchState, step: Step) -> None:
        state.coefficients.decay(step.decay)
        state.coefficients.add(step.rows, step.coefficients)
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def extend(self, state: TorchState, features: Features) -> TorchState:
        """Cost: that of the new rows in a stream; otherwise tables go to the device once more."""
        state.initial.prototype.check_compatible(features)
        if features is not state.features:
            state.gram.extend(features)
            state.start.extend(features)
            state.panels.forget()
            state.starts.forget()
            state.coefficients.extend(features.n_rows)
            state.features = features
        return state

    def hidden(self, state: TorchState, activations: Activations) -> Array:
        return state.device.numpy(activations.hidden)

    def hidden_weights(self, state: TorchState) -> Array:
        start = state.initial.hidden_weights()
        x = state.initial.prototype.coordinates(state.features) * state.norms[:, None]
        return np.asarray(start + state.coefficients.matrix() @ x)

    def basis(self, state: TorchState) -> Features:
        return state.initial.prototype

    def arrays(self, state: TorchState) -> dict[str, Array]:
        return {**state.coefficients.arrays(), "output_weights": state.output_weights}

    def restore(self, state: TorchState, arrays: Mapping[str, Array]) -> None:
        weights = check_array("output_weights", arrays, state.output_weights.shape, "f")
        state.coefficients.restore(arrays)
        state.output_weights = weights.astype(state.network.dtype)
