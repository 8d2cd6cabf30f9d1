"""α by neuron, as the scan and the grid engine keep it: sorted sparse lists with short unsorted tails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.segments import Segments
from kronsgd.kernels import scan as kernels
from kronsgd.validation import check_array

__all__ = ["Added", "Coefficients"]

Array = NDArray[Any]
TAIL = 256  # places for new rows of a neuron between two compactions
MERGED = 17 / 16  # coefficients, in multiples of those in sorted lists, above which merging at an epoch's start pays
SETTLING = threading.RLock()
SMALLEST_SCALE = 1e-6  # of the decay factor, before it is multiplied into the coefficients


@dataclass(frozen=True)
class Added:
    """What a step adds to α: Σ_c slopes[t, c, s]·weights[r, c] at row s of tile t where neuron r fires on it."""

    fired: NDArray[np.uint64]  # (tiles, m): bit s of neuron r
    slopes: Array  # (tiles, C, lanes)
    weights: Array  # (m, C): output weights
    rows: NDArray[np.int64]  # (S,)

    @classmethod
    def nothing(cls, dtype: str) -> Added:
        """No tile at all."""
        nothing = np.zeros((0, 1, 1), dtype=dtype)
        return cls(np.zeros((0, 0), dtype=np.uint64), nothing, nothing[:, 0], np.zeros(0, dtype=np.int64))

    def arguments(self) -> tuple[Array, ...]:
        """As kernels take them."""
        return self.fired, self.slopes, self.weights, self.rows


@dataclass
class Coefficients:
    """α by neuron: sorted lists of (row, value), and a short tail of rows that are new. α = scale · values.

    The last step's part waits in `added`, for the next forward pass reads all lists anyway; whatever else looks at the lists
    has it put in first.
    """

    segments: Segments
    indptr: NDArray[np.int64]  # (segments + 1,)
    rows: NDArray[np.int32]  # (nnz,)
    values: Array  # (nnz,)
    tail_len: NDArray[np.int64]  # (m,)
    tail_rows: NDArray[np.int32]  # (m, T)
    tail_values: Array  # (m, T)
    scale: float = 1.0
    added: Added | None = None

    @classmethod
    def empty(cls, segments: Segments, dtype: str, tail: int = TAIL) -> Coefficients:
        """No coefficients yet."""
        m = len(segments.first)
        tail_rows = np.zeros((m, tail), dtype=np.int32)
        return cls(
            segments, np.zeros(m * segments.n_slices + 1, dtype=np.int64), np.zeros(0, dtype=np.int32),
            np.zeros(0, dtype=dtype), np.zeros(m, dtype=np.int64), tail_rows, np.zeros(tail_rows.shape, dtype=dtype),
        )  # fmt: skip

    @property
    def nnz(self) -> int:
        """Number of stored coefficients."""
        self.settle()
        return len(self.values) + int(self.tail_len.sum())

    def lists(self) -> tuple[Any, ...]:
        """(first, stride, slice bits, indptr, rows, values, lengths, rows and values of tails), as kernels take them."""
        self.settle()
        tails = self.tail_len, self.tail_rows, self.tail_values
        return *self.segments.arguments(), self.indptr, self.rows, self.values, *tails

    def add(self, added: Added) -> None:
        """Take a step's part, whose arrays must stay as they are until the next forward pass."""
        self.settle()
        self.make_room(len(added.rows))
        self.added = added

    def take_added(self) -> Added:
        """What waits, for a kernel that puts it into the lists."""
        added, self.added = self.added, None
        return Added.nothing(str(self.values.dtype)) if added is None else added

    def settle(self) -> None:
        """Put what waits into the lists. Several threads may predict with one model."""
        with SETTLING:
            if not self.tail_len.flags.writeable:  # mapped from a file; kernels take arrays that they may write to
                for name in ("indptr", "rows", "values", "tail_len", "tail_rows", "tail_values"):
                    setattr(self, name, getattr(self, name).copy())
            if self.added is not None:
                added = self.take_added()
                kernels.record(*added.arguments(), *self.lists())

    def make_room(self, n: int) -> None:
        """See that every tail takes `n` more rows, compacting if one is too full."""
        if int(self.tail_len.max()) + n > self.tail_rows.shape[1]:
            self.compact()
        if n > self.tail_rows.shape[1]:
            self.tail_rows = np.zeros((len(self.tail_len), n), dtype=np.int32)
            self.tail_values = np.zeros(self.tail_rows.shape, dtype=self.values.dtype)

    def compact(self) -> None:
        """Merge the tails into the sorted lists, cut into slices of the length that suits their density."""
        self._move(self.segments.cut_for(self.nnz, self.values.itemsize))

    def rearrange(self, segments: Segments) -> None:
        """Go over to segments for more rows."""
        if segments.n_slices == self.segments.n_slices:
            self.segments = segments
        else:
            self._move(segments)

    def _move(self, segments: Segments) -> None:
        """Lists and tails together, as lists in these segments."""
        self.indptr, self.rows, self.values = _merged(segments, self.lists())
        self.segments = segments
        self.tail_len[:] = 0

    def merge_long_tails(self) -> None:
        """Compact if the tails, which are read row by row from all over a panel, hold many of the coefficients."""
        if self.nnz > MERGED * len(self.values):
            self.compact()

    def decay(self, factor: float) -> None:
        """α ← factor · α, lazily: only `scale` changes, until it has become small."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self.settle()
            self.values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.tail_values *= np.asarray(self.scale, dtype=self.values.dtype)
            self.scale = 1.0

    def by_neuron(self) -> tuple[Array, Array, Array]:
        """The sorted lists in plain CSR: (indptr, rows, values)."""
        if self.segments.n_slices == 1:
            return self.lists()[3:6]
        return _merged(_whole(self.segments), self.lists()[:6])

    def set_lists(self, indptr: Array, rows: Array, values: Array) -> None:
        """Take sorted lists in plain CSR."""
        if self.segments.n_slices > 1:
            indptr, rows, values = _merged(self.segments, (*_whole(self.segments).arguments(), indptr, rows, values))
        self.indptr, self.rows, self.values = indptr, rows, values

    def matrix(self, n_rows: int) -> sp.csr_array:
        """α as a CSR matrix (m, n), float64."""
        shape = (len(self.tail_len), n_rows)
        indptr, rows, values = self.by_neuron()
        main = sp.csr_array((values.astype(np.float64), rows, indptr), shape=shape)
        used = self._used(self.tail_rows.shape[1])
        neurons = np.nonzero(used)[0]
        tail = sp.coo_array((self.tail_values[used].astype(np.float64), (neurons, self.tail_rows[used])), shape=shape)
        return sp.csr_array((main + tail.tocsr()) * self.scale)

    def arrays(self) -> dict[str, Array]:
        """All of it under plain names."""
        indptr, rows, values = self.by_neuron()
        longest = max(int(self.tail_len.max()), 1)
        used = self._used(longest)  # what lies beyond must not make equal models differ
        return {
            "indptr": indptr, "rows": rows, "values": values, "tail_len": self.tail_len,
            "tail_rows": np.where(used, self.tail_rows[:, :longest], 0),
            "tail_values": np.where(used, self.tail_values[:, :longest], 0),
            "slice_bits": np.array([self.segments.slice_bits]), "scale": np.array([self.scale]),
            "tail_room": np.array([self.tail_rows.shape[1]]),
        }  # fmt: skip

    def _used(self, width: int) -> NDArray[np.bool_]:
        """Which of the first `width` places of the tails hold a row. Shape: (m, width)."""
        return np.asarray(np.arange(width) < self.tail_len[:, None])

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], segments: Segments, n_rows: int, dtype: str) -> Coefficients:
        """What `arrays` gave. ValueError where it does not fit this many neurons and rows."""
        n_hidden = len(segments.first)
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
        c = cls.empty(segments.cut(int(check_array("slice_bits", arrays, (1,), "i")[0])), dtype, room)
        c.set_lists(indptr, rows, values)
        c.tail_len = tail_len
        c.tail_rows[:, : tail_rows.shape[1]], c.tail_values[:, : tail_rows.shape[1]] = tail_rows, tail_values
        c.scale = float(check_array("scale", arrays, (1,), "f")[0])
        return c


def _whole(segments: Segments) -> Segments:
    """One segment for each neuron: plain CSR."""
    return Segments.consecutive(len(segments.first), 1, 31)


def _merged(segments: Segments, lists: tuple[Any, ...]) -> tuple[Array, Array, Array]:
    """(indptr, rows, values) of the same coefficients in other segments. lists: as kernels take them, with tails or without."""
    m, values = len(segments.first), lists[5]
    if len(lists) == 6:
        lists = *lists, np.zeros(m, dtype=np.int64), np.zeros((m, 0), dtype=np.int32), np.zeros((m, 0), dtype=values.dtype)
    sizes, order = np.empty(m * segments.n_slices, dtype=np.int64), np.empty(lists[7].shape, dtype=np.int32)
    kernels.merged_sizes(sizes, order, *segments.arguments(), *lists[:-1])
    indptr = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(sizes)])
    rows, merged = np.empty(indptr[-1], dtype=np.int32), np.empty(indptr[-1], dtype=values.dtype)
    kernels.compact(indptr, rows, merged, order, *segments.arguments(), *lists)
    return indptr, rows, merged
