"""KronRegressor."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin
from sklearn.utils.validation import column_or_1d

from kronsgd.estimators.base import KronEstimator
from kronsgd.estimators.inputs import check_targets
from kronsgd.estimators.parameters import described, names_checked
from kronsgd.losses import LOSSES, Huber, Loss, Ranking
from kronsgd.metrics import concordance_index
from kronsgd.training import Checkpoint
from kronsgd.validation import check_choice, check_finite, check_real

__all__ = ["KronRegressor"]

Array = NDArray[Any]
Rows = NDArray[np.int64]
NORMAL_MAD = 1.4826  # of a normal distribution: its standard deviation in median absolute deviations
OWN = """    loss : {"squared", "huber", "ranking"}, default="squared"
        "squared" is ½ r² and "huber" the same for |r| ≤ delta, δ(|r| − ½ δ) beyond: outliers pull no harder than delta. Small
        values of delta come close to absolute errors. "ranking" is ln(1 + exp(f_j − f_i)) for the pairs of a batch with
        y_i > y_j that are in the same of the `groups` that fit is given (all pairs, without groups): `predict` then gives
        scores that order the rows of a group and mean nothing else, and `score` is the concordance index.
    delta : float, default=1.0
        Where the Huber loss turns linear, in units of y_scale_.
