"""Tables that stay in their file: rows are read, centred, scaled and brought to norm 1 when they are needed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from kronsgd.validation import check_finite, float_type

__all__ = ["IN_MEMORY", "MappedRows", "Treatment", "column_statistics", "is_mapped", "safe_inverse", "same_start"]

Array = NDArray[Any]
IN_MEMORY = 1 << 25  # bytes of a table that is simply read, for then each of its rows is read once
SMALLEST_NORM = 1e-150
CHUNK = 1 << 18  # numbers of a table that are looked at at a time


def is_mapped(array: Any) -> bool:
    """Whether an array is part of a file that is mapped into memory, as np.load(path, mmap_mode="r") gives it."""
    while array is not None and not isinstance(array, np.memmap):
        array = array.base if isinstance(array, np.ndarray) else None
    return array is not None


class Treatment:
    """What is done to each row on its own: centred, columns scaled, norm 1. Every result has the rows' own precision."""

    def __init__(self, mean: Array | None, scale: Array | None, normalize: bool) -> None:
        self.mean, self.scale, self.normalize = mean, scale, normalize

    def columns(self, rows: Array) -> Array:
        """Centred and scaled. Shape: (n, d)."""
        if self.mean is not None:
            noise = 16 * np.finfo(rows.dtype).eps * np.abs(rows).max(axis=1, keepdims=True, initial=0)
            moved = np.asarray(rows - self.mean, dtype=rows.dtype)
            rows = np.where(np.abs(moved) > noise, moved, np.zeros_like(moved))  # a row equal to the centre is 0, not noise
        if self.scale is not None:
            with np.errstate(over="ignore"):
                rows = np.asarray(rows * safe_inverse(self.scale), dtype=rows.dtype)
            check_finite("Dense(array), once its columns are scaled,", rows)  # a deviation may be too small to divide by
        return rows

    def __call__(self, rows: Array) -> Array:
        """All of it, in memory of its own; norms are taken in float64. Shape: (n, d)."""
        rows = self.columns(rows)
        return _unit_rows(rows) if self.normalize else rows.copy()


def _unit_rows(rows: Array) -> Array:
    """Rows scaled to norm 1 in float64, then rounded to their own precision."""
    norms = np.linalg.norm(rows.astype(np.float64, copy=False), axis=1)
    extreme = (norms < SMALLEST_NORM) | (norms > 1 / SMALLEST_NORM)  # whose squares are no numbers, or have lost digits
    if extreme.any():
        largest = np.abs(rows[extreme]).max(axis=1, keepdims=True)
        rows = rows.copy()
        rows[extreme] /= np.where(largest > 0, largest, 1)
        norms[extreme] = np.linalg.norm(rows[extreme].astype(np.float64), axis=1)
    return np.asarray(rows * safe_inverse(norms)[:, None], dtype=rows.dtype)


