"""How long to train, from the data alone: the tangent kernel's generalised cross-validation over training time.

To first order the network is linear in its weights around the start, and gradient descent of total step size τ on the
mean loss is the linear smoother H(τ) = U (1 − exp(−τ μ)) Uᵀ, with μ, U the eigenpairs of the tangent kernel over n
(Jacot et al. 2018, arXiv 1806.07572; Yao, Rosasco and Caponnetto 2007). The τ that minimises the generalised
cross-validation error ‖y − H y‖²/(1 − tr H/n)² tells noise from signal: noisy targets want few epochs, clean ones many.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kronsgd.engines.base import Engine
from kronsgd.features.known import append_rows
from kronsgd.features.serialize import compress
from kronsgd.losses import Loss, in_parts
from kronsgd.network import generator
from kronsgd.training.learning_rate import schedule_mean, tangent_kernel

__all__ = ["Horizon", "automatic_horizon", "best_training_time", "epochs_for"]

Array = NDArray[Any]
SAMPLE = 1024  # rows whose tangent kernel is decomposed; larger sets are extrapolated from SAMPLE / 2 and SAMPLE
FEWEST_EPOCHS = 10
MOST_EPOCHS = 200
ROW_VISITS = 1_000_000  # on large sets, epochs beyond this many row visits gain little
SLACK = 0.03  # the longest time within this of the least error: features learned meanwhile favour longer training
LEAST_FREEDOM = 0.01  # of the degrees of freedom must be left, or cross-validation has nothing to judge by


@dataclass(frozen=True)
class Horizon:
    """How many epochs, at which initial step."""

    max_iter: int
    learning_rate: float


def automatic_horizon(
    engine: Engine, state: Any, loss: Loss, targets: Array, weights: Array, batch_size: int, rate: float, fixed: bool, name: str
) -> Horizon:
    """Epochs for a schedule `name` that starts at `rate`, and the step to start at (`rate` itself if `fixed`)."""
    n = len(targets)
    slopes = -in_parts(loss.derivative, np.zeros((n, loss.n_outputs(targets))), targets)
    time = best_training_time(engine, state, slopes, weights, loss.start_curvature(slopes.shape[1]))
    return epochs_for(time, -(-n // batch_size), n, rate, schedule_mean(name), fixed)


def best_training_time(engine: Engine, state: Any, targets: Array, weights: Array, curvature: float) -> float:
    """The τ (sum of all steps' learning rates) with the least cross-validated error.

    targets (n, C): minus the loss's slopes at the start. curvature: of the loss at the start. Cost: SAMPLE³ flops.
    """
    n = len(targets)
    order = generator(state.network.seed, "probe", 1).permutation(n)
    time = _sample_time(engine, state, targets, weights, np.sort(order[:SAMPLE]))
    if n > SAMPLE:
        half = _sample_time(engine, state, targets, weights, np.sort(order[: SAMPLE // 2]))
        growth = min(max(math.log2(time / half), 0.0), 1.0)
        time *= (n / SAMPLE) ** growth
    return time / curvature


def _sample_time(engine: Engine, state: Any, targets: Array, weights: Array, rows: NDArray[np.int64]) -> float:
    """The best τ for unit curvature on a sample of rows, repeated rows counted once with their weights added."""
    x = compress(state.features[rows])
    _, numbers = append_rows(compress(x[:1]), x)  # without the entities of other rows
    _, first, numbers = np.unique(numbers, return_index=True, return_inverse=True)
    weight = np.bincount(numbers, weights[rows])
    y = np.stack([np.bincount(numbers, weights[rows] * column) for column in targets[rows].T], axis=1) / weight[:, None]
    root = np.sqrt(weight / weight.mean())
    theta = tangent_kernel(engine, state, rows[first]) * root[:, None] * root / len(root)
    values, vectors = scipy.linalg.eigh(theta)
    if values[-1] <= 0:  # no neuron fires: no length of training changes anything
        return 1.0
    values = np.maximum(values, 0)
    energy = ((vectors.T @ (y * root[:, None])) ** 2).sum(axis=1)
    outside = max(float(((y * root[:, None]) ** 2).sum() - energy.sum()), 0.0)
    times = np.geomspace(0.1, 1e6, 141) / values[-1]
    errors = np.full(len(times), np.inf)
    for i, time in enumerate(times):
        left = np.exp(-values * time)
        if left.mean() >= LEAST_FREEDOM:
            errors[i] = (float(left**2 @ energy) + outside) / left.mean() ** 2
    return float(times[np.flatnonzero(errors <= (1 + SLACK) * errors.min()).max()])


def epochs_for(time: float, n_batches: int, n_rows: int, rate: float, mean_factor: float, fixed: bool) -> Horizon:
    """Epochs and initial step whose learning rates add up to `time`; the step stays where it is if `fixed`."""
    most = max(FEWEST_EPOCHS, min(MOST_EPOCHS, max(20, ROW_VISITS // n_rows)))
    epochs = time / (rate * mean_factor * n_batches)
    if epochs < FEWEST_EPOCHS and not fixed:
        return Horizon(FEWEST_EPOCHS, rate * epochs / FEWEST_EPOCHS)
    return Horizon(int(min(max(math.ceil(epochs), 1), most)), rate)
