"""The one training loop: forward, backward, update over batches and epochs, for every engine and loss."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from kronsgd.engines.base import Activations, Engine
from kronsgd.features.base import Features
from kronsgd.losses import Loss, in_parts
from kronsgd.network import generator
from kronsgd.training.batches import epoch_batches
from kronsgd.training.interrupt import deferred_interrupt
from kronsgd.training.learning_rate import schedule
from kronsgd.training.stopping import StopReason

__all__ = [
    "Diverged", "History", "Settings", "Validation", "epoch_record", "finite", "hold_out", "loss_limit", "loss_now", "train",
    "train_step",
]  # fmt: skip

Array = NDArray[Any]
logger = logging.getLogger("kronsgd")
TOO_LARGE = 1e3  # times the loss of answering 0 everywhere


class Diverged(ArithmeticError):
    """The loss is no longer a number, or far above that of answering 0 everywhere."""


@dataclass(frozen=True)
class Settings:
    """How to train; names as in scikit-learn's MLPRegressor."""

    learning_rate_init: float
    learning_rate: str = "cosine"
    max_iter: int = 100
    batch_size: int = 64
    alpha: float = 0.0
    shuffle: bool = True
    tol: float = 1e-4
    n_iter_no_change: int = 10
    verbose: bool = False
    cells: tuple[NDArray[np.int64], NDArray[np.int64]] | None = None  # (inner, outer) entity of each row: train on blocks
    groups: NDArray[np.int64] | None = None  # of each row: batches go from group to group
    stream: bool = False  # rows as they come, of which no epoch begins
    worst: float = TOO_LARGE  # mean loss of an epoch, in multiples of that of answering 0, above which training has diverged


@dataclass(frozen=True)
class Validation:
    """Rows held out to stop early."""

    features: Features
    targets: Array
    weights: Array


def hold_out(
    features: Features, targets: Array, weights: Array, fraction: float, seed: int
) -> tuple[Features, Array, Array, Validation]:
    """(features, targets, weights of mean 1) to train on, and a random part held out. ValueError for too few rows."""
    n = len(targets)
    n_held = max(1, round(fraction * n))
    if n - n_held < 1:
        raise ValueError(f"early_stopping=True needs rows to hold out, but there are only {n}; give more rows.")
    order = generator(seed, "validation").permutation(n)
    held, kept = np.sort(order[:n_held]), np.sort(order[n_held:])
    validation = Validation(features[held], targets[held], weights[held])
    return features[kept], targets[kept], weights[kept] / weights[kept].mean(), validation


@dataclass
class History:
    """One record for each epoch, and why training ended."""

    records: list[dict[str, float]] = field(default_factory=list)
    stop_reason: StopReason = StopReason.MAX_ITER
    n_steps: int = 0

    def column(self, name: str) -> list[float]:
        """One value of each epoch."""
        return [record[name] for record in self.records]


def train_step(
    engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array, rate: float, alpha: float
) -> tuple[float, int]:
    """One step of `rate` × the mean gradient over the batch. Returns (summed weighted loss before it, fired pairs).

    The penalty is (alpha/2) Σ_r ‖(γ/√m)(w_r − w_r(0))‖²: on what is learned, in the units of the network's function.
    Raises Diverged, with the state untouched, if the network's answers are not finite.
    """
    rows, targets, weights = in_order(rows, targets, weights)
    activations = finite(engine.forward(state, rows))
    value = float((loss.value(activations.outputs, targets) * weights).sum())
    slopes = loss.derivative(activations.outputs, targets) * (weights / len(rows))[:, None]
    n_fired = activations.n_fired  # `backward` may reuse the activations' memory
    engine.update(state, engine.backward(state, activations, slopes, rate, alpha * state.network.scale**2))
    return value, n_fired


def in_order(rows: NDArray[np.int64], targets: Array, weights: Array) -> tuple[NDArray[np.int64], Array, Array]:
    """The batch by row number: sums then have the same bits however an engine keeps its lists."""
    if (rows[1:] >= rows[:-1]).all():
        return rows, targets, weights
    order = np.argsort(rows, kind="stable")
    return rows[order], targets[order], weights[order]


def finite(activations: Activations) -> Activations:
    """The activations; raises Diverged if the network's answers are not finite."""
    if not np.isfinite(activations.outputs).all():
        raise Diverged
    return activations


def loss_limit(loss: Loss, targets: Array, weights: Array) -> float:
    """The mean loss above which training has diverged: TOO_LARGE times that of answering 0 to these targets, or to ones.

    A single row's target may well be next to 0; targets are scaled to a variance of 1.
    """
    one, n_outputs = np.ones((1, targets.shape[1])), loss.n_outputs(targets)
    zero = float(np.average(in_parts(loss.value, np.zeros((len(targets), n_outputs)), targets), weights=weights))
    return TOO_LARGE * max(zero, float(loss.value(np.zeros((1, n_outputs)), one)[0]))


