"""Learning from a stream: rows are added to those that a model knows, and seen once."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.estimators.inputs import check_weights, read_rows
from kronsgd.estimators.parameters import check_params
from kronsgd.estimators.warning import warn_of_divergence
from kronsgd.features.base import Features
from kronsgd.features.known import KnownRows
from kronsgd.parallel import threads
from kronsgd.training import Diverged, History, StopReason, train_stream

__all__ = ["grow", "partial_fit"]

Rows = NDArray[np.int64]


def partial_fit(model: Any, X: Any, y: Any, sample_weight: Any) -> None:
    """One pass over the rows in the order given, at a constant step; new rows and entities are welcome.

    Cost: a step for each batch, and what the rows themselves cost; now and then that of a copy of the state.
    """
    check_params(model)
    first = not hasattr(model, "state_")
    rows = read_rows(model, X, reset=first)
    y = model._read_targets(y, len(rows))
    weights = model._weigh(y, check_weights(sample_weight, len(rows)), reset=first)
    kept = weights > 0
    if not kept.all():  # as in fit: a row of weight 0 is not there, and a loss that compares rows must not see it
        rows, y, weights = rows[kept], y[kept], weights[kept]
    targets = model._encode(y, weights, reset=first)
    with threads(model.n_jobs):
        features = model._features(rows, weights, reset=first)
        numbers = model._start(features, rows, targets, model._draw_seed(), stream=True) if first else grow(model, features)
        if first or model.learning_rate_init != "auto":
            model._set_learning_rate(targets, weights)
        settings = replace(model._settings(numbers, targets, 1), shuffle=False, learning_rate="constant", verbose=False)
        try:
            history = train_stream(model._engine, model.state_, model._loss, numbers, targets, weights, settings, model.n_iter_)
        except Diverged:
            history = History(stop_reason=StopReason.DIVERGED)
            warn_of_divergence(model, "partial_fit")
        if history.stop_reason is StopReason.MAX_ITER:
            history.stop_reason = StopReason.PARTIAL
        model._record(history)


def grow(model: Any, features: Features) -> Rows:
    """The model's state over these rows too; returns the row number of each. Cost: theirs, once the known ones have keys."""
    if model._known is None or not model._known.whole or model._known.features is not model.state_.features:
        model._known = KnownRows(model.state_.features)
    numbers = model._known.append(features)
    if model._known.features is not model.state_.features:
        model.state_ = model._engine.extend(model.state_, model._known.features)
    return numbers
