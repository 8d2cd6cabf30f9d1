"""Leaves of the algebra that have coordinates: a table of entities, and for each row the number of its entity."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, ClassVar, Self

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.parallel import matmul
from kronsgd.validation import as_float_matrix, check_array, check_finite

__all__ = ["Dense", "Leaf", "OneHot", "Sparse"]

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

    def prototype(self) -> Self:
        """One row over the entities that a basis needs: one for spaces with coordinates, the anchors for a kernel."""
        return self.select_entities(np.zeros(1, dtype=np.int64)).with_index(np.zeros(1, dtype=np.int64))

    @property
    def n_coordinates(self) -> int:
        """Length of a coordinate vector: `dim`, or the number of anchors for a kernel."""
        return int(self.dim)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Precision of the table."""
        return np.dtype(np.float64)

    def entity_squared_norms(self) -> Array:
        """⟨e, e⟩ for each entity. Shape: (n_entities,)."""
        return np.array([self.entity_inner(self, slice(e, e + 1), slice(e, e + 1))[0, 0] for e in range(self.n_entities)])

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

    def combine(self, values: Sequence[Any]) -> Any:
        raise NotImplementedError("a leaf has no children to combine")

    def join(self, coordinates: Sequence[Array]) -> Array:
        raise NotImplementedError("a leaf has no children to join")

    def rebuild(self, children: Sequence[Features]) -> Features:
        return self

    def _same_structure(self, other: Features) -> bool:
        return type(self) is type(other) and self.dim == other.dim

    def expression(self) -> str:
        dim = "∞" if self.dim == float("inf") else f"{self.dim:,}"
        return f"{type(self).__name__}({self.n_entities:,} × {dim})"


class Dense(Leaf):
    """Rows of a dense array.

    Parameters: array (entities, d); normalize: scale every row to norm 1 (a row of zeros stays); center: subtract the
    table's mean row first (True), or a given row (d,). Centre what is never negative (pixels, counts): rows that all
    point the same way make training slow and most neurons fire. `like` brings new entities into the same space.
    """

    def __init__(self, array: ArrayLike, *, normalize: bool = True, center: bool | ArrayLike = False) -> None:
        array = as_float_matrix("Dense(array)", array)
        self.mean: Array | None = None
        if center is not False:
            row = array.mean(axis=0, dtype=np.float64) if center is True else np.asarray(center, dtype=np.float64)
            if row.shape != (array.shape[1],):
                raise ValueError(f"center has shape {row.shape}; give one number for each of the {array.shape[1]} columns.")
            check_finite("center", row)
            self.mean = row
            noise = 16 * np.finfo(array.dtype).eps * np.abs(array).max(axis=1, keepdims=True)
            moved = np.asarray(array - row, dtype=array.dtype)
            array = np.where(np.abs(moved) > noise, moved, np.zeros_like(moved))  # a row equal to the centre is 0, not noise
        self.normalize = bool(normalize)
        self.array: Array = _unit_rows(array) if normalize else array.copy()

    def like(self, array: ArrayLike) -> Dense:
        """New entities in this space: with the same centre and the same treatment of norms."""
        return Dense(array, normalize=self.normalize, center=False if self.mean is None else self.mean)

    def _same_structure(self, other: Features) -> bool:
        if not isinstance(other, Dense) or self.dim != other.dim or (self.mean is None) != (other.mean is None):
            return False
        if self.normalize != other.normalize:
            return False
        return self.mean is None or other.mean is None or np.array_equal(self.mean, other.mean)

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
        arrays = {"array": self.array} if self.mean is None else {"array": self.array, "mean": self.mean}
        return arrays, {"normalize": self.normalize}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        out = cls(check_array("array", arrays, (None, None), "f"), normalize=False)
        out.normalize = bool(options["normalize"])
        out.mean = check_array("mean", arrays, (out.dim,), "f") if "mean" in arrays else None
        return out

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        return self._over(self.array[entities])

    def append_entities(self, other: Dense) -> Self:
        return self._over(np.concatenate([self.array, other.array.astype(self.array.dtype, copy=False)]))

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
        check_finite("Sparse(matrix).data", csr.data)
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
        return self._over(sp.csr_array(sp.vstack([self.matrix, other.matrix])))

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
        return (self.codes[mine][:, None] == other.codes[others][None, :]).astype(np.float32)

    def entity_squared_norms(self) -> Array:
        return np.ones(self.n_entities)

    def entity_project(self, basis: Any, entities: Any, weights: Array) -> Array:
        return weights[self.codes[entities]]

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
        return self._over(np.concatenate([self.codes, other.codes]))

    def _over(self, codes: NDArray[np.int64]) -> Self:
        out = copy.copy(self)
        out.codes, out.index = codes, None
        return out

    def entity_keys(self) -> list[bytes]:
        return [code.tobytes() for code in self.codes]


def _safe_inverse(norms: Array) -> Array:
    """1 / norms, with 1 where the norm is 0."""
    return 1.0 / np.where(norms == 0, 1.0, norms)


def _unit_rows(array: Array) -> Array:
    """Rows scaled to norm 1 in float64, then rounded to the array's own precision."""
    norms = np.linalg.norm(array.astype(np.float64, copy=False), axis=1)
    return np.asarray(array * _safe_inverse(norms)[:, None], dtype=array.dtype)
