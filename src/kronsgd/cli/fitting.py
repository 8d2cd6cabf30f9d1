"""Training the networks of a run: one, or one for each seed."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from kronsgd import StopReason
from kronsgd.cli.data import Data
from kronsgd.cli.errors import say
from kronsgd.cli.keeping import Keeping
from kronsgd.cli.parameters import make_model
from kronsgd.cli.ranks import over_ranks
from kronsgd.cli.report import say_plain
from kronsgd.cli.scores import Prediction, average, predict_rows, scores
from kronsgd.distributed import Distributed, gathered
from kronsgd.estimators import KronEstimator

__all__ = ["Fitted", "committee", "fit_one", "fit_seeds", "mean_and_deviation", "plain_warnings", "score_parts"]


@dataclass(frozen=True)
class Fitted:
    """A trained network, the seconds it took, and what it says about the training rows and the test rows."""

    model: KronEstimator
    seconds: float
    train: Prediction
    test: Prediction | None

    def scores(self, data: Data) -> dict[str, dict[str, float]]:
        """Scores by part: "train", and "test" if there are test rows."""
        return score_parts(data, self.train, self.test)


def score_parts(data: Data, train: Prediction, test: Prediction | None) -> dict[str, dict[str, float]]:
    """Scores by part of the rows."""
    out = {"train": scores(data.problem.y, train, data.train_ids)}
    if test is not None and data.problem.y_test is not None:
        out["test"] = scores(data.problem.y_test, test, data.test_ids)
    return out


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Python's warnings as one line each, without a path into the library."""

    def show(message: Warning | str, *args: Any, **kwargs: Any) -> None:
        say("warning", " ".join(str(message).split()))

    with warnings.catch_warnings():
        warnings.showwarning = show
        yield


def fit_one(
    task: str, params: dict[str, Any], X: Any, y: Any, weights: Any, groups: Any, *, bar: bool, **how: Any
) -> KronEstimator:  # fmt: skip
    """A trained network, or this rank's part of it; its saved parameters do not remember the progress bar."""
    model: Any = make_model(task, {**params, "verbose": bar})
    if over_ranks():
        model = Distributed(model)
    if groups is None:
        model.fit(X, y, weights, **how)
    elif task == "classification":
        raise ValueError("groups in [pairs] go with --set loss=ranking, which orders numbers; leave them out for classes.")
    else:
        model.fit(X, y, weights, groups=groups, **how)
    model = model.estimator_ if over_ranks() else model
    model.set_params(verbose=bool(params.get("verbose", False)))
    return model


def fit_seeds(
    data: Data, params: dict[str, Any], n_seeds: int, *, bar: bool, keeping: Keeping | None, stopped: Callable[[], bool]
) -> list[Fitted]:
    """A network for each seed from random_state on; after Ctrl-C, or once `stopped` says so, no further one is begun."""
    problem, out = data.problem, []
    for seed in range(params["random_state"], params["random_state"] + n_seeds):
        started = time.perf_counter()
        own = {**params, "random_state": seed}
        how = {} if keeping is None else {"checkpoint": keeping.checkpoint(seed)}
        if keeping is not None and bar and keeping.newest(seed):
            say_plain(f"going on from {keeping.folder / f'seed-{seed}'}, {keeping.newest(seed)}")
        model = fit_one(problem.task, own, problem.X, problem.y, data.weights, data.groups, bar=bar, **how)
        before = sum(record["seconds"] for record in model.history_)  # also of epochs before a stop
        seconds = max(time.perf_counter() - started, before)
        test = None if problem.X_test is None else predict_rows(model, problem.X_test)
        train = predict_rows(model, problem.X)
        out.append(Fitted(gathered(model) or model, seconds, train, test))
        if stopped() or model.stop_reason_ is StopReason.INTERRUPTED:
            break
    return out


def committee(fitted: list[Fitted]) -> tuple[Prediction, Prediction | None]:
    """The mean predictions on the training rows and on the test rows."""
    tests = [one.test for one in fitted if one.test is not None]
    return average([one.train for one in fitted]), average(tests) if tests else None


def mean_and_deviation(values: list[float]) -> tuple[float, float]:
    """Over seeds; the deviation is that of a sample."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
