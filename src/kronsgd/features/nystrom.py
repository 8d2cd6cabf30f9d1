"""Coordinates of rows in the span of a few landmark rows, and what is left of their norms outside it.

A row is x_i = U·t_i + x_i⊥ with U orthonormal, so ⟨v, x_i⟩ ≤ ⟨Uᵀv, t_i⟩ + ‖v⊥‖·‖x_i⊥‖ for every v: a bound that needs
`DIRECTIONS` numbers where the inner product itself needs one for each term of v. The directions are the leading ones of
the landmarks' inner products (Williams and Seeger 2001, "Using the Nyström method to speed up kernel machines").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import scipy.linalg
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.grouping import expand_powers
from kronsgd.features.serialize import compress, map_leaves
from kronsgd.kernels.tree import DIRECTIONS, LEVELS

__all__ = ["Nystrom", "distortion", "precision"]

Array = NDArray[Any]
LANDMARKS = 256  # rows at most
SMALLEST = 1e-4  # share of the landmarks' squared norms below which a direction is left out: it would be made of rounding
CHUNK = 1024  # rows at once
ROUNDING = 1e-4  # allowed for in squared norms outside the span, of rows of norm 1
LEAST = 2.0**-33  # distortion that is always allowed for
AMPLIFIED = SMALLEST**-0.5  # what a coordinate makes of a distortion at most; docs/tree.md has the proof


@dataclass(frozen=True)
class Nystrom:
    """At most DIRECTIONS orthonormal directions in the span of some rows; inner products with them are coordinates."""

    landmarks: Features  # (L,) rows, in double precision
    normalize: bool
    distortion: float  # of the rows' inner products

    @classmethod
    def of(cls, features: Features, normalize: bool, rng: np.random.Generator) -> Nystrom:
        """Directions for these rows: at most LANDMARKS of them are drawn. Cost: L² inner products, L³ flops, on first use."""
        n = features.n_rows
        rows = np.arange(n) if n <= LANDMARKS else np.sort(rng.permutation(n)[:LANDMARKS])
        landmarks = map_leaves(compress(features[rows]), lambda leaf: leaf.in_double_precision())
        return cls(landmarks, normalize, distortion(features))

    @cached_property
    def _weights(self) -> Array:
        """(L, directions): ⟨x, u_q⟩ = Σ_l ⟨x, landmark_l⟩·weights[l, q].

        Directions are a little shorter than 1 where inner products are distorted, for they must not be longer.
        """
        scale = inverse_norms(self.landmarks, self.normalize)
        gram = self.landmarks.inner() * scale[:, None] * scale
        values, vectors = scipy.linalg.eigh((gram + gram.T) / 2)
        kept = np.flatnonzero(values > SMALLEST * max(np.trace(gram), 1e-300))[::-1][:DIRECTIONS]
        kept = kept[: DIRECTIONS if self.distortion < 1 else 0]
        return np.asarray(scale[:, None] * vectors[:, kept] / np.sqrt(values[kept] + self._allowed * np.trace(gram)))

    @property
    def _allowed(self) -> float:
        """Twice the distortion, for products of distorted factors; from 1 on nothing is pruned."""
        return 2 * min(self.distortion, 1.0)

    def coordinates(self, features: Features) -> tuple[Array, Array]:
        """(t_i, padded with zeros; upper bounds of ‖x_i⊥‖ for the first LEVELS directions).

        Shape: (n, DIRECTIONS), (n, levels), float32. Cost: n·L inner products.
        """
        scale = inverse_norms(features, self.normalize)
        norms = np.maximum(features.squared_norms(), 0) * scale**2
        t = np.zeros((features.n_rows, DIRECTIONS), dtype=np.float32)
        rest = np.empty((features.n_rows, len(LEVELS)), dtype=np.float32)
        for start in range(0, features.n_rows, CHUNK):
            part = slice(start, min(start + CHUNK, features.n_rows))
            values = features[np.arange(part.start, part.stop)].inner(self.landmarks) @ self._weights
            t[part, : values.shape[1]] = values * scale[part, None]
            taken = np.cumsum(t[part].astype(np.float64) ** 2, axis=1)[:, np.array(LEVELS) - 1]
            left = np.maximum(norms[part, None] - taken, 0)
            left += (ROUNDING + 3 * AMPLIFIED * self._allowed) * norms[part, None]
            rest[part] = np.nextafter(np.sqrt(left).astype(np.float32), np.float32(np.inf))
        return t, rest


def distortion(features: Features) -> float:
    """How far inner products of unit-norm rows may be from a feature space's before they are rounded, or more.

    A power of 2, and none that is too small to matter: directions are not made anew for every row that adds a little.
    """
    total = sum(leaf.distortion() for leaf in expand_powers(features).leaves())
    return 2.0 ** math.ceil(math.log2(max(total, LEAST))) if math.isfinite(total) else math.inf


def precision(features: Features, dtype: Any) -> float:
    """How far rounding may move an inner product of unit-norm rows that kernels compute in `dtype`."""
    unit = float(np.finfo(dtype).eps)
    return sum(leaf.precision() + 8 * unit for leaf in expand_powers(features).leaves())
