"""Step sizes: the schedule over a training, and the "auto" value from the network's own tangent kernel."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kronsgd.engines.base import Engine
from kronsgd.features.gram import inverse_norms
from kronsgd.losses import Loss
from kronsgd.training.batches import probe_batches

__all__ = ["SCHEDULES", "auto_learning_rate", "schedule", "schedule_mean", "tangent_kernel"]

SCHEDULES = ("constant", "cosine", "linear")
PROBES = 3  # batches whose tangent kernels are looked at


def schedule(name: str, t: int, total: int) -> float:
    """Factor on the initial learning rate at step t = 0 … total − 1 of a training."""
    progress = t / max(total, 1)
    return {"constant": 1.0, "cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1.0 - progress}[name]


def tangent_kernel(engine: Engine, state: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
    """Tangent kernel of one output on some training rows. Shape: (S, S). Cost: S²·m flops, of this rank's neurons.

    Θ_ij = (γ²/m)(⟨x_i, x_j⟩·#{neurons that fire on both} + Σ_r h_ir h_jr where output weights are trained); of several
    networks, the mean.
    """
    network = state.network
    x = state.features[rows]
    scale = inverse_norms(x, state.normalize)
    hidden = np.asarray(engine.hidden(state, engine.forward(state, rows)), dtype=np.float64)
    fires = (hidden > 0).astype(np.float64)
    theta = network.exchange.fold([fires @ fires.T]) * x.inner() * scale[:, None] * scale
    if network.train_output:  # in the order of the blocks, for these are no whole numbers
        own = (hidden[:, start : start + size] for _, start, size in network.block_sizes())
        theta += network.exchange.fold(block @ block.T for block in own)
    return np.asarray(network.scale**2 / network.n_networks * theta)


def schedule_mean(name: str) -> float:
    """Mean of the schedule's factors over a training."""
    return 1.0 if name == "constant" else 0.5


def auto_learning_rate(
    engine: Engine, state: Any, loss: Loss, batch_size: int, weights: NDArray[Any], alpha: float = 0.0,
    cells: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None, groups: NDArray[np.int64] | None = None,
) -> float:  # fmt: skip
    """1 / (curvature of the loss · largest tangent eigenvalue of a batch + alpha), the largest over a few batches.

    The eigenvalue is that of D^{1/2} Θ D^{1/2} / S, with D the sample weights. Gradient descent on one batch is stable
    below twice this value. cells, groups: as for training, whose batches have larger eigenvalues than random ones.
    """
    largest = 0.0
    for rows in probe_batches(state.features.n_rows, batch_size, PROBES, state.network.seed, cells, groups):
        root = np.sqrt(weights[rows])
        theta = tangent_kernel(engine, state, rows) * root[:, None] * root / len(rows)
        largest = max(largest, float(scipy.linalg.eigvalsh(theta, subset_by_index=[len(rows) - 1, len(rows) - 1])[0]))
    if largest <= 0:  # no neuron fires on these rows
        largest = state.network.scale**2
    return 1.0 / (loss.curvature * largest + alpha)