def train(
    engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array, settings: Settings,
    validation: Validation | None = None, first_epoch: int = 0,
) -> History:  # fmt: skip
    """Train `state` in place on its `rows`. Shapes: rows (n,), targets (n, C), weights (n,) with mean 1. Raises Diverged."""
    history = History()
    stopper = _Stopper(settings, validation is not None)
    limit = loss_limit(loss, targets, weights)
    bar = _progress(settings, len(targets))

    def step(batch: NDArray[np.int64], rate: float) -> tuple[float, int]:
        history.n_steps += 1
        bar.update(len(batch))
        return train_step(engine, state, loss, rows[batch], targets[batch], weights[batch], rate, settings.alpha)

    with bar, deferred_interrupt() as interrupted:
        for epoch in range(first_epoch, first_epoch + settings.max_iter):
            batches = _batches(settings, len(targets), state.network.seed, epoch)
            started, sums = time.perf_counter(), np.zeros(2)
            if not settings.stream:
                engine.begin_epoch(state)
            for batch, rate in zip(batches, _rates(settings, epoch - first_epoch, len(batches)), strict=True):
                sums += step(batch, rate)
                if state.network.exchange.agreed(interrupted()):
                    history.stop_reason = StopReason.INTERRUPTED
                    logger.warning("stopped: %s", history.stop_reason.value)
                    return history
            record = epoch_record(epoch, sums, len(targets), state.network.whole.n_hidden, rate, time.perf_counter() - started)
            record |= _validation_record(engine, state, loss, validation)
            history.records.append(record)
            _show(bar, record)
            last = [array[batches[-1]] for array in (rows, targets, weights)]  # again: the step itself may have thrown it off
            if max(record["loss"] * TOO_LARGE / settings.worst, loss_now(engine, state, loss, *last)) > limit:
                raise Diverged
            reason = StopReason.SILENT if sums[1] == 0 else stopper.after_epoch(engine, state, record)
            if reason is not None:
                history.stop_reason = reason
                break
    stopper.restore_best(engine, state)
    return history


def _progress(settings: Settings, n_rows: int) -> Any:
    """A bar on the standard error, if asked for."""
    return tqdm(
        total=settings.max_iter * n_rows, unit="row", unit_scale=True, disable=not settings.verbose,
        mininterval=0.5 if sys.stderr.isatty() else 10,  # a log file needs no more
    )  # fmt: skip


def _show(bar: Any, record: dict[str, float]) -> None:
    """An epoch's record, on the bar and in the log."""
    bar.set_postfix_str(_postfix(record))
    logger.info("epoch %d: %s", record["epoch"], _postfix(record))


def _batches(settings: Settings, n_rows: int, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """Row numbers of each step of an epoch."""
    return epoch_batches(
        n_rows, settings.batch_size, shuffle=settings.shuffle, seed=seed, epoch=epoch, cells=settings.cells,
        groups=settings.groups,
    )  # fmt: skip


def _rates(settings: Settings, epoch: int, n_batches: int) -> list[float]:
    """Step sizes of the epoch'th epoch of this training."""
    total, done = settings.max_iter * n_batches, epoch * n_batches
    return [
        settings.learning_rate_init * schedule(settings.learning_rate, t, total) for t in range(done, done + n_batches)
    ]


def loss_now(engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array) -> float:
    """Mean weighted loss on some training rows; infinite where the answers are not finite."""
    outputs = engine.forward(state, rows).outputs
    value = float((loss.value(outputs, targets) * weights).sum()) / len(rows)
    return value if np.isfinite(value) else np.inf


def epoch_record(epoch: int, sums: Array, n_rows: int, n_hidden: int, rate: float, seconds: float) -> dict[str, float]:
    """What the history keeps of an epoch, from its summed loss and number of fired pairs."""
    return {
        "epoch": epoch + 1, "loss": float(sums[0]) / n_rows, "learning_rate": rate,
        "fired": float(sums[1]) / (n_rows * n_hidden), "seconds": seconds, "rows_per_second": n_rows / max(seconds, 1e-9),
    }  # fmt: skip


def _validation_record(engine: Engine, state: Any, loss: Loss, validation: Validation | None) -> dict[str, float]:
    """What the history keeps of an epoch beside `_record`: the loss on rows held out, if there are any."""
    if validation is None:
        return {}
    outputs = engine.outputs(state, validation.features)
    values = in_parts(loss.value, outputs, validation.targets)
    return {"validation_loss": float(np.average(values, weights=validation.weights))}


def _postfix(record: dict[str, float]) -> str:
    text = f"loss={record['loss']:.4g}, fired={100 * record['fired']:.1f}%"
    return text + (f", validation={record['validation_loss']:.4g}" if "validation_loss" in record else "")


class _Stopper:
    """Watches the training loss, or the validation loss and the best model so far."""

    def __init__(self, settings: Settings, validated: bool) -> None:
        self._settings, self._key = settings, "validation_loss" if validated else "loss"
        self._validated = validated
        self._best, self._waited = np.inf, 0
        self._kept: dict[str, Array] | None = None

    def after_epoch(self, engine: Engine, state: Any, record: dict[str, float]) -> StopReason | None:
        value = record[self._key]
        improved = value < self._best - (0 if self._validated else self._settings.tol)
        self._waited = 0 if improved else self._waited + 1
        if value < self._best:
            self._best = value
            if self._validated:
                self._kept = None  # the old best goes before the new comes
                self._kept = {name: array.copy() for name, array in engine.arrays(state).items()}
        if self._waited < self._settings.n_iter_no_change:
            return None
        return StopReason.EARLY_STOPPING if self._validated else StopReason.CONVERGED

    def restore_best(self, engine: Engine, state: Any) -> None:
        if self._kept is not None:
            engine.restore(state, self._kept)
