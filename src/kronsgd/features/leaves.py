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

from kronsgd.features import mapped as mapped_rows
from kronsgd.features.base import Features
from kronsgd.features.leaf import Leaf
from kronsgd.features.mapped import MappedRows, Treatment, column_statistics, is_mapped, safe_inverse, same_start
from kronsgd.growing import Room
from kronsgd.parallel import matmul
from kronsgd.validation import as_float_matrix, check_array, check_finite

__all__ = ["Dense", "Leaf", "OneHot", "Sparse"]

Array = NDArray[Any]
logger = logging.getLogger("kronsgd")
COLUMNS = 4096  # entities whose inner products with all others are made at a time
DOMINANT = 0.95  # share of a table's squared norm in one column that is worth a warning


class Dense(Leaf):
    """Rows of a dense array.

    Parameters: array (entities, d); normalize: scale every row to norm 1 (a row of zeros stays); center: subtract the
    table's mean row first (True), or a given row (d,); scale: then divide the columns by their standard deviation (True),
    or by given numbers (d,). Centre what is never negative (pixels, counts): rows that all point the same way make training
    slow and most neurons fire. Scale columns in different units. `like` brings new entities into the same space.

    A table of more than 32 MiB that is mapped, np.load(path, mmap_mode="r"), is never copied: `array` then gives treated rows
    as they are asked for. Rows have the same bits as those of an array in memory; inner products, which are made some rows
    at a time, are the same to rounding. What does copy the table is `save`, and new entities in `partial_fit`.
    """

    def __init__(
        self, array: ArrayLike, *, normalize: bool = True, center: bool | ArrayLike = False, scale: bool | ArrayLike = False
    ) -> None:
        table = _table("Dense(array)", array)
        mapped = is_mapped(table) and table.nbytes > mapped_rows.IN_MEMORY
        self.mean = _per_column("center", center, table, lambda a: _mean(a, mapped))
        self.scale = _per_column("scale", scale, table, lambda a: _deviation(a, mapped))
        self.normalize = bool(normalize)
        treatment = Treatment(self.mean, self.scale, self.normalize)
        if self.scale is None and normalize:
            _warn_of_dominant_column(MappedRows(table, Treatment(self.mean, None, False)))
        self.array: Any = MappedRows(table, treatment) if mapped else treatment(table)  # an array, or rows on demand

    def like(self, array: ArrayLike) -> Dense:
        """New entities in this space: with the same centre, scale and treatment of norms. ValueError for other columns."""
        array = _table("like(array)", array)
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
        a, b = self.array[mine], other.array[others]
        if len(b) <= COLUMNS:
            return matmul(a, np.asarray(b).T)
        out = np.empty((len(a), len(b)), dtype=np.result_type(a.dtype, b.dtype))
        for start in range(0, len(b), COLUMNS):
            out[:, start : start + COLUMNS] = matmul(a, b[start : start + COLUMNS].T)
        return out

    def entity_squared_norms(self) -> Array:
        if isinstance(self.array, MappedRows):
            return self.array.squared_norms
        return np.einsum("ij,ij->i", self.array, self.array, dtype=np.float64)

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return np.asarray(self.array[entities])

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return matmul(self.array[entities], weights)

    def project_blocks(self, basis: Any, entities: Any, weights: Array) -> Array:
        return np.asarray(np.matmul(self.entity_coordinates(basis, entities), weights))

    def begins_with(self, known: Leaf) -> bool:
        if isinstance(known, Dense) and (isinstance(self.array, MappedRows) or isinstance(known.array, MappedRows)):
            return self._same_structure(known) and same_start(self.array, known.array)
        return super().begins_with(known)

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
        return self._over(self.array.select(entities) if isinstance(self.array, MappedRows) else self.array[entities])

    def append_entities(self, other: Dense) -> Self:
        return self.grow(other, Room())

    def grow(self, other: Dense, room: Room) -> Self:
        return self._over(room.append("array", np.asarray(self.array), np.asarray(other.array)))

    def in_double_precision(self) -> Self:
        array = self.array
        array = array.as_type(np.float64) if isinstance(array, MappedRows) else array.astype(np.float64)
        return self._over(array).with_index(self.index)

    def _over(self, array: Any) -> Self:
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
            csr.data = (csr.data * np.repeat(safe_inverse(norms), np.diff(csr.indptr))).astype(csr.dtype)
            csr.eliminate_zeros()
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
        a, b = _narrowed(self.matrix[mine], other.matrix[others])
        return np.asarray((a @ b.T).toarray())

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


def _table(name: str, value: ArrayLike) -> Array:
    """`value` as a checked 2-D array of floats, or as it is where it is mapped and too large to be read."""
    if not is_mapped(value) or getattr(value, "nbytes", 0) <= mapped_rows.IN_MEMORY:
        return as_float_matrix(name, value)
    array = np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "fiub":
        return as_float_matrix(name, array[:1])  # which says what is wrong
    check_finite(name, array)
    return array


def _mean(array: Array, mapped: bool) -> Array:
    return column_statistics(array, False) if mapped else np.asarray(array.mean(axis=0, dtype=np.float64))


def _deviation(array: Array, mapped: bool) -> Array:
    return column_statistics(array, True) if mapped else np.asarray(array.std(axis=0, dtype=np.float64))


def _warn_of_dominant_column(rows: MappedRows) -> None:
    """Rows of norm 1 hide every other column where one is far larger."""
    energy = np.asarray(sum(np.einsum("ij,ij->j", chunk, chunk, dtype=np.float64) for chunk in rows.chunks()))
    if len(energy) > 2 and energy.max() > DOMINANT * energy.sum() > 0:
        logger.warning(
            "column %d holds %.1f %% of the squared norm of Dense(%d × %d): with rows scaled to norm 1 the others hardly "
            "count; pass scale=True (and center=True) if the columns have different units.",
            int(energy.argmax()), 100 * energy.max() / energy.sum(), *rows.shape,
        )  # fmt: skip


def _row_of_entry(csr: Any, k: int) -> int:
    return int(np.searchsorted(csr.indptr, k, side="right")) - 1


def _narrowed(a: Any, b: Any) -> tuple[Any, Any]:
    """Two CSR matrices without the columns that neither has: scipy's products take memory for each column."""
    if a.shape[1] <= a.nnz + b.nnz:
        return a, b
    used, places = np.unique(np.concatenate([a.indices, b.indices]), return_inverse=True)
    mine, its = np.split(places, [a.nnz])
    return (
        sp.csr_array((a.data, mine, a.indptr), shape=(a.shape[0], len(used))),
        sp.csr_array((b.data, its, b.indptr), shape=(b.shape[0], len(used))),
    )
