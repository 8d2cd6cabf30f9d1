"""The contract of an engine: the four phases of Kronecker SGD (arXiv 2305.08001, section 4) on a state it is handed.

An engine object holds no data. `initialize` makes a state; `forward` says which neurons fire on a batch and what the
network answers; `backward` turns the slopes of the loss into coefficients, for fired neurons only; `update` adds them.
All engines take the same steps to rounding: the dense one in float64 is the oracle for every other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.sides import Sides
from kronsgd.network import TwoLayer

__all__ = ["Activations", "Engine", "State", "Step"]

Array = NDArray[Any]
PREDICT_BATCH = 256  # rows


@dataclass
class State:
    """What every engine's state has; an engine adds its own fields."""

    network: TwoLayer
    features: Features  # the training rows that coefficients refer to
    normalize: bool
    output_weights: Array  # (m, C)


@dataclass(frozen=True)
class Activations:
    """The forward pass of one batch."""

    rows: NDArray[np.int64]  # (S,) row numbers
    hidden: Array  # max(z − b, 0), in the engine's own layout; empty where an expected batch has its memory
    outputs: Array  # (S, C), float64
    n_fired: int  # (row, neuron) pairs that fire, on all ranks
    crowded: bool | None = field(default=None, kw_only=True)  # whether lists must be compacted first; None: see


@dataclass(frozen=True)
class Step:
    """What one batch adds: coefficients of its rows, and the step of the output weights where they are trained."""

    rows: NDArray[np.int64]
    coefficients: Any  # of fired pairs only, in the engine's own layout
    output_weights: Array | None  # (m, C)
    decay: float  # factor on everything learned so far: 1 − step · alpha
    crowded: bool | None = field(default=None, kw_only=True)  # as in the activations


class Engine(ABC):
    """Four phases, prediction, and the state as arrays."""

    name: ClassVar[str]
    narrow: ClassVar[bool] = False  # whether it can keep α in bfloat16

    @abstractmethod
    def initialize(self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None) -> Any:
        """Phase 1: the state of an untrained network over the rows of `features`.

        basis: the prototype that w(0) was drawn for, where the rows have grown since (default: that of `features`).
        """

    def begin_epoch(self, state: Any) -> None:  # noqa: B027 (most engines have nothing to do)
        """Called by the training loop before the first batch of every epoch."""

    def expect(self, state: Any, rows: NDArray[np.int64] | None) -> None:  # noqa: B027 (as above)
        """Called by the training loop before a step, with the rows of the next one (None: there is none).

        What these need and no step changes may be made while ranks wait for each other.
        """

    def stream(self, state: Any, on: bool) -> None:  # noqa: B027
        """Called before (on) and after (off) rows of a stream, which come once: keep nothing for later visits to them.

        Between the two, steps are the same to the last bit whether or not the model was saved before.
        """

    @abstractmethod
    def forward(self, state: Any, rows: NDArray[np.int64], view: Any = None) -> Activations:
        """Phase 2: fired neurons and outputs on training rows, or on rows of a `view`.

        rows: ascending in training, as `training.train_step` gives them; then scan and tree give the same bits.
        """

    @abstractmethod
    def view(self, state: Any, features: Features) -> Any:
        """New rows, prepared for `forward`. ValueError unless they are of the same space."""

    @abstractmethod
    def backward(self, state: Any, activations: Any, slopes: Array, step: float, alpha: float = 0.0) -> Step:
        """Phase 3: coefficients −step · (γ/√m) Σ_c slopes_ic a_rc for fired (i, r).

        slopes (S, C): ∂(batch loss)/∂f_ic. alpha: strength of the penalty (alpha/2)·‖W − W(0)‖².
        """

    @abstractmethod
    def update(self, state: Any, step: Step) -> None:
        """Phase 4: add the coefficients; no other row's state is touched."""

    def size(self, state: Any) -> int:
        """Number of coefficients, of the engines whose memory grows with it; 0 of others."""
        return 0

    @abstractmethod
    def extend(self, state: Any, features: Features) -> Any:
        """The state over more rows: `features` starts with the rows the state has."""

    @abstractmethod
    def hidden(self, state: Any, activations: Activations) -> Array:
        """max(z − b, 0), which is above 0 just where a neuron fires. Shape: (S, m)."""

    def sides(self, state: Any) -> Sides:
        """The two sides of the training rows' product, for batches that are blocks. ValueError where there are none."""
        return Sides.of(state.features)

    def batches(self, state: Any, features: Features) -> Iterator[Activations]:
        """Forward passes over all rows of `features`, PREDICT_BATCH at a time."""
        view = self.view(state, features)
        for start in range(0, features.n_rows, PREDICT_BATCH):
            yield self.forward(state, np.arange(start, min(start + PREDICT_BATCH, features.n_rows)), view)

    def outputs(self, state: Any, features: Features) -> Array:
        """The network's outputs on new rows. Shape: (n', C), float64."""
        return np.concatenate([activations.outputs for activations in self.batches(state, features)])

    @abstractmethod
    def hidden_weights(self, state: Any) -> Array:
        """W in the coordinates of `features.dense()`. Shape: (m, d), float64. ValueError where d is too large."""

    @abstractmethod
    def basis(self, state: Any) -> Features:
        """The prototype that w(0) and coordinates refer to."""

    @abstractmethod
    def arrays(self, state: Any) -> dict[str, Array]:
        """All that training has changed, to the last bit, under plain names."""

    @abstractmethod
    def restore(self, state: Any, arrays: Mapping[str, Array]) -> None:
        """Put `arrays` back into a freshly initialized state. ValueError where they do not fit."""

    def checkpoint(self, state: Any) -> dict[str, Array]:
        """`arrays` and whatever else a state needs to go on just as this one, which stays as it is, to the last bit."""
        return self.arrays(state)

    def resume(self, state: Any, arrays: Mapping[str, Array]) -> None:
        """Put what `checkpoint` gave back into a freshly initialized state. ValueError where it does not fit."""
        self.restore(state, arrays)
