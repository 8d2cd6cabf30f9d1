"""KronClassifier."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets

from kronsgd.estimators.base import KronEstimator
from kronsgd.estimators.inputs import check_targets
from kronsgd.estimators.parameters import described, names_checked, unchanged_on_error
from kronsgd.losses import LOSSES, Loss
from kronsgd.validation import check_real

__all__ = ["KronClassifier"]

Array = NDArray[Any]
OWN = """    class_weight : "balanced", dict or None, default=None
        Factor on the weights of each class's rows: {label: weight}, 1 where a class is left out; "balanced" makes all classes
        weigh the same, rows / (classes · rows of the class).
"""


class KronClassifier(ClassifierMixin, KronEstimator):  # type: ignore[misc]
    __doc__ = described(
        "Classification with a wide two-layer network on product features: logistic loss for two classes, else softmax.",
        OWN,
        """classes_ : the class labels, sorted.
    """,
    )

    def __init__(self, n_hidden: int = 1024, *, class_weight: Any = None, **shared: Any) -> None:
        super().__init__(n_hidden, **shared)
        self.class_weight = class_weight

    __init__ = names_checked(__init__, KronEstimator.__init__)

    def _check_own_params(self) -> None:
        known = self.class_weight is None or isinstance(self.class_weight, Mapping) or self.class_weight == "balanced"
        if not known:
            raise ValueError(
                f'class_weight={self.class_weight!r} is not known; give "balanced", a dict such as {{label: weight}}, or None.'
            )
        for label, weight in self.class_weight.items() if isinstance(self.class_weight, Mapping) else ():
            check_real(f"class_weight[{label!r}]", weight, 0, open_low=True)

    def _plain_weights(self) -> dict[Any, float]:
        """`class_weight` by labels that JSON holds too."""
        return {label.item() if isinstance(label, np.generic) else label: float(w) for label, w in self.class_weight.items()}

    def _weigh(self, y: Array, weights: Array, reset: bool) -> Array:
        """Each row's weight times that of its class."""
        if self.class_weight is None:
            return weights
        classes, codes = np.unique(y, return_inverse=True)
        if isinstance(self.class_weight, Mapping):
            given = self._plain_weights()
            known = self.__dict__.get("_promised", classes if reset else self.classes_).tolist()
            missing = [label for label in given if label not in known]
            if missing:
                raise ValueError(f"class_weight names the class {missing[0]!r}, but y has {known[:10]}.")
            of_class = np.array([given.get(label, 1.0) for label in classes.tolist()], dtype=float)
        else:
            totals = np.bincount(codes, weights)
            of_class = totals.sum() / (np.count_nonzero(totals) * np.where(totals > 0, totals, 1))
        return np.asarray(weights * of_class[codes])

    def _read_targets(self, y: Any, n_rows: int) -> Array:
        y = check_targets(y, n_rows, numeric=False)
        check_classification_targets(y)
        return y

    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """One pass over the rows in the order given; `classes` names all classes at the first call."""
        if classes is None and not hasattr(self, "classes_"):
            raise ValueError("classes must be passed on the first call to partial_fit, for example classes=numpy.unique(y).")
        if self.class_weight == "balanced":
            raise ValueError(
                'class_weight="balanced" needs all rows at once, which partial_fit does not see; give a dict of weights.'
            )
        with unchanged_on_error(self):
            if classes is not None and hasattr(self, "classes_") and not np.array_equal(np.unique(classes), self.classes_):
                raise ValueError(f"classes={classes!r} differ from those of the first call, {self.classes_.tolist()}.")
            if not hasattr(self, "classes_"):
                self._promised = np.unique(classes)
            return self._partial_fit(X, y, sample_weight)

    def _own_loss(self) -> Loss:
        return LOSSES["logistic" if len(self.classes_) == 2 else "softmax"]

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
        """Outputs before the softmax, (n', classes), or log-odds of the second of two classes, (n',).

        Of several networks, the logarithm of their mean probabilities, or its log-odds.
        """
        values = self._outputs(X)
        if len(values) == 1:
            return np.asarray(values[0, :, 0] if len(self.classes_) == 2 else values[0])
        if len(self.classes_) == 2:  # the means' denominators cancel
            odds = values[:, :, 0]
            return np.asarray(logsumexp(log_expit(odds), axis=0) - logsumexp(log_expit(-odds), axis=0))
        return np.asarray(logsumexp(log_softmax(values, axis=2), axis=0) - np.log(len(values)))

    def predict_proba(self, X: Any) -> Array:
        """Probability of each class, the mean over the networks. Shape: (n', classes)."""
        return np.asarray(self.predict_members(X).mean(axis=0))

    def predict_members(self, X: Any) -> Array:
        """Probability of each class, as each network has it. Shape: (n_networks, n', classes)."""
        values = self._outputs(X)
        if len(self.classes_) > 2:
            return np.asarray(softmax(values, axis=2))
        return np.stack([expit(-values[:, :, 0]), expit(values[:, :, 0])], axis=2)

    def predict(self, X: Any) -> Array:
        """The most likely class. Shape: (n',)."""
        values = self.decision_function(X)
        codes = (values > 0).astype(int) if len(self.classes_) == 2 else values.argmax(axis=1)
        return np.asarray(self.classes_[codes])

    def _scores(self, X: Any) -> Array:
        return self.decision_function(X)

    def _own_state(self) -> dict[str, Any]:
        weights = list(self._plain_weights().items()) if isinstance(self.class_weight, Mapping) else None  # keys of any type
        return {"classes": self.classes_.tolist(), "dtype": self.classes_.dtype.kind, "class_weight": weights}

    def _restore_own(self, own: dict[str, Any]) -> None:
        if own["dtype"] not in [*"iufbUO"]:
            raise ValueError(f"classes of kind {own['dtype']!r} are not known")
        self.classes_ = np.array(own["classes"], dtype=object if own["dtype"] == "O" else None)
        if self.classes_.ndim != 1 or not all(isinstance(label, (str, int, float)) for label in own["classes"]):
            raise ValueError("the classes are no list of labels")
        outputs = 1 if len(self.classes_) == 2 else len(self.classes_)
        if outputs != self.state_.network.own_outputs:
            raise ValueError(f"{len(self.classes_)} classes do not fit {self.state_.network.own_outputs} outputs")
        if own.get("class_weight") is not None:
            self.class_weight = dict(own["class_weight"])
            self._check_own_params()
