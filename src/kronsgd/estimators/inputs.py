"""The two doors of an estimator: a feature expression, or a plain 2-D array with all pairwise interactions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.preprocessing import StandardScaler
from sklearn.utils.validation import check_array, column_or_1d, validate_data

from kronsgd.features.base import Features
from kronsgd.features.leaves import Dense
from kronsgd.validation import check_array as checked
from kronsgd.validation import check_finite

__all__ = ["ArrayMap", "check_targets", "check_weights", "read_rows"]

Array = NDArray[Any]


class ArrayMap:
    """Plain arrays to features: (1 + Z) ** 2 with Z the columns scaled to mean 0 and variance 1, divided by √columns.

    The rows are scaled to norm 1 after the product, as for every expression: [1, z]/‖[1, z]‖ still tells z's length.
    """

    def __init__(self, mean: Array, scale: Array) -> None:
        self.mean, self.scale = mean, scale

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array]) -> ArrayMap:
        """What a model file holds. ValueError where it is not a mean and a deviation above 0 for each column."""
        mean = checked("input.mean", arrays, (None,), "f")
        scale = checked("input.scale", arrays, mean.shape, "f")
        if not len(mean) or not (scale > 0).all():
            raise ValueError("array 'input.scale' has a column without a deviation above 0")
        return cls(mean, scale)

    @classmethod
    def fit(cls, X: Array, weights: Array, standardize: bool) -> ArrayMap:
        """Means and deviations of the columns, by weight."""
        if not standardize:
            return cls(np.zeros(X.shape[1]), np.ones(X.shape[1]))
        scaler = StandardScaler().fit(X, sample_weight=weights)
        return cls(scaler.mean_, scaler.scale_)

    def __call__(self, X: Array) -> Features:
        z = (X - self.mean) / self.scale / np.sqrt(X.shape[1])
        return (1 + Dense(z.astype(X.dtype, copy=False), normalize=False)) ** 2


def read_rows(estimator: Any, X: Any, *, reset: bool, minimum: int = 1) -> Features | Array:
    """`X` as a feature expression, or as a checked array of floats. ValueError for bad or too few rows."""
    if not isinstance(X, Features):
        array = validate_data(
            estimator, X, reset=reset, dtype=[np.float64, np.float32], ensure_min_samples=minimum, order="C",
            ensure_all_finite=False,
        )  # fmt: skip
        check_finite("X", array)  # which says where
        return np.asarray(array)
    if X.n_rows < minimum:
        raise ValueError(f"{X.expression()} has n_samples={X.n_rows}; at least {minimum} rows are needed.")
    return X


def check_targets(y: Any, n_rows: int, *, numeric: bool) -> Array:
    """`y` as an array with a row for each row of X: floats, (n,) or (n, C), if `numeric`, else 1-D labels."""
    if y is None:
        raise ValueError("requires y to be passed, but the target y is None.")
    if numeric:
        if np.asarray(y).dtype.kind in "US":
            first = str(np.asarray(y).flat[0])
            raise ValueError(f"y holds text, such as {first!r}; give numbers, or use KronClassifier for labels.")
        y = check_array(y, ensure_2d=False, dtype=np.float64, input_name="y", ensure_min_samples=1, ensure_all_finite=False)
        check_finite("y", y)
        if y.ndim > 2:
            raise ValueError(f"y has shape {y.shape}; give one number per row, or a 2-D array with a column per output.")
        if y.ndim == 2 and y.shape[1] == 1:
            y = column_or_1d(y, warn=True)
    else:
        y = column_or_1d(y, warn=True)
    if len(y) != n_rows:
        raise ValueError(f"X has {n_rows} rows but y has {len(y)}; Found input variables with inconsistent numbers of samples.")
    return np.asarray(y)


def check_weights(sample_weight: Any, n_rows: int) -> Array:
    """Sample weights as floats ≥ 0, not all 0. Shape: (n,)."""
    if sample_weight is None:
        return np.ones(n_rows)
    if np.isscalar(sample_weight):
        sample_weight = np.full(n_rows, sample_weight)
    weights = check_array(sample_weight, ensure_2d=False, dtype=np.float64, input_name="sample_weight", ensure_all_finite=False)
    check_finite("sample_weight", weights)
    if weights.shape != (n_rows,):
        raise ValueError(f"sample_weight has shape {weights.shape}; Sample weights must be 1D array or scalar, ({n_rows},).")
    if (weights < 0).any() or not weights.any():
        raise ValueError(
            f"sample_weight ranges from {weights.min():g} to {weights.max():g}; no weight may be negative and not every "
            "weight may be zero: leave sample_weight out to count all rows alike."
        )
    return np.asarray(weights)
