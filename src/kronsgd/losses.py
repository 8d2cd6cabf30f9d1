"""Losses: value and derivative for each row, and a bound on the curvature.

All in float64. Shape: outputs and targets (S, C). `targets` are numbers for "squared" (any C), 0/1 for "logistic"
(C = 1), and one-hot rows for "softmax".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

__all__ = ["LOSSES", "Loss"]

Array = NDArray[Any]


class Loss(Protocol):
    """What the training loop asks of a loss."""

    @property
    def curvature(self) -> float:
        """An upper bound of the second derivative."""

    def start_curvature(self, n_outputs: int) -> float:
        """Mean curvature where all outputs are 0."""

    def value(self, outputs: Array, targets: Array) -> Array:
        """Loss of each row. Shape: (S,)."""

    def derivative(self, outputs: Array, targets: Array) -> Array:
        """∂loss_i/∂f_ic. Shape: (S, C)."""


@dataclass(frozen=True)
class Squared:
    """½ Σ_c (f_c − y_c)²."""

    curvature: float = 1.0

    def start_curvature(self, n_outputs: int) -> float:
        return 1.0

    def value(self, outputs: Array, targets: Array) -> Array:
        return 0.5 * ((outputs - targets) ** 2).sum(axis=1)

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(outputs - targets)


@dataclass(frozen=True)
class Logistic:
    """ln(1 + exp(f)) − y·f, for y in {0, 1}."""

    curvature: float = 0.25

    def start_curvature(self, n_outputs: int) -> float:
        return 0.25

    def value(self, outputs: Array, targets: Array) -> Array:
        return (np.logaddexp(0, outputs) - targets * outputs).sum(axis=1)

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(expit(outputs) - targets)


@dataclass(frozen=True)
class Softmax:
    """ln Σ_c exp(f_c) − f_y."""

    curvature: float = 0.5

    def start_curvature(self, n_outputs: int) -> float:
        return 1.0 / n_outputs

    def value(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(logsumexp(outputs, axis=1) - (targets * outputs).sum(axis=1))

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(softmax(outputs, axis=1) - targets)


LOSSES: dict[str, Loss] = {"squared": Squared(), "logistic": Logistic(), "softmax": Softmax()}
