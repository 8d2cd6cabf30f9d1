"""Kernels of vectors: leaves that hold the vectors and evaluate the kernel where it is needed."""

from __future__ import annotations

import copy
import math
from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.features.kernel_leaves import SpanLeaf
from kronsgd.features.leaf import Array
from kronsgd.growing import Room
from kronsgd.parallel import matmul
from kronsgd.validation import as_float_matrix, check_array, check_real

__all__ = ["RBF", "Tanimoto", "VectorKernel"]


class VectorKernel(SpanLeaf):
    """A kernel computed from a table of vectors; subclasses say how, from norms and dot products."""

    array: Array

    @abstractmethod
    def kernel(self, dots: Array, norms: Array, other_norms: Array) -> Array:
        """Kernel values from dot products (n, n') and squared norms (n, 1), (1, n')."""

    @property
    def n_entities(self) -> int:
        return int(self.array.shape[0])

    @property
    def dim(self) -> float:
        return math.inf

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def entity_inner(self, other: VectorKernel, mine: Any, others: Any) -> Array:
        # float64: a kernel of differences would lose the digits that float32 has, where the vectors are far from 0
        a, b = self.array[mine].astype(np.float64), other.array[others].astype(np.float64)
        dots = matmul(a, b.T)
        return self.kernel(dots, np.einsum("ij,ij->i", a, a)[:, None], np.einsum("ij,ij->i", b, b)[None, :])

    def entity_squared_norms(self) -> Array:
        return np.ones(self.n_entities)

    def precision(self) -> float:
        return 16 * self.array.shape[1] * float(np.finfo(np.float64).eps)

    def expression(self) -> str:
        return f"{type(self).__name__}({self.n_entities:,} × {self.array.shape[1]:,})"

    def _same_structure(self, other: Features) -> bool:
        return type(self) is type(other) and self.array.shape[1] == other.array.shape[1]

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {"array": self.array}, {}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        return cls(check_array("array", arrays, (None, None), "f"), **options)  # type: ignore[call-arg]  # the options are the subclass's own

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self._over(self.array[entities])

    def append_entities(self, other: VectorKernel) -> Self:
        return self.grow(other, Room())

    def grow(self, other: VectorKernel, room: Room) -> Self:
        return self._over(room.append("array", self.array, other.array))

    def _over(self, array: Array) -> Self:
        out = copy.copy(self)
        out.array, out.index, out._root = array, None, None
        return out

    def entity_keys(self) -> list[bytes]:
        return [row.tobytes() for row in self.array]


class RBF(VectorKernel):
    """Gaussian kernel exp(−gamma ‖a − b‖²): infinitely many dimensions.

    Parameters: array (entities, features); gamma > 0 (default 1 / features).
    """

    def __init__(self, array: ArrayLike, gamma: float | None = None) -> None:
        self.array = as_float_matrix("RBF(array)", array).copy()
        self.gamma = 1.0 / self.array.shape[1] if gamma is None else check_real("gamma", gamma, 0, open_low=True)

    def distortion(self) -> float:
        """What squared distances lose where vectors are far from 0, for each is a difference of large numbers."""
        largest = float(np.einsum("ij,ij->i", self.array, self.array, dtype=np.float64).max())
        return 4 * self.gamma * largest * (self.array.shape[1] + 4) * float(np.finfo(np.float64).eps)

    def kernel(self, dots: Array, norms: Array, other_norms: Array) -> Array:
        return np.asarray(np.exp(-self.gamma * np.maximum(norms + other_norms - 2 * dots, 0)))

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {"array": self.array}, {"gamma": self.gamma}

    def expression(self) -> str:
        return f"RBF({self.n_entities:,} × {self.array.shape[1]:,}, gamma={self.gamma:g})"

    def _same_structure(self, other: Features) -> bool:
        return super()._same_structure(other) and self.gamma == other.gamma  # type: ignore[attr-defined]


class Tanimoto(VectorKernel):
    """Tanimoto (Jaccard) similarity |a ∧ b| / |a ∨ b| of 0/1 fingerprints.

    Parameters: array (entities, bits). Two fingerprints without any bit count as equal.
    """

    def __init__(self, array: ArrayLike) -> None:
        self.array = as_float_matrix("Tanimoto(array)", array).copy()
        if not np.isin(self.array, (0, 1)).all():
            value = self.array[~np.isin(self.array, (0, 1))][0]
            raise ValueError(f"Tanimoto(array) contains {value:g}; fingerprints hold 0 and 1 only: pass (array > 0).")

    def kernel(self, dots: Array, norms: Array, other_norms: Array) -> Array:
        union = norms + other_norms - dots
        return np.asarray(np.where(union > 0, dots / np.where(union > 0, union, 1), 1.0), dtype=dots.dtype)
