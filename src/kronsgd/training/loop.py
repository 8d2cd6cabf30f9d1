"""The one training loop: forward, backward, update over batches and epochs, for every engine and loss."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from kronsgd.engines.base import Activations, Engine
from kronsgd.features.base import Features
from kronsgd.losses import Loss, in_parts
from kronsgd.network import generator
from kronsgd.training.batches import epoch_batches
from kronsgd.training.history import History, Position, epoch_record
from kronsgd.training.interrupt import deferred_interrupt
from kronsgd.training.learning_rate import schedule
from kronsgd.training.stopping import StopReason

__all__ = [
    "Diverged", "Saver", "Settings", "Validation", "finite", "hold_out", "loss_limit", "loss_now", "train", "train_step",
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
    most: float = np.inf  # coefficients that this rank's neurons may have
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


class Saver:
    """Is asked after every step whether to save the position. This one never does."""

    def due(self, n_steps: int) -> bool:
        """Whether it is time to, after so many steps of this training."""
        return False

    def save(self, position: Position) -> None:
        """Save the engine's state and this position, unchanged."""


def train(
    engine: Engine, state: Any, loss: Loss, rows: NDArray[np.int64], targets: Array, weights: Array, settings: Settings,
    validation: Validation | None = None, first_epoch: int = 0, position: Position | None = None, saver: Saver | None = None,
) -> History:  # fmt: skip
    """Train `state` in place on its `rows`. Shapes: rows (n,), targets (n, C), weights (n,) with mean 1. Raises Diverged.

    position: where to go on, with the state as it was there; it is moved on.
    """
    return _Training(
        engine, state, loss, rows, targets, weights, settings, validation, first_epoch, position or Position(), saver or Saver()
    ).run()


@dataclass
class _Training:
    engine: Engine
    state: Any
    loss: Loss
    rows: NDArray[np.int64]
    targets: Array
    weights: Array
    settings: Settings
    validation: Validation | None
    first_epoch: int
    at: Position
    saver: Saver

    def run(self) -> History:
        at, reason = self.at, None
        self.limit = loss_limit(self.loss, self.targets, self.weights)
        self.bar = _progress(self.settings, len(self.targets), at)
        with self.bar, deferred_interrupt() as self.interrupted:
            while reason is None and at.epoch < self.settings.max_iter:
                reason = self._epoch()
        at.history.stop_reason = reason or StopReason.MAX_ITER
        if reason is not None and reason.cut_short:
            logger.warning("stopped: %s", reason.value)
        else:
            at.stopper.restore_best(self.engine, self.state)
        return at.history

    def _epoch(self) -> StopReason | None:
        """The steps of an epoch that are left, and what follows them; why training ends, if it does."""
        at, engine, state, settings = self.at, self.engine, self.state, self.settings
        batches = _batches(settings, len(self.targets), state.network.seed, self.first_epoch + at.epoch)
        rates = _rates(settings, at.epoch, len(batches))
        if at.batch > len(batches):
            raise ValueError(f"training cannot go on after step {at.batch:,} of an epoch of {len(batches):,}; start anew.")
        started = time.perf_counter() - at.seconds
        if at.batch == 0 and not settings.stream:
            engine.begin_epoch(state)
        for k in range(at.batch, len(batches)):
            engine.expect(state, self.rows[batches[k + 1]] if k + 1 < len(batches) else None)
            self._step(batches[k], rates[k])
            at.seconds = time.perf_counter() - started
            reason = self._cut_short_or_saved()
            if reason is not None:
                return reason
        fired, last = at.sums[1], batches[-1]
        record = epoch_record(
            self.first_epoch + at.epoch, at.sums, len(self.targets), state.network.whole.n_hidden, rates[-1],
            time.perf_counter() - started,
        ) | _validation_record(engine, state, self.loss, self.validation)  # fmt: skip
        at.history.records.append(record)
        at.next_epoch()
        _show(self.bar, record)
        now = loss_now(engine, state, self.loss, self.rows[last], self.targets[last], self.weights[last])
        if now > self.limit:  # the last step itself may have thrown it off
            raise Diverged
        if fired == 0:
            return StopReason.SILENT
        return at.stopper.after_epoch(engine, state, record, settings.tol, settings.n_iter_no_change)

    def _step(self, batch: NDArray[np.int64], rate: float) -> None:
        self.at.history.n_steps += 1
        self.bar.update(len(batch))
        self.at.sums += train_step(
            self.engine, self.state, self.loss, self.rows[batch], self.targets[batch], self.weights[batch], rate,
            self.settings.alpha,
        )  # fmt: skip
        self.at.batch += 1
        self._check_loss(self.at.sums[0] / len(self.targets))  # what is to come only adds: no need to wait for the epoch's end

    def _check_loss(self, mean: float) -> None:
        """Raise Diverged where the mean loss of an epoch is too large, or that of the part of it that is over."""
        if mean * TOO_LARGE / self.settings.worst > self.limit:
            raise Diverged

    def _cut_short_or_saved(self) -> StopReason | None:
        """Save the position where that is due, on all ranks alike; why training must end here, if it must."""
        exchange, full = self.state.network.exchange, self.engine.size(self.state) > self.settings.most
        wishes = self.saver.due(self.at.history.n_steps), self.interrupted(), full
        if not exchange.agreed(any(wishes)):
            return None
        due, interrupted, full = (exchange.total(wish) > 0 for wish in wishes)  # on some rank, now or a step before
        if due or interrupted or full:
            self.saver.save(self.at)
        return StopReason.INTERRUPTED if interrupted else StopReason.MEMORY if full else None


def _progress(settings: Settings, n_rows: int, at: Position) -> Any:
    """A bar on the standard error, if asked for."""
    return tqdm(
        total=settings.max_iter * n_rows, initial=at.epoch * n_rows + at.batch * settings.batch_size, unit="row",
        unit_scale=True, disable=not settings.verbose,
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
