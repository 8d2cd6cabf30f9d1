"""KronClassifier."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from kronsgd.estimators.base import KronEstimator
from kronsgd.estimators.inputs import check_targets
from kronsgd.estimators.parameters import PARAMETERS, unchanged_on_error

__all__ = ["KronClassifier"]

Array = NDArray[Any]


class KronClassifier(ClassifierMixin, KronEstimator):  # type: ignore[misc]
    __doc__ = (
        "Classification with a wide two-layer network on product features: logistic loss for two classes, else softmax."
        + PARAMETERS
        + """classes_ : the class labels, sorted.
    """
    )

    def _read_targets(self, y: Any, n_rows: int) -> Array:
        y = check_targets(y, n_rows, numeric=False)
        check_classification_targets(y)
        return y

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over the rows in the order given; `classes` names all classes at the first call."""
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("classes must be passed on the first call to partial_fit, for example classes=numpy.unique(y).")
        with unchanged_on_error(self):
            if classes is not None and hasattr(self, "classes_") and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(f"classes={classes!r} differ from those of the first call, {self.classes_.tolist()}.")
            if not hasattr(self, "classes_"):
                self._promised = np.unique(classes)
            return self._partial_fit(X, y, sample_weight)

    def _loss_name(self) -> str:
        return "logistic" if len(self.classes_) == 2 else "softmax"

    def _encode(self, y: Array, weights: Array, reset: bool) -> Array:
        if reset:
            self.classes_ = self.__dict__.pop("_promised", None)
            if self.classes_ is None:
                self.classes_ = np.unique(y)
            if len(self.classes_) < 2:
                raise ValueError(f"y has only one class, {self.classes_[:1].tolist()}; a classifier needs at least two.")
        known = np.isin(y, self.classes_)
        if not known.all():
            raise ValueError(f"class {y[~known][:1].tolist()} is not one of the model's classes {self.classes_.tolist()}.")
        codes = np.searchsorted(self.classes_, y)
        return np.eye(len(self.classes_))[codes] if len(self.classes_) > 2 else codes[:, None].astype(np.float64)

    def decision_function(self, X: Any) -> Array:
        """Outputs before the softmax, (n', classes), or log-odds of the second of two classes, (n',)."""
        values = self._outputs(X)
        return values[:, 0] if len(self.classes_) == 2 else values

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class. Shape: (n', classes)."""
        values = self._outputs(X)
        if len(self.classes_) > 2:
            return np.asarray(softmax(values, axis=1))
        return np.column_stack([expit(-values[:, 0]), expit(values[:, 0])])

    def predict(self, X: Any) -> Array:
        """The most likely class. Shape: (n',)."""
        values = self._outputs(X)
        codes = (values[:, 0] > 0).astype(int) if len(self.classes_) == 2 else values.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def _scores(self, X: Any) -> Array:
        return self.decision_function(X)

    def _own_state(self) -> dict[str, Any]:
        return {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.kind}

    def _restore_own(self, own: dict[str, Any]) -> None:
        if own["dtype"] not in "iufbUO":
            raise ValueError(f"classes of kind {own['dtype']!r} are not known")
        self.classes_ = np.array(own["classes"], dtype=object if own["dtype"] == "O" else None)
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        if outputs != self.state_.network.n_outputs:
            raise ValueError(f"{len(self.classes_)} classes do not fit {self.state_.network.n_outputs} outputs")