class MappedRows:
    """Treated rows of a mapped table, indexed as an array of them would be. Memory: that of the rows that are asked for.

    [:] is the table itself, which `parallel.matmul` takes tile by tile. The file must stay as it is. Pickled
    with all rows in it.
    """

    ndim = 2

    def __init__(self, raw: Array, treatment: Treatment) -> None:
        self._raw, self._treatment = raw, treatment
        self._chosen: NDArray[np.int64] | None = None  # rows of the file; None: all
        self.dtype = float_type(raw.dtype)

    @property
    def shape(self) -> tuple[int, int]:
        """(rows, columns)."""
        return len(self._raw) if self._chosen is None else len(self._chosen), int(self._raw.shape[1])

    @property
    def nbytes(self) -> int:
        """Of all rows, were they in memory."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> Any:
        if isinstance(rows, slice) and rows == slice(None):
            return self
        wanted = np.arange(len(self))[rows] if isinstance(rows, slice) else np.asarray(rows)
        if self._chosen is not None:
            wanted = self._chosen[wanted]
        out = np.empty((len(wanted), self.shape[1]), dtype=self.dtype)
        step = max(1, CHUNK // self.shape[1])
        for start in range(0, len(out), step):  # treated in parts, for that takes some copies of them
            part = _as_float(self._raw[wanted[start : start + step]], self._raw.dtype)
            out[start : start + step] = self._treatment(part)
        return out

    def __iter__(self) -> Iterator[Array]:
        for chunk in self.chunks():
            yield from chunk

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        out = np.empty(self.shape, dtype=self.dtype if dtype is None else dtype)
        start = 0
        for chunk in self.chunks():
            out[start : start + len(chunk)] = chunk
            start += len(chunk)
        return out

    def chunks(self) -> Iterator[Array]:
        """All rows, some at a time."""
        step = max(1, CHUNK // self.shape[1])
        for start in range(0, len(self), step):
            yield self[np.arange(start, min(start + step, len(self)))]

    def selected_bytes(self, n: int) -> int:
        """What `select` allocates for n rows."""
        size = n * self.shape[1] * self.dtype.itemsize
        return size if size <= IN_MEMORY else 8 * n

    def select(self, rows: NDArray[np.int64]) -> Any:
        """Just these rows: an array of them where it is small, else still mapped."""
        if len(rows) * self.shape[1] * self.dtype.itemsize <= IN_MEMORY:
            return self[rows]
        out = copy.copy(self)
        out.__dict__.pop("squared_norms", None)
        out._chosen = rows if self._chosen is None else self._chosen[rows]
        if "squared_norms" in self.__dict__:
            out.__dict__["squared_norms"] = self.squared_norms[rows]
        return out

    def as_type(self, dtype: Any) -> Self:
        """The same rows, rounded as they are here and then in another precision."""
        out = copy.copy(self)
        out.dtype = np.dtype(dtype)
        return out

    @cached_property
    def squared_norms(self) -> Array:
        """Of all rows, made once in a pass over the table. Shape: (n,), float64."""
        return np.concatenate([np.einsum("ij,ij->i", chunk, chunk, dtype=np.float64) for chunk in self.chunks()])


def same_start(rows: Any, known: Any) -> bool:
    """Whether the first rows are those of `known`, each an array or mapped. Cost: a pass over both, or none."""
    if rows is known:
        return True
    if rows.shape[1] != known.shape[1] or rows.dtype != known.dtype or len(rows) < len(known):
        return False
    step = max(1, CHUNK // rows.shape[1])
    parts = (np.arange(start, min(start + step, len(known))) for start in range(0, len(known), step))
    return all(np.array_equal(rows[part], known[part]) for part in parts)


def column_statistics(raw: Array, deviation: bool) -> Array:
    """Means (or standard deviations) of a table's columns, in the order in which NumPy adds rows up. Shape: (d,), float64.

    Cost: one pass over the table, two for deviations, some rows at a time.
    """
    step = max(1, CHUNK // raw.shape[1])

    def mean_of(transform: Any) -> Array:
        total = None
        for start in range(0, len(raw), step):
            rows = transform(_as_float(raw[start : start + step], raw.dtype).astype(np.float64))
            total = rows.sum(axis=0) if total is None else np.concatenate([total[None], rows]).sum(axis=0)
        assert total is not None
        return np.asarray(total / len(raw))

    mean = mean_of(lambda rows: rows)
    return np.sqrt(mean_of(lambda rows: (rows - mean) ** 2)) if deviation else mean


def safe_inverse(norms: Array) -> Array:
    """1 / norms, with 1 where the norm is 0."""
    return np.asarray(1.0 / np.where(norms == 0, 1.0, norms))


def _as_float(rows: Array, dtype: np.dtype[Any]) -> Array:
    """Rows of a file in memory's own layout: float32 and float64 stay, all else becomes float32."""
    return np.ascontiguousarray(rows, dtype=float_type(dtype))
