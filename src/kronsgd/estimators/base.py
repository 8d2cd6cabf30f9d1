"""What the regressor and the classifier share: parameters, fitting, hidden states, files."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted

from kronsgd.engines import ENGINES, Engine
from kronsgd.estimators.files import load_model, save_model
from kronsgd.estimators.fitting import fit
from kronsgd.estimators.inputs import ArrayMap, read_rows
from kronsgd.estimators.pairs import PairScores
from kronsgd.estimators.parameters import check_known, names_checked, unchanged_on_error
from kronsgd.estimators.planning import measured_plan, plan_to_train
from kronsgd.estimators.stream import partial_fit
from kronsgd.exchange import ALONE, Exchange, check_alone
from kronsgd.features.base import Features
from kronsgd.features.known import KnownRows
from kronsgd.losses import Loss, Members
from kronsgd.network import Part, TwoLayer, auto_threshold
from kronsgd.parallel import threads
from kronsgd.planner import Plan
from kronsgd.training import (
    Checkpoint,
    History,
    Settings,
    auto_learning_rate,
    automatic_horizon,
    rows_per_step,
)
from kronsgd.validation import check_integer

__all__ = ["KronEstimator"]

Array = NDArray[Any]
Rows = NDArray[np.int64]


class KronEstimator(PairScores, BaseEstimator):  # type: ignore[misc]  # scikit-learn ships no types
    """Base of KronRegressor and KronClassifier; see there for the parameters."""

    registry: ClassVar[dict[str, type[KronEstimator]]] = {}
    _exchange: Exchange = ALONE  # with the ranks that train the other neurons
    _known: KnownRows | None = None  # the keys of the state's rows, made when first needed and never pickled

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        KronEstimator.registry[cls.__name__] = cls

    @names_checked
    def __init__(
        self,
        n_hidden: int = 1024,
        *,
        n_networks: int = 1,
        engine: str = "auto",
        threshold: float | str = "auto",
        output_scale: float = 0.1,
        init: str = "structured",
        init_rank: int = 1,
        antisymmetric: bool = True,
        train_output: bool = False,
        normalize: bool = True,
        standardize: bool = True,
        dtype: str = "auto",
        coefficient_dtype: str = "auto",
        batching: str = "auto",
        batch_size: int | str = "auto",
        learning_rate: str = "cosine",
        learning_rate_init: float | str = "auto",
        max_iter: int | str = "auto",
        alpha: float = 0.0,
        shuffle: bool = True,
        tol: float = 1e-4,
        n_iter_no_change: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        warm_start: bool = False,
        random_state: Any = None,
        n_jobs: int | None = None,
        memory_limit: float | str = "auto",
        verbose: bool = False,
    ) -> None:
        self.n_hidden = n_hidden
        self.n_networks = n_networks
        self.engine = engine
        self.threshold = threshold
        self.output_scale = output_scale
        self.init = init
        self.init_rank = init_rank
        self.antisymmetric = antisymmetric
        self.train_output = train_output
        self.normalize = normalize
        self.standardize = standardize
        self.dtype = dtype
        self.coefficient_dtype = coefficient_dtype
        self.batching = batching
        self.batch_size = batch_size
        self.learning_rate = learning_rate
        self.learning_rate_init = learning_rate_init
        self.max_iter = max_iter
        self.alpha = alpha
        self.shuffle = shuffle
        self.tol = tol
        self.n_iter_no_change = n_iter_no_change
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.warm_start = warm_start
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.memory_limit = memory_limit
        self.verbose = verbose

    # What a subclass says ----------------------------------------------------------------------------------------------

    def _encode(self, y: Array, weights: Array, reset: bool) -> Array:
        """Targets for the loss, (n, C); with `reset`, learns how to encode."""
        raise NotImplementedError

    def _own_loss(self) -> Loss:
        """The loss of one network."""
        raise NotImplementedError

    def _check_own_params(self) -> None:
        """Raise TypeError or ValueError for a parameter out of range that only this estimator has."""

    def _weigh(self, y: Array, weights: Array, reset: bool) -> Array:
        """The weights of the rows, from those that `fit` was given. reset: as for `_encode`."""
        return weights

    def _groups(self, targets: Array) -> Rows | None:
        """The group of each row, where batches are to go from group to group."""
        return None

    def _read_targets(self, y: Any, n_rows: int) -> Array:
        raise NotImplementedError

    def _own_state(self) -> dict[str, Any]:
        """What a subclass has learned beyond the network, as JSON."""
        raise NotImplementedError

    def _restore_own(self, own: dict[str, Any]) -> None:
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in super().__getstate__().items() if name != "_known"}

    # Parameters --------------------------------------------------------------------------------------------------------

    def set_params(self, **params: Any) -> Self:
        """As in scikit-learn, with a suggestion for a misspelt name."""
        check_known(self, params)
        return super().set_params(**params)

    def _draw_seed(self) -> int:
        return int(self._exchange.broadcast(int(check_random_state(self.random_state).randint(2**31 - 1))))

    def _make_network(self, n_outputs: int, dtype: str, seed: int) -> TwoLayer:
        """n_outputs: of each network."""
        n_hidden, n_networks = check_integer("n_hidden", self.n_hidden, 1), int(self.n_networks)
        threshold = auto_threshold(n_hidden) if self.threshold == "auto" else float(self.threshold)
        return TwoLayer(
            n_hidden=n_networks * n_hidden, n_outputs=n_networks * n_outputs, n_networks=n_networks,
            threshold=threshold, output_scale=float(self.output_scale),
            init=self.init, init_rank=self.init_rank, antisymmetric=bool(self.antisymmetric),
            train_output=bool(self.train_output), seed=seed, dtype=dtype,
            coefficient_dtype=self.coefficient_dtype,
        )  # fmt: skip

    @property
    def _loss(self) -> Loss:
        """The loss of all networks."""
        own, n_networks = self._own_loss(), self.state_.network.n_networks
        return own if n_networks == 1 else Members(own, n_networks)

    def _settings(self, numbers: Rows, targets: Array, max_iter: int) -> Settings:
        return Settings(
            learning_rate_init=self.learning_rate_, learning_rate=self.learning_rate, max_iter=max_iter,
            batch_size=self._batch_size(len(numbers)), cells=self._cells(numbers),
            groups=self._groups(targets), alpha=float(self.alpha), shuffle=bool(self.shuffle),
            tol=float(self.tol), n_iter_no_change=self.n_iter_no_change, verbose=bool(self.verbose),
        )  # fmt: skip

    def _batch_size(self, n_rows: int) -> int:
        return rows_per_step(self.batch_size, n_rows, self._in_blocks)

    @property
    def _in_blocks(self) -> bool:
        return bool(self.batching == "blocks" or (self.batching == "auto" and self.engine_ == "grid"))

    def _cells(self, numbers: Rows) -> tuple[Rows, Rows] | None:
        """(inner, outer) entity of training rows, where batches are blocks."""
        if not self._in_blocks:
            return None
        inner, outer = self._engine.sides(self.state_).split(self.features_)
        return inner.entity[numbers], outer.entity[numbers]

    # Fitting -----------------------------------------------------------------------------------------------------------

    def fit(self, X: Any, y: Any, sample_weight: Any = None, *, checkpoint: Checkpoint | None = None) -> Self:
        """Train on rows X (a feature expression or a 2-D array), targets y and optional weights per row.

        checkpoint: where and how often to save the state on the way, so that an ended run goes on from there.
        """
        with unchanged_on_error(self):
            fit(self, X, y, sample_weight, checkpoint)
        return self

    def _partial_fit(self, X: Any, y: Any, sample_weight: Any) -> Self:
        partial_fit(self, X, y, sample_weight)
        return self

    def features(self, X: Any) -> Features:
        """The feature expression that the network sees for the rows X (a plain array becomes (1 + Z) ** 2)."""
        check_is_fitted(self, "state_")
        return self._features(read_rows(self, X, reset=False), None, reset=False)

    def _features(self, rows: Features | Array, weights: Array | None, reset: bool) -> Features:
        if isinstance(rows, Features):
            if reset:
                self._array_map: ArrayMap | None = None
            elif self._array_map is not None:
                raise ValueError(f"the model was fitted on a plain array, not on {rows.expression()}; pass an array.")
            return rows
        if reset:
            self._array_map = ArrayMap.fit(rows, np.ones(len(rows)) if weights is None else weights, self.standardize)
        elif self._array_map is None:
            raise ValueError(f"the model was fitted on {self.features_.expression()}; pass rows of that expression.")
        return self._array_map(rows)

    def _check_same_network(self) -> None:
        """Raise ValueError if a parameter asks for another network than the one that warm_start goes on with."""
        known = self.state_.network
        wanted = self._make_network(known.own_outputs, known.dtype if self.dtype == "auto" else self.dtype, known.seed)
        mine, its = ({**asdict(network.member(0)), "n_networks": network.n_networks} for network in (wanted, known))
        for name, value in mine.items():
            if value != its[name]:
                raise ValueError(
                    f"{name}={value!r} differs from the fitted network's {its[name]!r}; with warm_start=True the "
                    "network stays as it is: set warm_start=False to start another."
                )

    def _start(
        self, features: Features, rows: Features | Array, targets: Array, seed: int, stream: bool = False,
        engine: str | None = None,
    ) -> Rows:  # fmt: skip
        """A fresh state; returns the row number of each row. stream: more will come. engine: what "auto" became before."""
        n_outputs = self._own_loss().n_outputs(targets)
        own = "float32" if isinstance(rows, Features) else str(rows.dtype)
        network = self._make_network(n_outputs, own if self.dtype == "auto" else self.dtype, seed)
        if self._exchange.shared:
            network = Part.on_rank(network, self._exchange)
        else:
            check_alone()
        plan = plan_to_train(self, network, features, stream, engine)
        self.engine_ = plan.choose()
        self._most_coefficients = plan.most_coefficients(self.engine_)
        self.state_ = self._engine.initialize(network, features, bool(self.normalize))
        self._known = None
        self.n_iter_, self.threshold_ = 0, network.threshold
        self.history_: list[dict[str, float]] = []
        return np.arange(features.n_rows)

    def _set_learning_rate(self, targets: Array, weights: Array) -> None:
        if self.learning_rate_init != "auto":
            self.learning_rate_ = float(self.learning_rate_init)
            return
        alpha = float(self.alpha) * self.state_.network.scale**2
        self.learning_rate_ = auto_learning_rate(
            self._engine, self.state_, self._loss, self._batch_size(len(weights)), weights, alpha,
            self._cells(np.arange(len(weights))), self._groups(targets),
        )  # fmt: skip

    def _set_horizon(self, targets: Array, weights: Array) -> None:
        """max_iter="auto": as long as the tangent kernel's cross-validation says, in at least a few epochs."""
        horizon = automatic_horizon(
            self._engine, self.state_, self._loss, targets, weights, self._batch_size(len(targets)),
            self.learning_rate_, self.learning_rate_init != "auto", self.learning_rate,
        )  # fmt: skip
        self.max_iter_, self.learning_rate_ = horizon.max_iter, horizon.learning_rate

    def _record(self, history: History) -> None:
        self.history_.extend(history.records)
        self.n_iter_ += len(history.records)
        self.stop_reason_ = history.stop_reason

    # What can be asked of a fitted model -------------------------------------------------------------------------------

    @property
    def _engine(self) -> Engine:
        return ENGINES[self.engine_]

    @property
    def features_(self) -> Features:
        """The training rows, as a feature expression."""
        return self.state_.features

    @property
    def plan_(self) -> Plan:
        """What each engine would cost, at the densities that training has measured."""
        return measured_plan(self)

    @property
    def loss_curve_(self) -> list[float]:
        """Mean training loss of each epoch, each row's loss taken just before its step."""
        return [record["loss"] for record in self.history_]

    @property
    def output_weights_(self) -> Array:
        """a_rc. Shape: (n_hidden, outputs)."""
        return np.asarray(self.state_.output_weights)

    def _outputs(self, X: Any) -> Array:
        """f(x) of each network, before targets are put back to their scale. Shape: (E, n', C)."""
        features = self.features(X)
        with threads(self.n_jobs):
            outputs = self._engine.outputs(self.state_, features)
        return np.asarray(np.split(outputs, self.state_.network.n_networks, axis=1))

    def fired(self, X: Any) -> sp.csr_array:
        """Which neurons fire on each row: a boolean CSR matrix (rows, n_hidden)."""
        features = self.features(X)
        with threads(self.n_jobs):
            batches = self._engine.batches(self.state_, features)
            return sp.csr_array(sp.vstack([sp.csr_array(self._engine.hidden(self.state_, a) > 0) for a in batches]))

    def hidden_weights(self) -> Array:
        """W (n_hidden, d) in the coordinates of `features_.dense()`. ValueError where d is too large."""
        check_is_fitted(self, "state_")
        with threads(self.n_jobs):
            return self._engine.hidden_weights(self.state_)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the model to one safetensors file; training can be continued from it to the last bit."""
        save_model(self, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> KronEstimator:
        """The estimator that was saved at `path`. ValueError for anything but a whole, consistent model file."""
        return load_model(path, KronEstimator.registry)
