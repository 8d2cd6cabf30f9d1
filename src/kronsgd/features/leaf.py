"""What every leaf of the algebra is: a table of entities, and for each row the number of its entity."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features, describe_dim
from kronsgd.growing import Room, begins_with
from kronsgd.parallel import matmul

__all__ = ["Leaf"]

Array = NDArray[Any]


class Leaf(Features):
    """A table of entities plus a row index: `drugs[pairs.drug]` shares one table row among many rows.

    A new leaf writes `n_entities`, `dim`, `entity_inner`, `entity_coordinates`, `state` and `from_state`, and registers
    itself by being defined; everything else is inherited.
    """

    registry: ClassVar[dict[str, type[Leaf]]] = {}
    index: NDArray[np.int64] | None = None  # row -> entity; None: the entities are the rows

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        Leaf.registry[cls.__name__] = cls

    # What a leaf must know about its entities -------------------------------------------------------------------------

    @property
    @abstractmethod
    def n_entities(self) -> int:
        """Number of entities in the table."""

    @abstractmethod
    def entity_inner(self, other: Any, mine: Any, others: Any) -> Array:
        """Inner products of my entities `mine` with the entities `others` of a leaf of the same kind.

        Shape: (|mine|, |others|). Called with index arrays or slices.
        """

    @abstractmethod
    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        """Coordinates of my entities in the basis of the leaf `basis`. Shape: (|entities|, basis.n_coordinates)."""

    @abstractmethod
    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """(arrays, JSON options) from which `from_state` rebuilds the table."""

    @classmethod
    @abstractmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        """Inverse of `state`."""

    @abstractmethod
    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        """The same kind of leaf over just these entities, with no index."""

    @abstractmethod
    def append_entities(self, other: Any) -> Self:
        """The same kind of leaf over my entities followed by those of `other`, with no index."""

    @abstractmethod
    def entity_keys(self) -> list[bytes]:
        """One key for each entity; equal keys mean equal entities."""

    # What follows ------------------------------------------------------------------------------------------------------

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        """Coordinates of my entities times `weights` (n_coordinates, p). Shape: (|entities|, p)."""
        return matmul(self.entity_coordinates(basis, entities), weights)

    def project_blocks(self, basis: Any, entities: Any, weights: Array) -> Array:
        """`entity_project` for several weights. Shape: weights (blocks, n_coordinates, p) -> (blocks, |entities|, p).

        Each block is a product of its own: its bits do not depend on how many others there are.
        """
        if type(self).entity_project is Leaf.entity_project:
            return np.asarray(np.matmul(self.entity_coordinates(basis, entities), weights))
        return np.stack([self.entity_project(basis, entities, block) for block in weights])

    def grow(self, other: Self, room: Room) -> Self:
        """As `append_entities`, within `room` where the leaf can: then the cost is that of the entities of `other`."""
        return self.append_entities(other)

    def begins_with(self, known: Leaf) -> bool:
        """Whether my first entities are those of `known`, a leaf of the same space. Cost: see `growing.begins_with`."""
        mine, its = self.state()[0], known.state()[0]
        return mine.keys() == its.keys() and all(begins_with(mine[name], its[name]) for name in mine)

    def prototype(self) -> Self:
        """One row over the entities that a basis needs: one for spaces with coordinates, the anchors for a kernel."""
        return self.select_entities(np.zeros(1, dtype=np.int64)).with_index(np.zeros(1, dtype=np.int64))

    @property
    def n_coordinates(self) -> int:
        """Length of a coordinate vector: `dim`, or the number of anchors for a kernel."""
        return int(self.dim)

    @property
    def own_coordinates(self) -> bool:
        """Whether every entity of the space has the same coordinates in every table's basis; not so for spans of entities."""
        return True

    @property
    def storage(self) -> Leaf:
        """The leaf whose arrays hold the entities: this one, or the table of one that is derived."""
        return self

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the table."""
        return np.dtype(np.float64)

    def entity_squared_norms(self) -> Array:
        """⟨e, e⟩ for each entity. Shape: (n_entities,)."""
        return np.array([self.entity_inner(self, slice(e, e + 1), slice(e, e + 1))[0, 0] for e in range(self.n_entities)])

    def in_double_precision(self) -> Self:
        """The same entities as float64, so that inner products with them are taken in double precision."""
        return self

    def precision(self) -> float:
        """How far rounding may move inner products of unit-norm entities."""
        return float(self.n_coordinates * np.finfo(self.dtype).eps)

    def distortion(self) -> float:
        """How far inner products of unit-norm entities may be from a feature space's before they are rounded, and norms too.

        Above 0 for tables that are no kernel to the last digit, and for kernels that lose digits.
        """
        return 0.0

    @property
    def rows(self) -> NDArray[np.int64] | slice:
        """The entity of each row, as something that indexes entities."""
        return slice(None) if self.index is None else self.index

    @property
    def n_rows(self) -> int:
        return self.n_entities if self.index is None else len(self.index)

    def leaves(self) -> Iterator[Leaf]:
        yield self

    def _take(self, index: NDArray[np.int64]) -> Self:
        out = copy.copy(self)
        out.index = index if self.index is None else self.index[index]
        return out

    def with_index(self, index: NDArray[np.int64] | None) -> Self:
        """The same table under another row index."""
        out = copy.copy(self)
        out.index = index
        return out

    def evaluate(self, leaf_value: Callable[[Leaf], Any]) -> Any:
        return leaf_value(self)

    def coordinates(self, rows: Features) -> Array:
        assert isinstance(rows, Leaf)
        return rows.entity_coordinates(self, rows.rows)

    def weighted(self, weight: float) -> Features:
        from kronsgd.features.weighted import Weighted  # which is a leaf itself

        return Weighted(self, weight)

    def combine(self, values: Sequence[Any]) -> Any:
        raise NotImplementedError("a leaf has no children to combine")

    def join(self, coordinates: Sequence[Array]) -> Array:
        raise NotImplementedError("a leaf has no children to join")

    def rebuild(self, children: Sequence[Features]) -> Features:
        return self

    def _same_structure(self, other: Features) -> bool:
        return type(self) is type(other) and self.dim == other.dim

    def mismatch(self, other: Features) -> str | None:
        if self._same_structure(other):
            return None
        if type(self) is not type(other) or self.dim != getattr(other, "dim", None):
            mine, its = (f"{type(x).__name__} with {describe_dim(x.dim)} dimensions" for x in (self, other))
            return f"where the model has {mine}, the new rows have {its}"
        return (
            f"the new table {other.expression()} was made with other options or another table (centre, scale, norms, gamma, "
            "kernel) than the model's: make it with .like(array), .new_entities(cross) or the same options"
        )

    def expression(self) -> str:
        dim = "∞" if self.dim == float("inf") else describe_dim(self.dim)
        return f"{type(self).__name__}({self.n_entities:,} × {dim})"
