"""`fit`: from rows and targets to a trained state, from the start or from a checkpoint."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.estimators.files import plain_params
from kronsgd.estimators.inputs import check_weights, read_rows
from kronsgd.estimators.parameters import check_params
from kronsgd.estimators.planning import plan_to_go_on
from kronsgd.estimators.stream import grow
from kronsgd.estimators.warning import warn_of_divergence
from kronsgd.features.base import Features
from kronsgd.parallel import threads
from kronsgd.training import (
    Checkpoint,
    CheckpointFolder,
    Course,
    Diverged,
    Found,
    Keeper,
    Position,
    StopReason,
    Validation,
    fingerprint,
    hold_out,
    snapshot,
    train,
)

__all__ = ["fit"]

Array = NDArray[Any]
logger = logging.getLogger("kronsgd")
RETRIES = 5  # times that learning_rate_init="auto" halves its step after a divergence
WORST = 4.0  # mean loss of an epoch, in multiples of that of answering 0, from which it does: the features are thrown off


@dataclass(frozen=True)
class Data:
    """What `fit` was given, ready to train on."""

    numbers: NDArray[np.int64]  # of the rows in the state
    targets: Array
    weights: Array  # of mean 1
    validation: Validation | None


def fit(model: Any, X: Any, y: Any, sample_weight: Any, checkpoint: Checkpoint | None) -> None:
    """Train on rows X, targets y and optional weights per row; go on from a checkpoint where there is one."""
    check_params(model)
    with _opened(model, checkpoint) as folder, threads(model.n_jobs):
        known = None if folder is None else next(folder.candidates(), None)
        warm = model.warm_start and hasattr(model, "state_")
        rows = read_rows(model, X, reset=not warm, minimum=2)
        y = model._read_targets(y, len(rows))
        weights = model._weigh(y, check_weights(sample_weight, len(rows)), reset=not warm)
        kept = weights > 0
        if not kept.all():  # a weight of 0 is the same as not being there
            rows, y, weights = rows[kept], y[kept], weights[kept]
        targets = model._encode(y, weights, reset=not warm)
        features = model._features(rows, weights, reset=not warm)
        mark = "" if folder is None else fingerprint(features, targets, weights)
        data = _start(model, features, rows, targets, weights, warm, known)
        if folder is None or checkpoint is None:
            keeper = None
        else:
            keeper = Keeper(checkpoint, folder, model._engine, model.state_, _configuration(model), mark)
        _train(model, data, keeper, warm)


@contextlib.contextmanager
def _opened(model: Any, checkpoint: Checkpoint | None) -> Iterator[CheckpointFolder | None]:
    """The checkpoints' folder, for this fit alone."""
    if checkpoint is None:
        yield None
        return
    if not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint={checkpoint!r} does not say how; give checkpoint=kronsgd.Checkpoint(folder), or None.")
    if model.warm_start:
        raise ValueError(
            "checkpoint=... keeps a training that can be repeated from its start, which warm_start=True cannot; set "
            "warm_start=False, or leave the checkpoint out and save the model."
        )
    with CheckpointFolder.opened(Path(checkpoint.folder), bool(checkpoint.resume), model._exchange) as folder:
        yield folder


def _start(
    model: Any, features: Features, rows: Any, targets: Array, weights: Array, warm: bool, known: Found | None
) -> Data:
    """The state over these rows, and what to train it on. known: a checkpoint, whose seed and engine are taken."""
    seed = model.state_.network.seed if warm else model._draw_seed()
    its_seed, engine = (None, None) if known is None else known.chosen()
    if not isinstance(model.random_state, (int, np.integer)):  # each fit has another seed, but for one that goes on
        seed = seed if its_seed is None else its_seed
    weights, validation = weights / weights.mean(), None
    if model.early_stopping:
        features, targets, weights, validation = hold_out(
            features, targets, weights, float(model.validation_fraction), seed
        )
    if warm:
        model._check_same_network()
        numbers = grow(model, features)
        model._most_coefficients = plan_to_go_on(model).most_coefficients(model.engine_)
    else:
        numbers = model._start(features, rows, targets, seed, engine=engine if model.engine == "auto" else None)
    return Data(numbers, targets, weights, validation)


def _configuration(model: Any) -> dict[str, Any]:
    """All that the course of training depends on, beside the data, as JSON."""
    params = {name: value for name, value in plain_params(model).items() if name != "warm_start"}
    return {
        "class": type(model).__name__, **params, "network": asdict(model.state_.network.whole), "engine_": model.engine_
    }  # fmt: skip


def _train(model: Any, data: Data, keeper: Keeper | None, warm: bool) -> None:
    """Train; with learning_rate_init="auto", start again at half the step after a divergence."""
    first_epoch = model.n_iter_ if warm else 0
    before = {} if keeper is None else snapshot(model._engine, model.state_)
    if keeper is None or not keeper.resume():
        _choose(model, data, warm)
        before.clear()  # this copy goes before another comes
        before = snapshot(model._engine, model.state_)
    course = Course() if keeper is None else keeper.course
    if course.position is None:
        course.learning_rate, course.max_iter = model.learning_rate_, model.max_iter_
    model.max_iter_ = course.max_iter
    tries = RETRIES if model.learning_rate_init == "auto" else 0
    finished = course.stop_reason is not None
    while course.stop_reason is None:
        model.learning_rate_ = course.learning_rate
        settings = model._settings(data.numbers, data.targets, model.max_iter_)
        settings = replace(
            settings, most=model._most_coefficients, worst=WORST if course.attempt < tries else settings.worst
        )
        course.position = course.position or Position()
        try:
            course.stop_reason = train(
                model._engine, model.state_, model._loss, data.numbers, data.targets, data.weights, settings, data.validation,
                first_epoch, course.position, keeper,
            ).stop_reason  # fmt: skip
        except Diverged:
            model._engine.restore(model.state_, before)
            _start_again(course, tries)
    position = course.position or Position()
    model.learning_rate_ = course.learning_rate
    position.history.stop_reason = course.stop_reason
    model._record(position.history)
    if keeper is not None and not finished and not course.stop_reason.cut_short:
        keeper.finish(position)
    if course.stop_reason is StopReason.DIVERGED:
        warn_of_divergence(model, "fit")


def _choose(model: Any, data: Data, warm: bool) -> None:
    """The step and the number of epochs, where they are not given."""
    if not warm or model.learning_rate_init != "auto":
        model._set_learning_rate(data.targets, data.weights)
    if model.max_iter != "auto":
        model.max_iter_ = int(model.max_iter)
    elif not warm or not hasattr(model, "max_iter_"):
        model._set_horizon(data.targets, data.weights)


def _start_again(course: Course, tries: int) -> None:
    """After a divergence: from the start at half the step, or not at all."""
    assert course.position is not None
    course.before += course.position.history.n_steps
    course.position = None
    if course.attempt >= tries:
        course.stop_reason = StopReason.DIVERGED
        return
    course.attempt, course.learning_rate = course.attempt + 1, course.learning_rate / 2
    logger.warning("the loss diverged: starting again with learning rate %.3g", course.learning_rate)
