"""Leaves that have coordinates: dense and sparse tables, and categories."""

from __future__ import annotations

import copy
import logging
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.features.leaf import Leaf
from kronsgd.growing import Room
from kronsgd.parallel import matmul
from kronsgd.validation import as_float_matrix, check_array, check_finite

__all__ = ["Dense", "Leaf", "OneHot", "Sparse"]

Array = NDArray[Any]
logger = logging.getLogger("kronsgd")
SMALLEST_NORM = 1e-150
DOMINANT = 0.95  # share of a table's squared norm in one column that is worth a warning


class Dense(Leaf):
    """Rows of a dense array.

    Parameters: array (entities, d); normalize: scale every row to norm 1 (a row of zeros stays); center: subtract the
    table's mean row first (True), or a given row (d,); scale: then divide the columns by their standard deviation (True),
    or by given numbers (d,). Centre what is never negative (pixels, counts): rows that all point the same way make training
    slow and most neurons fire. Scale columns in different units. `like` brings new entities into the same space.
    """

    def __init__(
        self, array: ArrayLike, *, normalize: bool = True, center: bool | ArrayLike = False, scale: bool | ArrayLike = False
    ) -> None:
        array = as_float_matrix("Dense(array)", array)
        self.mean = _per_column("center", center, array, lambda a: a.mean(axis=0, dtype=np.float64))
        self.scale = _per_column("scale", scale, array, lambda a: a.std(axis=0, dtype=np.float64))
        self.normalize = bool(normalize)
        if self.mean is not None:
            noise = 16 * np.finfo(array.dtype).eps * np.abs(array).max(axis=1, keepdims=True)
            moved = np.asarray(array - self.mean, dtype=array.dtype)
            array = np.where(np.abs(moved) > noise, moved, np.zeros_like(moved))  # a row equal to the centre is 0, not noise
        if self.scale is not None:
            with np.errstate(over="ignore"):
                array = np.asarray(array * _safe_inverse(self.scale), dtype=array.dtype)
            check_finite("Dense(array), once its columns are scaled,", array)  # a deviation may be too small to divide by
        elif normalize:
            _warn_of_dominant_column(array)
        self.array: Array = _unit_rows(array) if normalize else array.copy()

    def like(self, array: ArrayLike) -> Dense:
        """New entities in this space: with the same centre, scale and treatment of norms. ValueError for other columns."""
        array = as_float_matrix("like(array)", array)
        if array.shape[1] != self.dim:
            raise ValueError(f"like(array) has {array.shape[1]} columns; the table {self.expression()} has {self.dim}.")
        center, scale = (False if learned is None else learned for learned in (self.mean, self.scale))
        return Dense(array, normalize=self.normalize, center=center, scale=scale)

    def _same_structure(self, other: Features) -> bool:
        if not isinstance(other, Dense) or self.dim != other.dim or self.normalize != other.normalize:
            return False
        pairs = ((self.mean, other.mean), (self.scale, other.scale))
        return all((a is None and b is None) or (a is not None and b is not None and np.array_equal(a, b)) for a, b in pairs)

    @property
    def n_entities(self) -> int:
        return int(self.array.shape[0])

    @property
    def dim(self) -> int:
        return int(self.array.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    def entity_inner(self, other: Dense, mine: Any, others: Any) -> Array:
        return matmul(self.array[mine], other.array[others].T)

    def entity_squared_norms(self) -> Array:
        return np.einsum("ij,ij->i", self.array, self.array, dtype=np.float64)

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return self.array[entities]

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        learned = {"mean": self.mean, "scale": self.scale}
        arrays = {"array": self.array} | {name: value for name, value in learned.items() if value is not None}
        return arrays, {"normalize": self.normalize}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        out = cls(check_array("array", arrays, (None, None), "f"), normalize=False)
        out.normalize = bool(options["normalize"])
        for name in ("mean", "scale"):
            setattr(out, name, check_array(name, arrays, (out.dim,), "f") if name in arrays else None)
        return out

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self._over(self.array[entities])

    def append_entities(self, other: Dense) -> Self:
        return self.grow(other, Room())

    def grow(self, other: Dense, room: Room) -> Self:
        return self._over(room.append("array", self.array, other.array))

    def in_double_precision(self) -> Self:
        return self._over(self.array.astype(np.float64)).with_index(self.index)

    def _over(self, array: Array) -> Self:
        out = copy.copy(self)
        out.array, out.index = array, None
        return out

    def entity_keys(self) -> list[bytes]:
        return [row.tobytes() for row in self.array]


class Sparse(Leaf):
    """Rows of a scipy CSR matrix; other sparse formats are converted.

    Parameters: matrix (entities, d); normalize: scale every row to norm 1 (an empty row stays).
    """

    def __init__(self, matrix: Any, *, normalize: bool = True) -> None:
        if not sp.issparse(matrix):
            raise TypeError(f"Sparse takes a scipy sparse matrix, not {type(matrix).__name__}; use Dense for an array.")
        csr = sp.csr_array(matrix)
        if min(csr.shape) == 0:
            raise ValueError(f"Sparse(matrix) has shape {csr.shape}; at least one row and one column are needed.")
        csr = csr.astype(csr.dtype if csr.dtype in (np.float32, np.float64) else np.float32)
        csr.sum_duplicates()
        check_finite("Sparse(matrix)", csr.data, lambda k: (_row_of_entry(csr, k), int(csr.indices[k])))
        if normalize:
            norms = np.sqrt(np.asarray(csr.multiply(csr).sum(axis=1), dtype=np.float64).ravel())
            csr = sp.csr_array(sp.diags_array(_safe_inverse(norms)) @ csr, dtype=csr.dtype)
        csr.sort_indices()
        self.matrix = csr

    @property
    def n_entities(self) -> int:
        return int(self.matrix.shape[0])

    @property
    def dim(self) -> int:
        return int(self.matrix.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.matrix.dtype)

    def entity_inner(self, other: Sparse, mine: Any, others: Any) -> Array:
        return np.asarray((self.matrix[mine] @ other.matrix[others].T).toarray())

    def entity_squared_norms(self) -> Array:
        return np.asarray(self.matrix.multiply(self.matrix).sum(axis=1), dtype=np.float64).ravel()

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return np.asarray(self.matrix[entities].toarray())

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return matmul(self.matrix[entities], weights)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        m = self.matrix
        return {"data": m.data, "indices": m.indices, "indptr": m.indptr}, {"shape": [int(s) for s in m.shape]}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        n, d = (int(size) for size in options["shape"])
        indptr = check_array("indptr", arrays, (n + 1,), "i")
        indices = check_array("indices", arrays, (None,), "i")
        if indptr[0] != 0 or indptr[-1] != len(indices) or (np.diff(indptr) < 0).any():
            raise ValueError("array 'indptr' of a sparse table does not grow from 0 to the number of its entries")
        csr = sp.csr_array((check_array("data", arrays, indices.shape, "f"), indices, indptr), shape=(n, d))
        csr.check_format(full_check=True)
        return cls(csr, normalize=False)

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self._over(self.matrix[entities])

    def append_entities(self, other: Sparse) -> Self:
        return self.grow(other, Room())

    def grow(self, other: Sparse, room: Room) -> Self:
        mine, its = self.matrix, other.matrix
        if mine.nnz + its.nnz > np.iinfo(mine.indptr.dtype).max:  # scipy goes over to wider numbers
            return self._over(sp.csr_array(sp.vstack([mine, its.astype(mine.dtype)])))
        data, indices = room.append("data", mine.data, its.data), room.append("indices", mine.indices, its.indices)
        indptr = room.append("indptr", mine.indptr, mine.indptr[-1] + its.indptr[1:])
        return self._over(sp.csr_array((data, indices, indptr), shape=(len(indptr) - 1, self.dim)))

    def in_double_precision(self) -> Self:
        return self._over(self.matrix.astype(np.float64)).with_index(self.index)

    def precision(self) -> float:
        return float(max(np.diff(self.matrix.indptr).max(), 1) * np.finfo(self.dtype).eps)

    def _over(self, matrix: Any) -> Self:
        out = copy.copy(self)
        out.matrix, out.index = matrix, None
        return out

    def entity_keys(self) -> list[bytes]:
        m, p = self.matrix, self.matrix.indptr
        return [m.indices[a:b].tobytes() + m.data[a:b].tobytes() for a, b in pairwise(p)]


class OneHot(Leaf):
    """Categories as unit vectors: row i is the unit vector of category codes[i].

    Parameters: codes: whole numbers from 0; n_categories: d (default: the largest code + 1).
    """

    def __init__(self, codes: ArrayLike, n_categories: int | None = None) -> None:
        array = np.asarray(codes)
        if array.ndim != 1 or array.size == 0 or array.dtype.kind not in "iu":
            raise TypeError(
                f"OneHot takes a non-empty 1-D array of category numbers, not {array.dtype} of shape {array.shape}; turn "
                "labels into numbers with numpy.unique(labels, return_inverse=True)."
            )
        d = int(array.max()) + 1 if n_categories is None else int(n_categories)
        if array.min() < 0 or array.max() >= d:
            raise ValueError(f"category {int(array.min() if array.min() < 0 else array.max())} is outside 0 to {d - 1}.")
        self.codes = array.astype(np.int64)
        self.n_categories = d

    @property
    def n_entities(self) -> int:
        return len(self.codes)

    @property
    def dim(self) -> int:
        return self.n_categories

    def entity_inner(self, other: OneHot, mine: Any, others: Any) -> Array:
        return (self.codes[mine][:, None] == other.codes[others][None, :]).astype(np.float64)  # sums with it are exact too

    def entity_squared_norms(self) -> Array:
        return np.ones(self.n_entities)

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return weights[self.codes[entities]]

    def project_blocks(self, basis: Any, entities: Any, weights: Array) -> Array:
        return weights[:, self.codes[entities]]

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return (self.codes[entities][:, None] == np.arange(self.n_categories)).astype(np.float32)

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {"codes": self.codes}, {"n_categories": self.n_categories}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        return cls(arrays["codes"], int(options["n_categories"]))

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self._over(self.codes[entities])

    def append_entities(self, other: OneHot) -> Self:
        return self.grow(other, Room())

    def grow(self, other: OneHot, room: Room) -> Self:
        return self._over(room.append("codes", self.codes, other.codes))

    def _over(self, codes: NDArray[np.int64]) -> Self:
        out = copy.copy(self)
        out.codes, out.index = codes, None
        return out

    def entity_keys(self) -> list[bytes]:
        return [code.tobytes() for code in self.codes]


def _per_column(name: str, value: bool | ArrayLike, array: Array, learn: Callable[[Array], Array]) -> Array | None:
    """None (False), one number per column learned from the table (True), or the given ones. Shape: (d,)."""
    if value is False:
        return None
    row = learn(array) if value is True else np.asarray(value, dtype=np.float64)
    if row.shape != (array.shape[1],):
        raise ValueError(f"{name} has shape {row.shape}; give one number for each of the {array.shape[1]} columns.")
    check_finite(name, row)
    return row


def _warn_of_dominant_column(array: Array) -> None:
    """Rows of norm 1 hide every other column where one is far larger."""
    energy = np.einsum("ij,ij->j", array, array, dtype=np.float64)
    if len(energy) > 2 and energy.max() > DOMINANT * energy.sum() > 0:
        logger.warning(
            "column %d holds %.1f %% of the squared norm of Dense(%d × %d): with rows scaled to norm 1 the others hardly "
            "count; pass scale=True (and center=True) if the columns have different units.",
            int(energy.argmax()), 100 * energy.max() / energy.sum(), *array.shape,
        )  # fmt: skip


def _row_of_entry(csr: Any, k: int) -> int:
    return int(np.searchsorted(csr.indptr, k, side="right")) - 1


def _safe_inverse(norms: Array) -> Array:
    """1 / norms, with 1 where the norm is 0."""
    return 1.0 / np.where(norms == 0, 1.0, norms)


def _unit_rows(array: Array) -> Array:
    """Rows scaled to norm 1 in float64, then rounded to the array's own precision."""
    norms = np.linalg.norm(array.astype(np.float64, copy=False), axis=1)
    extreme = (norms < SMALLEST_NORM) | (norms > 1 / SMALLEST_NORM)  # whose squares are no numbers, or have lost digits
    if extreme.any():
        largest = np.abs(array[extreme]).max(axis=1, keepdims=True)
        array = array.copy()
        array[extreme] /= np.where(largest > 0, largest, 1)
        norms[extreme] = np.linalg.norm(array[extreme].astype(np.float64), axis=1)
    return np.asarray(array * _safe_inverse(norms)[:, None], dtype=array.dtype)
