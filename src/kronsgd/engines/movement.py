"""What the tree engine knows about each neuron's way from its start: enough to bound ⟨w_r, x_i⟩ without evaluating it.

w_r − w_r(0) = Σ_j α_jr x_j is known by its coordinates along a few directions, and by an upper bound of its squared norm,
which each step changes by inner products that the step has at hand. What is left beside the directions is bounded by the
Cauchy–Schwarz inequality. docs/tree.md has the proof, and what rounding adds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.coefficients import Coefficients
from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.growth import added_rows
from kronsgd.features.nystrom import AMPLIFIED, Nystrom, distortion, precision
from kronsgd.growing import Room
from kronsgd.kernels import tree as kernels
from kronsgd.kernels.tree import DIRECTIONS, LEVELS, MARGIN, UNIT
from kronsgd.network import TwoLayer, generator
from kronsgd.validation import check_array

__all__ = ["Movement"]

Array = NDArray[Any]
CHANGED = ("squared", "P", "path", "terms", "leading", "radius", "limit")  # by steps


@dataclass
class Movement:
    """Bounds of m neurons over n rows, in units of the coefficients' common factor. Memory: 4·(35·n + 37·m) + 24·m bytes."""

    network: TwoLayer
    nystrom: Nystrom
    n_at_start: int  # rows that the directions were made for
    entities: list[int]  # of each leaf
    t: Array  # (n, 32) coordinates of rows
    rest: Array  # (n, levels) norms outside the first directions
    longest: float  # norm of the longest row
    precision: float  # of inner products and coordinates
    squared: Array  # (m,) upper bound of ‖w_r − w_r(0)‖²
    P: Array  # (m, 32) coordinates of w_r − w_r(0)
    path: Array  # (m,) Σ_j |α_jr|, or more
    terms: NDArray[np.int64]  # (m,) roundings of a sum of inner products
    leading: Array  # (m,) the first coordinate again
    radius: Array  # (levels, m) norm outside the first directions
    limit: Array  # (m,) threshold less what rounding may hide
    room: Room = field(default_factory=Room)  # of what grows with the rows

    @classmethod
    def of(
        cls, network: TwoLayer, features: Features, normalize: bool, alpha: Coefficients, squared: Array | None = None
    ) -> Movement:
        """For these coefficients; `squared` where it is known, else a bound from the coefficients' absolute values."""
        m, n = network.n_hidden, features.n_rows
        nystrom = Nystrom.of(features, normalize, generator(network.seed, "landmarks"))
        t, rest = nystrom.coordinates(features)
        scale = inverse_norms(features, normalize)
        longest = float(np.sqrt((features.squared_norms() * scale**2).max(initial=0)))
        out = cls(
            network, nystrom, n, [leaf.n_entities for leaf in features.leaves()], t, rest, longest,
            precision(features, network.dtype) + 2 * AMPLIFIED * nystrom.distortion,
            squared=np.zeros(m), P=np.zeros((m, DIRECTIONS), np.float32), path=np.zeros(m), terms=np.zeros(m, np.int64),
            leading=np.zeros(m, np.float32), radius=np.zeros((len(LEVELS), m), np.float32), limit=np.zeros(m, np.float32),
        )  # fmt: skip
        outside = out._rebuild(alpha)
        along = (out.P.astype(np.float64) ** 2).sum(axis=1)
        if squared is None:
            out.squared = along + outside**2 + out.hidden_by_rounding()
        elif (squared + out.hidden_by_rounding() < along).any():
            raise ValueError("array 'squared_norms' is below what the coefficients have alone along a few directions")
        else:
            out.squared = squared.copy()
        out.refresh(alpha.scale)
        return out

    def _rebuild(self, alpha: Coefficients) -> Array:
        """Coordinates, path and number of terms from the coefficients; returns Σ_j |α_jr|·‖x_j⊥‖."""
        alpha.join()
        outside, rest = np.zeros(len(self.path)), np.ascontiguousarray(self.rest[:, -1])
        kernels.rebuild(self.P, self.path, outside, self.terms, self.t, rest, *alpha.lists()[3:])
        return outside

    def hidden_by_rounding(self) -> Array:
        """The most by which `squared` may be too small. Shape: (m,)."""
        error = UNIT * (self.terms + 2 * DIRECTIONS) + self.precision
        return np.asarray(MARGIN * error * (self.path * self.longest) ** 2)

    def begin_epoch(self, alpha: Coefficients) -> None:
        """Start counting roundings anew. Cost: 64·nnz flops."""
        self.squared = self.squared + self.hidden_by_rounding()
        self._rebuild(alpha)
        self.refresh(alpha.scale)

    def multiply(self, factor: float) -> None:
        """The coefficients' common factor has been multiplied into them."""
        self.P *= np.float32(factor)
        self.path *= abs(factor)
        self.squared *= factor**2

    def refresh(self, scale: float) -> None:
        """Radii and limits anew."""
        kernels.refresh(*self.bounds(), *self.sums(), scale, self.network.threshold, self.network.blocks)

    def extend(self, features: Features, normalize: bool, alpha: Coefficients) -> Movement:
        """Over more rows: the old directions until the rows are twice as many, or their inner products less exact."""
        n, entities = len(self.t), [leaf.n_entities for leaf in features.leaves()]
        new = entities != self.entities
        if features.n_rows >= 2 * self.n_at_start or (new and distortion(features) > self.nystrom.distortion):
            return Movement.of(self.network, features, normalize, alpha, self.squared + self.hidden_by_rounding())
        fresh = added_rows(features, n)
        t, rest = self.nystrom.coordinates(fresh)
        norms = fresh.squared_norms() * inverse_norms(fresh, normalize) ** 2
        self.t, self.rest = self.room.append("t", self.t, t), self.room.append("rest", self.rest, rest)
        before = self.longest, self.precision
        self.longest = max(self.longest, float(np.sqrt(norms.max(initial=0))))
        if new:
            self.entities = entities
            self.precision = precision(features, self.network.dtype) + 2 * AMPLIFIED * self.nystrom.distortion
        if (self.longest, self.precision) != before:
            self.refresh(alpha.scale)
        return self

    def bounds(self) -> tuple[Array, ...]:
        """What decides whether a neuron can fire, as kernels take it."""
        return self.leading, self.P, self.radius, self.limit

    def sums(self) -> tuple[Any, ...]:
        """What the bounds are made of, as kernels take it."""
        return self.squared, self.path, self.terms, self.precision, self.longest

    def arrays(self) -> dict[str, Array]:
        """All that steps change, by neuron; radii and limits, which may be infinite, as their bits."""
        bits = {"radius": np.ascontiguousarray(self.radius.T).view(np.int32), "limit": self.limit.view(np.int32)}
        return {name: bits.get(name, getattr(self, name)) for name in CHANGED}

    def take(self, arrays: Mapping[str, Array], alpha: Coefficients) -> None:
        """What `arrays` gave. ValueError where it does not fit, or not the coefficients. Cost: 64·nnz flops."""
        self._rebuild(alpha)
        least = (self.P.astype(np.float64) ** 2).sum(axis=1) - self.hidden_by_rounding()
        for name, known in self.arrays().items():
            array = check_array(name, arrays, known.shape, known.dtype.kind).astype(known.dtype)
            if name in ("radius", "limit"):
                array = np.ascontiguousarray(array.view(np.float32).T)
            setattr(self, name, array)
        if not (self.squared + self.hidden_by_rounding() >= least).all():
            raise ValueError("array 'squared' is below what the coefficients have alone along a few directions")
