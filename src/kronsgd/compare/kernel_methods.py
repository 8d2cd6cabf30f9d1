"""Ridges: on the network's own kernel, on its tangent kernel, and on landmarks and sketches of the features."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from sklearn.kernel_approximation import PolynomialCountSketch

from kronsgd.compare.columns import degree, distinct_leaves, side_by_side, without_coordinates
from kronsgd.compare.folds import Fold
from kronsgd.compare.selection import Prediction, Setting
from kronsgd.compare.tangent import limiting_tangent_kernel
from kronsgd.features import Features
from kronsgd.features.sides import Side, Sides
from kronsgd.ridge import feature_ridge, is_complete, kernel_ridge, normalised_inner, pair_ridge

__all__ = ["CountSketch", "KroneckerRidge", "Landmarks", "TangentRidge"]

Array = NDArray[Any]
PENALTIES = [float(p) for p in np.geomspace(1e-6, 100, 17).round(12)]
DENSE_ROWS = 4000  # up to here an eigendecomposition for all penalties beats conjugate gradients for each
MOST_ROWS = 12_000  # a kernel matrix of more rows takes over a GiB, and its eigendecomposition the better part of an hour
MOST_CELLS = 100_000_000  # numbers in the grid and in the sides' own kernels
MOST_FEATURES = 200_000_000  # rows × approximate features
LANDMARKS, SKETCH = 1000, 4096


def _grid() -> list[Setting]:
    return [{"penalty": penalty} for penalty in PENALTIES]


def _targets(fold: Fold) -> Array:
    """y as columns: itself, or 1 for the row's class and −1 for the others. Shape: (n, C)."""
    if not fold.n_classes:
        return np.asarray(fold.y, dtype=np.float64)[:, None]
    return np.where(fold.y[:, None] == np.arange(fold.n_classes), 1.0, -1.0)


def _predictions(fold: Fold, outputs: list[Array]) -> list[Prediction]:
    return [Prediction(out.argmax(axis=1) if fold.n_classes else out[:, 0]) for out in outputs]


def _penalties(settings: list[Setting]) -> list[float]:
    return [setting["penalty"] for setting in settings]


@dataclass
class KroneckerRidge:
    """Ridge on the very kernel that the network sees."""

    name: str = "Kronecker kernel ridge, same kernel"
    settings: list[Setting] = field(default_factory=_grid)
    seeded: bool = False

    def refusal(self, fold: Fold) -> str | None:
        X, _ = fold.features
        if len(fold.y) <= MOST_ROWS or _fits(_two_sides(X)):
            return None
        return f"{len(fold.y):,} rows are too many for a kernel matrix, and they fill no grid that fits into memory"

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        X, X_test = fold.features
        y, penalties, sides = _targets(fold), _penalties(settings), _two_sides(X)
        if sides is not None and _fits(sides):
            one, other = sides
            if len(y) > DENSE_ROWS or is_complete(one.entity, other.entity, one.n_entities, other.n_entities):
                return _predictions(fold, pair_ridge(X, y, X_test, penalties))
        return _predictions(fold, kernel_ridge(normalised_inner(X, X), y, normalised_inner(X_test, X), penalties))


def _two_sides(X: Features) -> tuple[Side, Side] | None:
    """The smaller and the larger side of a product of factors with different row indices; None for anything else."""
    try:
        return Sides.of(X).split(X)
    except ValueError:
        return None


def _fits(sides: tuple[Side, Side] | None) -> bool:
    """Whether the grid and both sides' own kernels fit into memory."""
    if sides is None:
        return False
    p, q = (side.n_entities for side in sides)
    return p * q + p * p + q * q <= MOST_CELLS


@dataclass
class TangentRidge:
    """Ridge on the tangent kernel for infinitely many neurons, with the network's own threshold or with none."""

    threshold: float
    name: str = "tangent-kernel ridge"
    seeded: bool = False

    @property
    def settings(self) -> list[Setting]:
        """Every penalty, at either threshold."""
        return [{"threshold": b, **setting} for b in dict.fromkeys((self.threshold, 0.0)) for setting in _grid()]

    def refusal(self, fold: Fold) -> str | None:
        return None if len(fold.y) <= MOST_ROWS else f"{len(fold.y):,} rows are too many for a kernel matrix ({MOST_ROWS:,})"

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        X, X_test = fold.features
        inner, y, out = [normalised_inner(rows, X) for rows in (X, X_test)], _targets(fold), list[Array]()
        for threshold, alike in groupby(settings, lambda setting: float(setting["threshold"])):
            gram, cross = (limiting_tangent_kernel(cosines, threshold) for cosines in inner)
            out += kernel_ridge(gram, y, cross, _penalties(list(alike)))
        return _predictions(fold, out)


@dataclass
class Landmarks:
    """Nyström features of the network's own kernel, and a ridge on them (Williams and Seeger 2001)."""

    name: str = f"Nyström ({LANDMARKS:,} landmarks) + ridge, same kernel"
    settings: list[Setting] = field(default_factory=_grid)
    seeded: bool = True

    def refusal(self, fold: Fold) -> str | None:
        return _too_many(fold, LANDMARKS)

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        X, X_test = fold.features
        rows = np.random.default_rng(seed).permutation(len(fold.y))[:LANDMARKS]
        marks = X[np.sort(rows)]
        values, vectors = scipy.linalg.eigh(normalised_inner(marks, marks))
        kept = values > max(values[-1], 0) * len(values) * np.finfo(np.float64).eps
        root = vectors[:, kept] / np.sqrt(values[kept])
        phi, phi_test = (normalised_inner(part, marks) @ root for part in (X, X_test))
        return _predictions(fold, feature_ridge(phi, _targets(fold), phi_test, _penalties(settings)))


@dataclass
class CountSketch:
    """TensorSketch of the polynomial (1 + ⟨x, x'⟩)^p of the columns side by side, and a ridge (Pham and Pagh 2013)."""

    name: str = f"TensorSketch ({SKETCH:,}) + ridge, columns"
    settings: list[Setting] = field(default_factory=_grid)
    seeded: bool = True

    def refusal(self, fold: Fold) -> str | None:
        return without_coordinates(fold.features[0]) or _too_many(fold, SKETCH)

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        leaves, power = distinct_leaves(fold.features[0]), max(degree(fold.features[0]), 1)
        X, X_test = (side_by_side(part, leaves) for part in fold.features)
        sketch = PolynomialCountSketch(degree=power, coef0=1, n_components=SKETCH, random_state=seed).fit(X)
        phi, phi_test = (_unit_rows(np.asarray(sketch.transform(part))) for part in (X, X_test))
        return _predictions(fold, feature_ridge(phi, _targets(fold), phi_test, _penalties(settings)))


def _too_many(fold: Fold, columns: int) -> str | None:
    numbers = len(fold.y) * columns
    return None if numbers <= MOST_FEATURES else f"{len(fold.y):,} rows × {columns:,} features are too many to hold"


def _unit_rows(phi: Array) -> Array:
    return phi / np.maximum(np.linalg.norm(phi, axis=1, keepdims=True), 1e-12)
