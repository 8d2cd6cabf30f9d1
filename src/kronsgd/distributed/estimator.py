"""Estimators whose neurons are spread over the ranks of a process group."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

from sklearn.base import BaseEstimator, clone
from sklearn.utils.validation import check_is_fitted

from kronsgd.distributed.exchange import TorchExchange
from kronsgd.engines.shards import join
from kronsgd.estimators import KronEstimator
from kronsgd.exchange import ALONE
from kronsgd.features.base import Features
from kronsgd.features.serialize import compress
from kronsgd.parallel import threads
from kronsgd.training import fingerprint

__all__ = ["Distributed", "gathered", "thread_budget"]

logger = logging.getLogger("kronsgd")
ALIKE = ValueError, TypeError, AttributeError, OSError  # what all ranks raise


def thread_budget() -> int:
    """Threads of each rank, where nothing else is said: the cores that it may use, shared with the host's other ranks."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, cores // int(os.environ.get("LOCAL_WORLD_SIZE", "1") or 1))


@contextmanager
def _silent(silent: bool) -> Iterator[None]:
    """Say nothing, for rank 0 says it."""
    with warnings.catch_warnings():
        if silent:
            warnings.simplefilter("ignore")
            logger.addFilter(_nothing)
        try:
            yield
        finally:
            logger.removeFilter(_nothing)


def _nothing(record: logging.LogRecord) -> bool:
    return False


@contextmanager
def _together(model: Any) -> Iterator[None]:
    """What all ranks do, each on its share of the cores.

    All of them find the same fault with what they are given, and hear of a file that cannot be written. Anything else, such as
    a lack of memory, only this rank may have met: it leaves, or the others would wait for it for as long as it lives.
    """
    try:
        with threads(thread_budget()):
            yield
    except BaseException as error:
        if not isinstance(error, ALIKE) or isinstance(error, ConnectionError):
            model._exchange.leave()
        raise


def gathered(model: Any) -> Any:
    """The whole network of a fitted estimator on rank 0, None on the other ranks; one process has it already."""
    state = model.state_
    if not state.network.exchange.shared:
        return model
    shards = state.network.exchange.collect(model._engine.arrays(state))
    if shards is None:
        return None
    whole = copy.copy(model)
    whole._exchange = ALONE
    whole.state_ = whole._engine.initialize(state.network.whole, state.features, state.normalize, whole._engine.basis(state))
    whole._engine.restore(whole.state_, join(shards))
    return whole


class Distributed(BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """An estimator trained by all ranks of a torch.distributed process group, each with some blocks of its neurons.

    Every rank calls the same methods with the same data, in the same order. Training gives the same bytes on any number of
    ranks; a step exchanges the partial outputs of 64 neuron blocks, whatever the numbers of neurons, rows and dimensions.
    After `fit`, `estimator_` holds this rank's neurons: its predictions are those of the whole network, and `gather` and
    `save` bring the whole network to rank 0.

    Parameters
    ----------
    estimator : KronRegressor or KronClassifier
        n_jobs=None gives each rank its share of the host's cores.
    group : torch.distributed.ProcessGroup, default=None
        None is the default group.
    """

    def __init__(self, estimator: Any, group: Any = None) -> None:
        self.estimator = estimator
        self.group = group

    def fit(self, X: Any, y: Any, *args: Any, **kwargs: Any) -> Self:
        """As the estimator's `fit`, on every rank with the same rows. ValueError where the ranks' data differ."""
        model = self._new_model()
        rows = [value for name, value in kwargs.items() if name != "checkpoint"]
        with _together(model), _silent(model._exchange.rank > 0):
            data = fingerprint(X, y, *args, *rows)
            model._exchange.check_same({"data": data, "checkpoint=...": repr(kwargs.get("checkpoint"))})
            model.fit(X, y, *args, **kwargs)
        self.estimator_ = model
        return self

    def partial_fit(self, X: Any, y: Any, *args: Any, **kwargs: Any) -> Self:
        """As the estimator's `partial_fit`, on every rank with the same rows in the same order. Besides, it costs a digest."""
        model = self.estimator_ if "estimator_" in self.__dict__ else self._new_model()
        with _together(model), _silent(model._exchange.rank > 0):
            rows = compress(X) if isinstance(X, Features) else X  # of large tables only the entities of this call
            model._exchange.check_same({"data": fingerprint(rows, y, *args, *kwargs.values())})
            model.partial_fit(X, y, *args, **kwargs)
        self.estimator_ = model
        return self

    def _new_model(self) -> Any:
        """A model without neurons yet that is to train with the other ranks'."""
        if not isinstance(self.estimator, KronEstimator):
            raise TypeError(
                f"estimator={self.estimator!r} cannot be spread over ranks; give a KronRegressor or a KronClassifier. (A "
                "search goes outside: GridSearchCV(Distributed(...)).)"
            )
        exchange = TorchExchange(self.group)
        model = clone(self.estimator)
        if model.warm_start:
            raise ValueError("warm_start=True goes on from a fitted model, but Distributed starts anew; set warm_start=False.")
        exchange.check_same({f"parameters ({name})": repr(value) for name, value in self._shared_params().items()})
        model._exchange = exchange
        if exchange.rank:
            model.verbose = False
        return model

    def _shared_params(self) -> dict[str, Any]:
        """The parameters that must be the same on all ranks."""
        own = ("n_jobs", "verbose", "memory_limit", "random_state")  # the seed is rank 0's
        return {name: value for name, value in self.estimator.get_params().items() if name not in own}

    def predict(self, X: Any, **kwargs: Any) -> Any:
        """As the estimator's `predict`. Every rank calls it with the same rows and gets all predictions."""
        check_is_fitted(self, "estimator_")
        with _together(self.estimator_):
            return self.estimator_.predict(X, **kwargs)

    def predict_proba(self, X: Any) -> Any:
        """As the classifier's `predict_proba`."""
        check_is_fitted(self, "estimator_")
        with _together(self.estimator_):
            return self.estimator_.predict_proba(X)

    def score(self, X: Any, y: Any, *args: Any) -> float:
        """As the estimator's `score`."""
        check_is_fitted(self, "estimator_")
        with _together(self.estimator_):
            return float(self.estimator_.score(X, y, *args))

    def gather(self) -> Any:
        """The whole network as an estimator like any other, on rank 0; None on the other ranks."""
        check_is_fitted(self, "estimator_")
        with _together(self.estimator_):
            return gathered(self.estimator_)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the whole network to one file. Every rank calls it, rank 0 writes. OSError on all where it cannot."""
        whole, failed = self.gather(), None
        with _together(self.estimator_):
            if whole is not None:
                try:
                    whole.save(path)
                except OSError as error:
                    failed = f"rank 0 could not write the model to {path}: {error.strerror or error}; give another path."
            failed = self.estimator_.state_.network.exchange.broadcast(failed)
        if failed is not None:
            raise OSError(failed)

    def __getattr__(self, name: str) -> Any:
        """What fitting has told, such as history_ and classes_: that of `estimator_`."""
        if name.startswith("_") or not name.endswith("_") or "estimator_" not in self.__dict__:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}; what an estimator has besides is on estimator_, for this "
                "rank's neurons, and on gather(), which rank 0 gets, for all."
            )
        return getattr(self.__dict__["estimator_"], name)
