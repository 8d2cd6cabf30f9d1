"""KronRegressor."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import RegressorMixin

from kronsgd.estimators.base import KronEstimator
from kronsgd.estimators.inputs import check_targets
from kronsgd.estimators.parameters import PARAMETERS
from kronsgd.validation import check_finite

__all__ = ["KronRegressor"]

Array = NDArray[Any]


class KronRegressor(RegressorMixin, KronEstimator):  # type: ignore[misc]
    __doc__ = (
        "Least-squares regression with a wide two-layer network on product features; y may have several columns."
        + PARAMETERS
        + """y_mean_, y_scale_ : the network is trained on (y − y_mean_) / y_scale_, with loss ½(f − y)².
    """
    )

    def _read_targets(self, y: Any, n_rows: int) -> Array:
        return check_targets(y, n_rows, numeric=True)

    def partial_fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """One pass over the rows in the order given, at a constant step; new rows and entities are welcome.

        The mean and scale of y are those of the first call. Made for streams: on a model that `fit` has trained to the end,
        the constant step forgets some of it; there, warm_start=True and `fit` on the new rows do better.
        Cost: the step itself, on all rows known so far; all else depends on the rows of the call only.
        """
        return self._partial_fit(X, y, sample_weight)

    def _loss_name(self) -> str:
        return "squared"

    def _encode(self, y: Array, weights: Array, reset: bool) -> Array:
        columns = y.reshape(len(y), -1)
        if reset:
            self._single = y.ndim == 1
            mean = np.average(columns, axis=0, weights=weights)
            deviation = np.sqrt(np.average((columns - mean) ** 2, axis=0, weights=weights))
            self.y_mean_, self.y_scale_ = mean, np.where(deviation > 0, deviation, 1.0)
        elif columns.shape[1] != len(self.y_mean_):
            raise ValueError(f"y has {columns.shape[1]} outputs but the model has {len(self.y_mean_)}.")
        return np.asarray((columns - self.y_mean_) / self.y_scale_)

    def predict(self, X: Any) -> Array:
        """Predicted targets, in the units of y. Shape: (n',) or (n', outputs)."""
        values = self._outputs(X) * self.y_scale_ + self.y_mean_
        return np.asarray(values[:, 0] if self._single else values)

    def _scores(self, X: Any) -> Array:
        return self.predict(X)

    def _own_state(self) -> dict[str, Any]:
        return {"y_mean": self.y_mean_.tolist(), "y_scale": self.y_scale_.tolist(), "single": self._single}

    def _restore_own(self, own: dict[str, Any]) -> None:
        self.y_mean_, self.y_scale_ = np.array(own["y_mean"], dtype=float), np.array(own["y_scale"], dtype=float)
        self._single = bool(own["single"])
        check_finite("y_mean", self.y_mean_)
        check_finite("y_scale", self.y_scale_)
        if not len(self.y_mean_) == len(self.y_scale_) == self.state_.network.n_outputs:
            raise ValueError("the target's mean and scale do not fit the network's outputs")
