"""Leaves whose entities are made from something else (strings, images, sets of items) and held by another leaf's table."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.leaf import Array, Leaf
from kronsgd.features.serialize import features_from_state, features_state
from kronsgd.growing import Room

__all__ = ["Derived"]


class Derived(Leaf):
    """A leaf that holds what it has made in `table`, a leaf without a row index, and has all its inner products from there.

    A subclass sets `table`; where it has learned something that new entities need, it writes `recipe` and `use_recipe`, so
    that model files hold it, and a method `like` that makes new entities by it.
    """

    table: Leaf

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(arrays, JSON options): what makes new entities. Entities are of one space where their recipes are equal."""
        return {}, {}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        """Take over what `recipe` has given. ValueError where it does not fit the table."""

    @property
    def multiplier(self) -> float:
        """What the table's coordinates are multiplied by."""
        return 1.0

    def holding(self, table: Leaf) -> Self:
        """The same kind of leaf, by the same recipe, over the entities of `table`."""
        out = copy.copy(self)
        out.table, out.index = table, None
        return out

    # What follows ------------------------------------------------------------------------------------------------------

    @property
    def n_entities(self) -> int:
        return self.table.n_entities

    @property
    def dim(self) -> float:
        return self.table.dim

    @property
    def n_coordinates(self) -> int:
        return self.table.n_coordinates

    @property
    def own_coordinates(self) -> bool:
        return self.table.own_coordinates

    @property
    def storage(self) -> Leaf:
        return self.table.storage

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.table.dtype

    def entity_inner(self, other: Derived, mine: Any, others: Any) -> Array:
        return self.table.entity_inner(other.table, mine, others)

    def entity_squared_norms(self) -> Array:
        return self.table.entity_squared_norms()

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return self.table.entity_coordinates(basis.table, entities)

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return self.table.entity_project(basis.table, entities, weights)

    def project_blocks(self, basis: Any, entities: Any, weights: Array) -> Array:
        return self.table.project_blocks(basis.table, entities, weights)

    def in_double_precision(self) -> Self:
        return self.holding(self.table.in_double_precision()).with_index(self.index)

    def precision(self) -> float:
        return self.table.precision()

    def distortion(self) -> float:
        return self.table.distortion()

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self.holding(self.table.select_entities(entities))

    def append_entities(self, other: Derived) -> Self:
        return self.holding(self.table.append_entities(other.table))

    def grow(self, other: Derived, room: Room) -> Self:
        return self.holding(self.table.grow(other.table, room))

    def begins_with(self, known: Leaf) -> bool:
        return isinstance(known, Derived) and self.table.begins_with(known.table)

    def prototype(self) -> Self:
        table = self.table.prototype()
        return self.holding(table.with_index(None)).with_index(table.index)

    def entity_keys(self) -> list[bytes]:
        return self.table.entity_keys()

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays, tree = features_state(self.table, "table")
        learned, options = self.recipe()
        return arrays | {f"recipe.{k}": v for k, v in learned.items()}, {"table": tree, "recipe": options}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        out = cls.__new__(cls)
        table = features_from_state(arrays, options["table"], "table")
        if not isinstance(table, Leaf) or table.index is not None:
            raise ValueError(f"what a {cls.__name__} holds is no table of entities")
        out.table = table
        out.use_recipe({k[7:]: v for k, v in arrays.items() if k.startswith("recipe.")}, options["recipe"])
        return out

    def _same_structure(self, other: Features) -> bool:
        if type(self) is not type(other) or not isinstance(other, Derived) or not self.table._same_structure(other.table):
            return False
        (mine, options), (its, other_options) = self.recipe(), other.recipe()
        same = mine.keys() == its.keys() and all(mine[k] is its[k] or np.array_equal(mine[k], its[k]) for k in mine)
        return same and options == other_options
