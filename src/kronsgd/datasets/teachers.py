"""Planted problems: a known two-layer network on product features labels random pairs."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features import Dense, Features
from kronsgd.validation import check_integer, check_real

__all__ = ["KronTeacher", "make_kron_teacher"]

Array = NDArray[Any]
logger = logging.getLogger(__name__)
BLOCK = 1 << 22  # numbers of the product vectors built at a time
MAX_WEIGHTS = 1 << 27  # a teacher is stored densely: 1 GiB


@dataclass(frozen=True, eq=False)
class KronTeacher:
    """f_c(x) = Σ_r a_rc max(⟨w_r, x⟩ − b, 0).

    Shape: weights w (p, d) in the order of `X.dense()`, output_weights a (p, C); threshold b.
    """

    weights: Array
    output_weights: Array
    threshold: float = 0.0

    def __call__(self, X: Features) -> Array:
        """Noiseless outputs. Shape: X (n, d) -> (n, C). Cost: n·d·p, in blocks of rows."""
        size = max(1, BLOCK // self.weights.shape[1])
        parts = [self._outputs(X[start : start + size].dense()) for start in range(0, len(X), size)]
        return np.concatenate(parts)

    def _outputs(self, dense: Array) -> Array:
        return np.asarray(np.maximum(dense @ self.weights.T - self.threshold, 0) @ self.output_weights)


def make_kron_teacher(
    n_rows: int,
    dims: Sequence[int] = (8, 8),
    n_neurons: int = 8,
    noise: float = 0.1,
    n_classes: int | None = None,
    random_state: int | np.random.Generator | None = None,
    *,
    n_entities: int = 64,
) -> tuple[Features, Array, KronTeacher]:
    """Rows that pair random entities, labelled by a random two-layer network on the product of their features.

    Parameters: dims: dimensions of each factor's table, any number of factors; noise: standard deviation of the
    Gaussian noise on the outputs, whose root mean square over the rows is 1 without it; n_classes: None for regression,
    or the number of outputs, of which the largest is the class; n_entities: rows of each table, normalised to norm 1.
    Returns (X, y, teacher): X = `Dense(A)[i] * Dense(B)[j] * …`, y float64 (n_rows,) or class numbers int64 (n_rows,).
    Without noise y is `teacher(X)[:, 0]`, or `teacher(X).argmax(axis=1)`. Raises ValueError, TypeError on bad sizes.
    """
    check_integer("n_rows", n_rows, 1)
    check_integer("n_neurons", n_neurons, 1)
    check_integer("n_entities", n_entities, 1)
    check_real("noise", noise, 0)
    n_outputs = 1 if n_classes is None else check_integer("n_classes", n_classes, 2)
    dims = _checked_dims(dims, n_neurons)
    rng = np.random.default_rng(random_state)
    tables = [Dense(rng.standard_normal((n_entities, d))) for d in dims]
    X: Features = reduce(mul, [table[rng.integers(n_entities, size=n_rows)] for table in tables])
    output_weights = rng.standard_normal((n_neurons, n_outputs))
    if n_neurons > 1:  # centred, so that no class is favoured and a regression target has a mean near 0
        output_weights -= output_weights.mean(axis=0)
    teacher = KronTeacher(rng.standard_normal((n_neurons, math.prod(dims))), output_weights)
    scale = np.sqrt(np.mean(teacher(X) ** 2, axis=0))
    scale[scale == 0] = 1.0
    teacher = KronTeacher(teacher.weights, output_weights / scale)
    noisy = teacher(X)  # evaluated again rather than divided, so that noise=0 gives teacher(X) to the bit
    noisy += noise * rng.standard_normal(noisy.shape)
    logger.debug("planted a teacher of %d neurons on %r", n_neurons, X)
    return X, (noisy[:, 0] if n_classes is None else noisy.argmax(axis=1)), teacher


def _checked_dims(dims: Sequence[int], n_neurons: int) -> tuple[int, ...]:
    """`dims` as a tuple of ints whose teacher fits in memory."""
    if isinstance(dims, int) or len(dims) == 0:
        raise TypeError(f"dims={dims!r} is not allowed; give the dimensions of one or more factors, such as (8, 8).")
    checked = tuple(check_integer(f"dims[{k}]", d, 1) for k, d in enumerate(dims))
    n_weights = n_neurons * math.prod(checked)
    if n_weights > MAX_WEIGHTS:
        raise ValueError(
            f"dims={checked} with n_neurons={n_neurons} needs {n_weights:,} teacher weights; at most {MAX_WEIGHTS:,} "
            "are stored: choose smaller or fewer factors."
        )
    return checked
