"""α by neuron, as the scan and the grid engine keep it: sorted sparse lists with short unsorted tails."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.kernels import scan as kernels
from kronsgd.validation import check_array

__all__ = ["Coefficients"]

Array = NDArray[Any]
TAIL = 256  # places for new rows of a neuron between two compactions
SMALLEST_SCALE = 1e-6  # of the decay factor, before it is multiplied into the coefficients


@dataclass
class Coefficients:
    """α by neuron: a sorted list of (row, value) each, and a short tail of rows that are new. α = scale · values."""

    indptr: NDArray[np.int64]  # (m + 1,)
    rows: NDArray[np.int32]  # (nnz,)
    values: Array  # (nnz,)
    tail_len: NDArray[np.int64]  # (m,)
    tail_rows: NDArray[np.int32]  # (m, T)
    tail_values: Array  # (m, T)
    scale: float = 1.0

    @classmethod
    def empty(cls, n_hidden: int, dtype: str, tail: int = TAIL) -> Coefficients:
        """No coefficients yet."""
        none = np.zeros(0, dtype=np.int32)
        tail_rows = np.zeros((n_hidden, tail), dtype=np.int32)
        return cls(
            np.zeros(n_hidden + 1, dtype=np.int64), none, np.zeros(0, dtype=dtype),
            np.zeros(n_hidden, dtype=np.int64), tail_rows, np.zeros(tail_rows.shape, dtype=dtype),
        )  # fmt: skip

    @property
    def nnz(self) -> int:
        """Number of stored coefficients."""
        return len(self.values) + int(self.tail_len.sum())

    def sorted_lists(self) -> tuple[Array, Array, Array]:
        """(indptr, rows, values), as the kernels take them."""
        return self.indptr, self.rows, self.values

    def tails(self) -> tuple[Array, Array, Array]:
        """(lengths, rows, values), as the kernels take them."""
        return self.tail_len, self.tail_rows, self.tail_values

    def make_room(self, n: int) -> None:
        """See that every tail takes `n` more rows, compacting if one is too full."""
        if int(self.tail_len.max()) + n > self.tail_rows.shape[1]:
            self.compact()
        if n > self.tail_rows.shape[1]:
            self.tail_rows = np.zeros((len(self.tail_len), n), dtype=np.int32)
            self.tail_values = np.zeros(self.tail_rows.shape, dtype=self.values.dtype)

    def compact(self) -> None:
        """Merge the tails into the sorted lists."""
        sizes = np.empty(len(self.tail_len), dtype=np.int64)
        order = np.empty(self.tail_rows.shape, dtype=np.int32)
        kernels.merged_sizes(sizes, order, self.indptr, self.tail_len, self.tail_rows)
        indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
        rows, values = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=self.values.dtype)
        kernels.compact(indptr, rows, values, *self.sorted_lists(), *self.tails(), order)
        self.indptr, self.rows, self.values = indptr, rows, values

    def decay(self, factor: float) -> None:
        """α ← factor · α, lazily: only `scale` changes, until it has become small."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self.values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.tail_values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.scale = 1.0

    def matrix(self, n_rows: int) -> sp.csr_array:
        """α as a CSR matrix (m, n), float64."""
        shape = (len(self.tail_len), n_rows)
        main = sp.csr_array((self.values.astype(np.float64), self.rows, self.indptr), shape=shape)
        used = np.arange(self.tail_rows.shape[1]) < self.tail_len[:, None]
        neurons = np.nonzero(used)[0]
        tail = sp.coo_array((self.tail_values[used].astype(np.float64), (neurons, self.tail_rows[used])), shape=shape)
        return sp.csr_array((main + tail.tocsr()) * self.scale)

    def arrays(self) -> dict[str, Array]:
        """All of it under plain names."""
        longest = max(int(self.tail_len.max()), 1)
        return {
            "indptr": self.indptr, "rows": self.rows, "values": self.values, "tail_len": self.tail_len,
            "tail_rows": np.ascontiguousarray(self.tail_rows[:, :longest]),
            "tail_values": np.ascontiguousarray(self.tail_values[:, :longest]),
            "scale": np.array([self.scale]), "tail_room": np.array([self.tail_rows.shape[1]]),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], n_hidden: int, n_rows: int, dtype: str) -> Coefficients:
        """What `arrays` gave. ValueError where it does not fit this many neurons and rows."""
        indptr = check_array("indptr", arrays, (n_hidden + 1,), "i").astype(np.int64)
        if indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError("array 'indptr' does not grow from 0")
        rows = check_array("rows", arrays, (int(indptr[-1]),), "i").astype(np.int32)
        values = check_array("values", arrays, (int(indptr[-1]),), "f").astype(dtype)
        tail_len = check_array("tail_len", arrays, (n_hidden,), "i").astype(np.int64)
        tail_rows = check_array("tail_rows", arrays, (n_hidden, None), "i").astype(np.int32)
        tail_values = check_array("tail_values", arrays, tail_rows.shape, "f").astype(dtype)
        room = int(check_array("tail_room", arrays, (1,), "i")[0])
        if not 0 <= tail_len.min() <= tail_len.max() <= tail_rows.shape[1] <= room <= 2**20:
            raise ValueError("array 'tail_len' does not fit the tails")
        if any(len(r) and not 0 <= r.min() <= r.max() < n_rows for r in (rows, tail_rows.ravel())):
            raise ValueError(f"coefficients point outside the {n_rows} training rows")
        c = cls.empty(n_hidden, dtype, room)
        c.indptr, c.rows, c.values, c.tail_len = indptr, rows, values, tail_len
        c.tail_rows[:, : tail_rows.shape[1]], c.tail_values[:, : tail_rows.shape[1]] = tail_rows, tail_values
        c.scale = float(check_array("scale", arrays, (1,), "f")[0])
        return c