"""


class KronRegressor(RegressorMixin, KronEstimator):  # type: ignore[misc]
    __doc__ = described(
        "Regression with a wide two-layer network on product features; y may have several columns, but for ranking.",
        OWN,
        """y_mean_, y_scale_ : the network is trained on (y − y_mean_) / y_scale_: the mean and the standard deviation of y; for
        "huber" its median and 1.4826 median absolute deviations; for "ranking" 0 and 1.
    """,
    )

    def __init__(self, n_hidden: int = 1024, *, loss: str = "squared", delta: float = 1.0, **shared: Any) -> None:
        super().__init__(n_hidden, **shared)
        self.loss = loss
        self.delta = delta

    __init__ = names_checked(__init__, KronEstimator.__init__)

    def fit(
        self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None, *, checkpoint: Checkpoint | None = None
    ) -> Self:  # fmt: skip
        """Train on rows X (a feature expression or a 2-D array), targets y and optional weights per row.

        groups (n,): for loss="ranking", the group of each row, such as its drug; only rows of a group are compared.
        checkpoint: where and how often to save the state on the way, so that an ended run goes on from there.
        """
        targets = self._with_groups(y, groups)
        if self.loss == "ranking":
            _check_comparable(targets)
        return super().fit(X, targets, sample_weight, checkpoint=checkpoint)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None, groups: Any = None) -> Self:
        """One pass over the rows in the order given, at a constant step; new rows and entities are welcome.

        The mean and scale of y are those of the first call. Made for streams: on a model that `fit` has trained to the end,
        the constant step forgets some of it; there, warm_start=True and `fit` on the new rows do better.
        Cost: the step itself, on all rows known so far; all else depends on the rows of the call only.
        """
        return self._partial_fit(X, self._with_groups(y, groups), sample_weight)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """R² of the predictions; for loss="ranking" the concordance index, over all pairs of rows."""
        if self.loss != "ranking":
            return float(super().score(X, y, sample_weight))
        return concordance_index(column_or_1d(y), self.predict(X))

    def _check_own_params(self) -> None:
        check_choice("loss", self.loss, ["squared", "huber", "ranking"])
        check_real("delta", self.delta, 0, open_low=True)

    def _own_loss(self) -> Loss:
        return {"squared": LOSSES["squared"], "huber": Huber(float(self.delta)), "ranking": Ranking()}[self.loss]

    def _with_groups(self, y: Any, groups: Any) -> Any:
        """y with the number of each row's group beside it, where the loss compares rows. Shape: (n, 2)."""
        if self.loss != "ranking":
            if groups is not None:
                raise ValueError(f'groups are compared by loss="ranking" only, but loss={self.loss!r}; leave groups out.')
            return y
        values = check_targets(y, np.shape(y)[0] if np.ndim(y) else 0, numeric=True)
        if values.ndim > 1:
            raise ValueError(f'y has shape {values.shape}, but loss="ranking" orders rows by one number each; give 1-D y.')
        if groups is None:
            return np.column_stack([values, np.zeros(len(values))])
        groups = np.asarray(groups)
        if groups.shape != values.shape:
            raise ValueError(f"groups has shape {groups.shape} but y has {values.shape}; give one group for each row.")
        missing = np.flatnonzero([group is None or group != group for group in groups.tolist()])  # NaN is not itself
        if len(missing):
            raise ValueError(f"groups has no value at position {missing[0]}; give every row a group or leave the row out.")
        return np.column_stack([values, np.unique(groups, return_inverse=True)[1]])

    def _groups(self, targets: Array) -> Rows | None:
        if self.loss != "ranking" or (targets[:, 1] == targets[0, 1]).all():
            return None
        return np.asarray(targets[:, 1], dtype=np.int64)

    def _weigh(self, y: Array, weights: Array, reset: bool) -> Array:
        used = weights[weights > 0]
        if self.loss == "ranking" and used.min() != used.max():
            raise ValueError(
                f'sample_weight ranges from {used.min():g} to {used.max():g}, but loss="ranking" compares pairs of rows and '
                "knows no weights of rows; leave sample_weight out, or set it to 0 for rows to leave out."
            )
        return weights

    def _read_targets(self, y: Any, n_rows: int) -> Array:
        return check_targets(y, n_rows, numeric=True)

    def _encode(self, y: Array, weights: Array, reset: bool) -> Array:
        columns = y.reshape(len(y), -1)
        if reset:
            self._single = y.ndim == 1 or self.loss == "ranking"
            self.y_mean_, self.y_scale_ = self._location_and_scale(columns, weights)
        if self.loss == "ranking":
            return columns
        if columns.shape[1] != len(self.y_mean_):
            raise ValueError(f"y has {columns.shape[1]} outputs but the model has {len(self.y_mean_)}.")
        return np.asarray((columns - self.y_mean_) / self.y_scale_)

    def _location_and_scale(self, columns: Array, weights: Array) -> tuple[Array, Array]:
        if self.loss == "ranking":
            return np.zeros(1), np.ones(1)
        centre = np.average(columns, axis=0, weights=weights)
        scale = np.sqrt(np.average((columns - centre) ** 2, axis=0, weights=weights))
        if self.loss == "huber":
            centre = _median(columns, weights)
            spread = NORMAL_MAD * _median(np.abs(columns - centre), weights)
            scale = np.where(spread > 0, spread, scale)
        return centre, np.where(scale > 0, scale, 1.0)

    def predict(self, X: Any, return_std: bool = False) -> Any:
        """Predicted targets, in the units of y: the mean over the networks. Shape: (n',) or (n', outputs).

        return_std: (mean, standard deviation over the networks, that of a sample); it says how far networks that differ in
        their seeds only disagree, which is what more data would settle, and leaves out the noise of y. Needs n_networks ≥ 2.
        """
        members = self.predict_members(X)
        if not return_std:
            return members.mean(axis=0)
        if len(members) < 2:
            raise ValueError("return_std=True needs several networks, but the model has one; fit with n_networks=5.")
        return members.mean(axis=0), members.std(axis=0, ddof=1)

    def predict_members(self, X: Any) -> Array:
        """What each network predicts, in the units of y. Shape: (n_networks, n') or (n_networks, n', outputs)."""
        values = self._outputs(X) * self.y_scale_ + self.y_mean_
        return np.asarray(values[:, :, 0] if self._single else values)

    def _scores(self, X: Any) -> Array:
        return np.asarray(self.predict(X))

    def _own_state(self) -> dict[str, Any]:
        return {"y_mean": self.y_mean_.tolist(), "y_scale": self.y_scale_.tolist(), "single": self._single}

    def _restore_own(self, own: dict[str, Any]) -> None:
        self.y_mean_, self.y_scale_ = np.array(own["y_mean"], dtype=float), np.array(own["y_scale"], dtype=float)
        self._single = bool(own["single"])
        check_finite("y_mean", self.y_mean_)
        check_finite("y_scale", self.y_scale_)
        if not len(self.y_mean_) == len(self.y_scale_) == self.state_.network.own_outputs:
            raise ValueError("the target's mean and scale do not fit the network's outputs")


def _median(columns: Array, weights: Array) -> Array:
    """Of each column, by weight."""
    return np.asarray(np.quantile(columns, 0.5, axis=0, weights=weights, method="inverted_cdf"))


def _check_comparable(targets: Array) -> None:
    """Refuse (y, group) without two rows of one group that differ in y: there is nothing to rank."""
    values = np.unique(targets, axis=0)
    if len(values) == len(np.unique(targets[:, 1])):
        raise ValueError(
            f'loss="ranking" compares rows of the same group that differ in y, and none of the {len(targets)} rows have such a '
            "partner; give groups that hold several rows, such as the drug of each row."
        )
