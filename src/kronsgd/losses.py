"""Losses: value and derivative for each row, and a bound on the curvature.

All in float64. Shape: outputs (S, C), and targets (S, C) but for "ranking", whose targets have a column of group numbers
beside that of values. `targets` are numbers for "squared" and "huber" (any C), 0/1 for "logistic" (C = 1), and one-hot rows
for "softmax".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logsumexp, softmax

__all__ = ["LOSSES", "Huber", "Loss", "Members", "Ranking", "in_parts"]

Array = NDArray[Any]
PART = 1024  # rows taken together where a loss that compares rows is asked about many


class Loss(Protocol):
    """What the training loop asks of a loss: each row's own share, given the other rows of its batch."""

    @property
    def curvature(self) -> float:
        """An upper bound of the second derivative of the batch's summed loss, over all directions."""

    def start_curvature(self, n_outputs: int) -> float:
        """Mean curvature where all outputs are 0."""

    def n_outputs(self, targets: Array) -> int:
        """C, the outputs of the network for such targets."""

    def value(self, outputs: Array, targets: Array) -> Array:
        """Loss of each row. Shape: (S,)."""

    def derivative(self, outputs: Array, targets: Array) -> Array:
        """∂(Σ loss)/∂f_ic. Shape: (S, C)."""


def in_parts(function: Callable[[Array, Array], Array], outputs: Array, targets: Array) -> Array:
    """A loss's `value` or `derivative` for many rows, PART at a time. Shape: that of the function."""
    starts = range(0, len(targets), PART)
    return np.concatenate([function(outputs[k : k + PART], targets[k : k + PART]) for k in starts])


class _RowLoss:
    """A loss of a row's own outputs and targets, as many of one as of the other."""

    def n_outputs(self, targets: Array) -> int:
        return int(targets.shape[1])


@dataclass(frozen=True)
class Squared(_RowLoss):
    """½ Σ_c (f_c − y_c)²."""

    curvature: float = 1.0

    def start_curvature(self, n_outputs: int) -> float:
        return 1.0

    def value(self, outputs: Array, targets: Array) -> Array:
        return 0.5 * ((outputs - targets) ** 2).sum(axis=1)

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(outputs - targets)


@dataclass(frozen=True)
class Huber(_RowLoss):
    """Σ_c ½ r² where |r| ≤ δ, else δ(|r| − ½ δ), for r = f_c − y_c: an outlier pulls no harder than δ (Huber 1964)."""

    delta: float = 1.0
    curvature: float = 1.0

    def start_curvature(self, n_outputs: int) -> float:
        return 1.0

    def value(self, outputs: Array, targets: Array) -> Array:
        size = np.abs(outputs - targets)
        inside = np.minimum(size, self.delta)
        return np.asarray((inside * (size - 0.5 * inside)).sum(axis=1))

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.clip(outputs - targets, -self.delta, self.delta)


@dataclass(frozen=True)
class Logistic(_RowLoss):
    """ln(1 + exp(f)) − y·f, for y in {0, 1}."""

    curvature: float = 0.25

    def start_curvature(self, n_outputs: int) -> float:
        return 0.25

    def value(self, outputs: Array, targets: Array) -> Array:
        return (np.logaddexp(0, outputs) - targets * outputs).sum(axis=1)

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(expit(outputs) - targets)


@dataclass(frozen=True)
class Softmax(_RowLoss):
    """ln Σ_c exp(f_c) − f_y."""

    curvature: float = 0.5

    def start_curvature(self, n_outputs: int) -> float:
        return 1.0 / n_outputs

    def value(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(logsumexp(outputs, axis=1) - (targets * outputs).sum(axis=1))

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.asarray(softmax(outputs, axis=1) - targets)


@dataclass(frozen=True)
class Ranking:
    """Σ over pairs i, j of a group with y_i > y_j of ln(1 + exp(f_j − f_i)) / (rows of the group in the batch − 1).

    Each of the two rows has half of a pair's loss. Pairs of equal y and rows alone in their group count nothing. The Hessian
    is a graph Laplacian whose degrees are at most ¼, so that its eigenvalues are at most ½. Cost: S² for a batch of one group.
    Source: Burges et al. 2005 (RankNet); with y in {0, 1} and users as groups it is the criterion of Rendle et al. 2009 (BPR)
    over the pairs of a batch.
    """

    curvature: float = 0.5

    def start_curvature(self, n_outputs: int) -> float:
        return 0.25

    def n_outputs(self, targets: Array) -> int:
        return 1

    def value(self, outputs: Array, targets: Array) -> Array:
        return _over_groups(outputs, targets, lambda gap, order: 0.5 * np.where(order, np.logaddexp(0, -order * gap), 0))

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return _over_groups(outputs, targets, lambda gap, order: -order * expit(-order * gap))[:, None]


def _over_groups(outputs: Array, targets: Array, pair: Callable[[Array, Array], Array]) -> Array:
    """Σ_j pair(f_i − f_j, sign(y_i − y_j)) / (rows − 1) over the rows j of i's group. Shape: (S, 1), (S, 2) -> (S,)."""
    out = np.zeros(len(outputs))
    order = np.argsort(targets[:, 1], kind="stable")
    for rows in np.split(order, np.flatnonzero(np.diff(targets[order, 1])) + 1):
        if len(rows) > 1:
            f, y = outputs[rows, 0], targets[rows, 0]
            terms = pair(f[:, None] - f, np.sign(y[:, None] - y))
            out[rows] = terms.sum(axis=1) / (len(rows) - 1)
    return out


@dataclass(frozen=True)
class Members:
    """Several networks with the same targets, each with its own loss: output e·C + c is output c of network e.

    The value is the mean over networks, so that it compares with that of one. The derivative is that of the sum: each network
    takes the step that it would take alone.
    """

    loss: Loss
    n_networks: int

    @property
    def curvature(self) -> float:
        """That of one network: no output of another matters to it."""
        return self.loss.curvature

    def start_curvature(self, n_outputs: int) -> float:
        return self.loss.start_curvature(n_outputs // self.n_networks)

    def n_outputs(self, targets: Array) -> int:
        return self.n_networks * self.loss.n_outputs(targets)

    def value(self, outputs: Array, targets: Array) -> Array:
        values = [self.loss.value(own, targets) for own in np.split(outputs, self.n_networks, axis=1)]
        return np.asarray(np.mean(values, axis=0))

    def derivative(self, outputs: Array, targets: Array) -> Array:
        return np.hstack([self.loss.derivative(own, targets) for own in np.split(outputs, self.n_networks, axis=1)])


LOSSES: dict[str, Loss] = {"squared": Squared(), "logistic": Logistic(), "softmax": Softmax()}
