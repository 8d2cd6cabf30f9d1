"""Rows of a stream: one pass in the order in which they come, at a cost that does not depend on how many came before."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Engine, State
from kronsgd.losses import Loss
from kronsgd.training.history import History, epoch_record
from kronsgd.training.interrupt import deferred_interrupt
from kronsgd.training.loop import Diverged, Settings, finite, in_order, loss_limit, loss_now, train
from kronsgd.training.stopping import StopReason

__all__ = ["snapshot", "train_stream"]

Array = NDArray[Any]
ROUNDING = 1.01  # on a bound that is computed in floating point


def snapshot(engine: Engine, state: Any) -> dict[str, Array]:
    """What training has changed so far, to come back to. Cost: a copy of it."""
    return {name: array.copy() for name, array in engine.arrays(state).items()}


def train_stream(
    engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array, settings: Settings,
    epoch: int,
) -> History:  # fmt: skip
    """Train `state` on its `rows` once, in place and in order. Shapes: as `train`.

    Raises Diverged, with the state as it was before to the last bit. For several steps that takes a copy of what has been
    learned; a single step is looked at before it is made, and copies only where it may throw the model off.
    """
    engine.stream(state, epoch > 0)  # the first rows of all are an epoch like that of `fit`
    try:
        if len(rows) <= settings.batch_size and settings.cells is None:
            return _single_step(engine, state, loss, rows, targets, weights, settings, epoch)
        before = snapshot(engine, state)
        try:
            return train(engine, state, loss, rows, targets, weights, replace(settings, stream=epoch > 0), None, epoch)
        except Diverged:
            engine.restore(state, before)
            raise
    finally:
        engine.stream(state, False)


@np.errstate(over="ignore", invalid="ignore")  # what has diverged is seen
def _single_step(
    engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array, settings: Settings,
    epoch: int,
) -> History:  # fmt: skip
    rows, targets, weights = in_order(rows, targets, weights)
    limit, started, rate = loss_limit(loss, targets, weights), time.perf_counter(), settings.learning_rate_init
    with deferred_interrupt() as interrupted:
        activations = finite(engine.forward(state, rows))
        value = float((loss.value(activations.outputs, targets) * weights).sum())
        if value / len(rows) > limit:
            raise Diverged
        slopes, n_fired = loss.derivative(activations.outputs, targets) * weights[:, None], activations.n_fired
        step = engine.backward(
            state, activations, slopes / len(rows), rate, settings.alpha * state.network.scale**2
        )  # fmt: skip
        harmless = _largest_loss(state, loss, value, slopes, float(weights.mean()), n_fired, settings) <= limit
        before = None if harmless else snapshot(engine, state)
        engine.update(state, step)
        if before is not None and loss_now(engine, state, loss, rows, targets, weights) > limit:
            engine.restore(state, before)
            raise Diverged
        sums = np.array([value, n_fired])
        record = epoch_record(epoch, sums, len(rows), state.network.whole.n_hidden, rate, time.perf_counter() - started)
        reason = StopReason.SILENT if n_fired == 0 else StopReason.MAX_ITER
        return History([record], StopReason.INTERRUPTED if interrupted() else reason, 1)


def _largest_loss(
    state: State, loss: Loss, value: float, slopes: Array, weight: float, n_fired: int, settings: Settings
) -> float:
    """A bound on the batch's mean loss after the step; infinite where the bound does not hold. Cost: S·C.

    A step adds c_jr ≤ η·(γ/√m)·Σ_c |slope_jc|/S to α for each fired pair, and |⟨x_j, x_i⟩| ≤ 1, so that no output moves by
    more than δ = (γ²/m)·η·(fired pairs)·max_j Σ_c |slope_jc|/S: the loss by no more than its slopes times δ and, for the C
    outputs together, half its curvature times C·δ². slopes (S, C): weighted, of the summed loss. weight: the rows' mean one.
    """
    network, size = state.network, len(slopes)
    # a is ±1, rows have norm 1, and nothing decays nor is rounded
    if network.train_output or not state.normalize or settings.alpha or network.narrow:
        return np.inf
    steepest = float(np.abs(slopes).sum(axis=1).max())
    moved = ROUNDING * network.scale**2 * settings.learning_rate_init * n_fired * steepest / size
    curved = 0.5 * loss.curvature * slopes.shape[1] * (moved * moved) * weight  # ** of a float raises
    return (value + float(np.abs(slopes).sum()) * moved) / size + curved
