"""A leaf whose inner products are multiplied by a weight: what `0.3 * A` is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from kronsgd.features.derived import Derived
from kronsgd.features.leaf import Array, Leaf
from kronsgd.validation import check_real

__all__ = ["Weighted"]


class Weighted(Derived):
    """⟨x, x'⟩ = weight · ⟨a, a'⟩: coordinates are multiplied by √weight. Written `weight * A`, or `A * weight`."""

    weight: float

    def __init__(self, leaf: Leaf, weight: float) -> None:
        known = leaf.weight if isinstance(leaf, Weighted) else 1.0
        self.weight = check_real("weight", weight * known, 0, open_low=True)
        self.table = (leaf.table if isinstance(leaf, Weighted) else leaf).with_index(None)
        self.index = leaf.index

    @property
    def multiplier(self) -> float:
        return math.sqrt(self.weight)

    def _times(self, factor: float, values: Array) -> Array:
        """In the table's precision at least: categories have inner products 0 and 1 in single precision."""
        return np.multiply(values, factor, dtype=np.result_type(values.dtype, self.dtype))

    def entity_inner(self, other: Derived, mine: Any, others: Any) -> Array:
        return self._times(self.weight, super().entity_inner(other, mine, others))

    def entity_squared_norms(self) -> Array:
        return self._times(self.weight, super().entity_squared_norms())

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return self._times(self.multiplier, super().entity_coordinates(basis, entities))

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return self._times(self.multiplier, super().entity_project(basis, entities, weights))

    def project_blocks(self, basis: Any, entities: Any, weights: Array) -> Array:
        return self._times(self.multiplier, super().project_blocks(basis, entities, weights))

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {}, {"weight": self.weight}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.weight = check_real("weight", options["weight"], 0, open_low=True)

    def expression(self) -> str:
        return f"{self.weight:g} * {self.table.expression()}"
