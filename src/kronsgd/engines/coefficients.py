"""α by neuron, as the scan and the grid engine keep it: sorted sparse lists with short unsorted tails."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.segments import SLICE_BITS, Segments
from kronsgd.exchange import ALONE, Exchange
from kronsgd.kernels import scan as kernels
from kronsgd.kernels.bfloat16 import NO_SALT, salt_of, to_bfloat16, to_float
from kronsgd.network import TwoLayer
from kronsgd.validation import check_array

__all__ = ["Added", "Coefficients"]

Array = NDArray[Any]
# A tail has room for 64 rows, for a quarter of the list, and for eight steps like the one that made it.
TAIL, LISTS_PER_TAIL, STEPS = 64, 4, 8
MERGED = 17 / 16  # coefficients, in multiples of those in sorted lists, above which merging at an epoch's start pays
REPEATED = 4096  # rows of a batch that may repeat fewer different ones
WHOLE = 31  # bits of a slice that takes all rows
SETTLING = threading.RLock()
SMALLEST_SCALE = 1e-6  # of the decay factor, before it is multiplied into the coefficients
LARGEST_SCALE = 1e30  # of one that is read; single precision still has its inverse


@dataclass(frozen=True)
class Added:
    """What a step adds to α: Σ_c slopes[t, c, s]·weights[r, c] at row s of tile t where neuron r fires on it."""

    fired: NDArray[np.uint64]  # (tiles, m): bit s of neuron r
    slopes: Array  # (tiles, C, lanes)
    weights: Array  # (m, C): output weights
    rows: NDArray[np.int64]  # (S,)
    salt: np.uint64 = NO_SALT  # of the step, for what is rounded at random

    @classmethod
    def nothing(cls, dtype: str) -> Added:
        """No tile at all."""
        nothing = np.zeros((0, 1, 1), dtype=dtype)
        return cls(np.zeros((0, 0), dtype=np.uint64), nothing, nothing[:, 0], np.zeros(0, dtype=np.int64))

    def arguments(self) -> tuple[Any, ...]:
        """As kernels take them."""
        return self.fired, self.slopes, self.weights, self.rows, self.salt


@dataclass
class Coefficients:
    """α by neuron: sorted lists of (place in the slice, value), and a short tail of rows that are new. α = scale · values.

    The lists' values are of the network's type, or the bits of bfloat16 numbers: those of tails, which steps add, never are.

    The last step's part waits in `added`, for the next forward pass reads all lists anyway; whatever else looks at the lists
    has it put in first.
    """

    segments: Segments
    indptr: NDArray[np.int64]  # (segments + 1,)
    rows: NDArray[Any]  # (nnz,): places within slices, in 16 bits where those have no more
    values: Array  # (nnz,)
    tail_first: NDArray[np.int64]  # (m + 1,): bounds of the tails' room
    tail_len: NDArray[np.int64]  # (m,)
    tail_rows: NDArray[np.int32]  # (room,)
    tail_values: Array  # (room,)
    exchange: Exchange = ALONE  # with the ranks that have the other neurons' coefficients
    scale: float = 1.0
    added: Added | None = None
    first_neuron: int = 0  # the number that the first of these neurons has in the whole network
    steps: int = 0  # that were added, where they are counted

    @classmethod
    def empty(cls, segments: Segments, network: TwoLayer) -> Coefficients:
        """No coefficients yet, and no room for any."""
        m, tail_values = len(segments.first), np.zeros(0, dtype=network.dtype)
        values = np.zeros(0, dtype=np.uint16) if network.narrow else tail_values
        indptr, rows = np.zeros(m * segments.n_slices + 1, dtype=np.int64), np.zeros(0, dtype=segments.row_type)
        tails = np.zeros(m + 1, dtype=np.int64), np.zeros(m, dtype=np.int64), np.zeros(0, dtype=np.int32), tail_values
        return cls(segments, indptr, rows, values, *tails, network.exchange, first_neuron=network.first_neuron)

    @property
    def narrow(self) -> bool:
        """Whether the lists' values are bfloat16 numbers."""
        return self.values.dtype == np.uint16

    @property
    def nnz(self) -> int:
        """Number of stored coefficients."""
        self.settle()
        return self.size

    @property
    def size(self) -> int:
        """`nnz` without what waits. Cost: m."""
        return len(self.values) + int(self.tail_len.sum())

    def lists(self) -> tuple[Any, ...]:
        """(first, stride, slice bits, indptr, rows, values, bounds, lengths, rows and values of tails), for kernels."""
        self.settle()
        tails = self.tail_first, self.tail_len, self.tail_rows, self.tail_values
        return *self.segments.arguments(), self.indptr, self.rows, self.values, *tails

    def add(self, added: Added, crowded: bool | None = None) -> None:
        """Take a step's part, whose arrays must stay as they are until the next forward pass. crowded: see `make_room`."""
        self.settle()
        self.make_room(np.bitwise_count(added.fired).sum(axis=0, dtype=np.int64), crowded)
        self.added = replace(added, salt=self.next_salt())

    def next_salt(self) -> np.uint64:
        """Of a step that is about to be added: the same on any number of ranks, and wherever a training was interrupted."""
        if not self.narrow:
            return NO_SALT
        self.steps += 1
        return salt_of(self.steps, self.first_neuron)

    def take_added(self) -> Added:
        """What waits, for a kernel that puts it into the lists."""
        added, self.added = self.added, None
        return Added.nothing(str(self.tail_values.dtype)) if added is None else added

    def settle(self) -> None:
        """Put what waits into the lists. Several threads may predict with one model."""
        with SETTLING:
            if not self.tail_len.flags.writeable:  # mapped from a file; kernels take arrays that they may write to
                for name in ("indptr", "rows", "values", "tail_first", "tail_len", "tail_rows", "tail_values"):
                    setattr(self, name, getattr(self, name).copy())
            if self.added is not None:
                added = self.take_added()
                kernels.record(*added.arguments(), *self.lists())

    def has_room(self, added: NDArray[np.int64]) -> bool:
        """Whether every neuron r's tail takes added[r] more rows."""
        return bool(kernels.have_room(self.tail_first, self.tail_len, added))

    def make_room(self, added: NDArray[np.int64], crowded: bool | None = None) -> None:
        """See that neuron r's tail takes added[r] more rows, compacting if one is too full, on whatever rank (`crowded`).

        Tails get room in proportion to their lists, so that all compactions together cost no more than a few times nnz, and
        keep it, because neurons take turns at firing on many rows that they know already.
        """
        if not (not self.has_room(added) if crowded is None else crowded):
            return
        self.compact()
        room = np.diff(self.tail_first)
        lengths = np.diff(self.indptr)[self.segments.table].sum(axis=1)
        room = np.maximum.reduce([room, np.full_like(room, TAIL), lengths // LISTS_PER_TAIL, added * STEPS])
        self.tail_first = np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(room)])
        self.tail_rows = np.zeros(self.tail_first[-1], dtype=np.int32)
        self.tail_values = np.zeros(len(self.tail_rows), dtype=self.tail_values.dtype)

    def compact(self) -> None:
        """Merge the tails into the sorted lists, cut into slices of the length that suits their density."""
        lists = self.lists()
        sizes, order = np.empty(len(self.indptr) - 1, dtype=np.int64), np.empty(len(self.tail_rows), dtype=np.int32)
        kernels.merged_sizes(sizes, order, *lists[:4], *lists[6:9])
        indptr, rows, values = _room(sizes, self.segments, self.values.dtype)
        kernels.compact(indptr, rows, values, order, *lists)
        self.indptr, self.rows, self.values = indptr, rows, values
        del lists, order, indptr, rows, values  # the old ones go before others may come
        self.tail_len[:] = 0
        n_lists = self.exchange.total(len(self.tail_len)) * self.segments.n_rows
        self.rearrange(self.segments.cut_for(self.exchange.total(self.nnz) / n_lists, self.values.itemsize))

    def rearrange(self, segments: Segments) -> None:
        """Go over to other segments."""
        if (segments.n_slices, segments.slice_bits) != (self.segments.n_slices, self.segments.slice_bits):
            self.indptr, self.rows, self.values = _cut(segments, self.segments, *self.lists()[3:6])
        self.segments = segments

    def join(self) -> None:
        """One list for each neuron, until the next `rearrange`: read from end to end where few neurons are evaluated."""
        if self.segments.slice_bits != WHOLE:
            self.rearrange(_whole(self.segments))

    def merge_long_tails(self) -> None:
        """Compact if the tails, which are read row by row from all over a panel, hold many of the coefficients."""
        if self.exchange.total(self.nnz) > MERGED * self.exchange.total(len(self.values)):
            self.compact()

    def decay(self, factor: float) -> None:
        """α ← factor · α, lazily: only `scale` changes, until it has become small."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self.settle()
            values, multiplied = to_float(self.values), self.tail_values.dtype.type(self.scale)
            values *= multiplied
            self.values = self.kept(values)
            self.tail_values *= multiplied
            self.scale = 1.0

    def kept(self, values: Array) -> Array:
        """Values as the lists have them: the nearest bfloat16 numbers, or as they are."""
        return to_bfloat16(values) if self.narrow else values

    def by_neuron(self) -> tuple[Array, Array, Array]:
        """The sorted lists in plain CSR: (indptr, rows, values)."""
        indptr, rows, values = self.lists()[3:6]
        if self.segments.n_slices == 1:
            return indptr, rows.astype(np.int32, copy=False), values
        return _cut(_whole(self.segments), self.segments, indptr, rows, values)

    def set_lists(self, indptr: Array, rows: Array, values: Array) -> None:
        """Take sorted lists in plain CSR."""
        if self.segments.n_slices == 1:
            lists = indptr.copy(), rows.astype(self.segments.row_type), values.copy()
        else:
            lists = _cut(self.segments, _whole(self.segments), indptr, rows, values)
        self.indptr, self.rows, self.values = lists

    def matrix(self, n_rows: int) -> sp.csr_array:
        """α as a CSR matrix (m, n), float64."""
        shape = (len(self.tail_len), n_rows)
        indptr, rows, values = self.by_neuron()
        main = sp.csr_array((to_float(values).astype(np.float64), rows, indptr), shape=shape)
        places = self._tail_places()
        tail_rows, tail_values = self.tail_rows[places], self.tail_values[places].astype(np.float64)
        neurons = np.repeat(np.arange(len(self.tail_len)), self.tail_len)
        tail = sp.coo_array((tail_values, (neurons, tail_rows)), shape=shape)
        return sp.csr_array((main + tail.tocsr()) * self.scale)

    def arrays(self) -> dict[str, Array]:
        """All of it under plain names; some of these arrays change with the next step."""
        indptr, rows, values = self.by_neuron()
        places = self._tail_places()
        bits = SLICE_BITS[1] if self.segments.slice_bits == WHOLE else self.segments.slice_bits
        return {
            "indptr": indptr, "rows": rows, "values": values, "tail_first": self.tail_first, "tail_len": self.tail_len,
            "tail_rows": self.tail_rows[places], "tail_values": self.tail_values[places],
            "slice_bits": np.array([bits]), "scale": np.array([self.scale]),
            **({"steps": np.array([self.steps])} if self.narrow else {}),
        }  # fmt: skip

    def _tail_places(self) -> NDArray[np.int64]:
        """Places in use, tail after tail."""
        before = np.cumsum(self.tail_len) - self.tail_len
        return np.arange(self.tail_len.sum()) + np.repeat(self.tail_first[:-1] - before, self.tail_len)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Array], segments: Segments, n_rows: int, network: TwoLayer) -> Coefficients:
        """What `arrays` gave. ValueError where it does not fit this many neurons and rows."""
        n_hidden, dtype = len(segments.first), network.dtype
        indptr = check_array("indptr", arrays, (n_hidden + 1,), "i").astype(np.int64, copy=False)
        if indptr[0] != 0 or (np.diff(indptr) < 0).any():
            raise ValueError("array 'indptr' does not grow from 0")
        rows = check_array("rows", arrays, (int(indptr[-1]),), "i")
        values = check_array("values", arrays, (int(indptr[-1]),), "u" if network.narrow else "f")
        values = values.astype(np.uint16 if network.narrow else dtype, copy=False)
        if not np.isfinite(to_float(values)).all():
            raise ValueError("array 'values' contains NaN or infinity")
        tail_first = check_array("tail_first", arrays, (n_hidden + 1,), "i").astype(np.int64)
        tail_len = check_array("tail_len", arrays, (n_hidden,), "i").astype(np.int64)
        room, most = np.diff(tail_first), TAIL + STEPS * max(n_rows, REPEATED)
        if tail_first[0] != 0 or (tail_len < 0).any() or (tail_len > room).any() or room.max() > most:
            raise ValueError("array 'tail_len' does not fit the tails")
        tail_rows = check_array("tail_rows", arrays, (int(tail_len.sum()),), "i")
        tail_values = check_array("tail_values", arrays, tail_rows.shape, "f").astype(dtype)
        if any(len(r) and not 0 <= r.min() <= r.max() < n_rows for r in (rows, tail_rows)):
            raise ValueError(f"coefficients point outside the {n_rows} training rows")
        inside = np.ones(max(len(rows) - 1, 0), dtype=bool)  # of a list: not from one neuron's last to the next one's first
        inside[indptr[1:-1][(indptr[1:-1] > 0) & (indptr[1:-1] < len(rows))] - 1] = False
        if (np.diff(rows)[inside] <= 0).any():
            raise ValueError("array 'rows' is not sorted within each neuron's list")
        if _twice(indptr, rows, tail_len, tail_rows):
            raise ValueError("array 'tail_rows' has a row that is in the same neuron's list, too")
        scale = float(check_array("scale", arrays, (1,), "f")[0])
        if not SMALLEST_SCALE <= abs(scale) <= LARGEST_SCALE:
            raise ValueError(f"array 'scale' holds {scale}, not a factor")
        rows = rows.astype(np.int32, copy=False)
        c = cls.empty(segments.cut(int(check_array("slice_bits", arrays, (1,), "i")[0])), network)
        c.set_lists(indptr, rows, values)
        c.tail_first, c.tail_len = tail_first, tail_len
        c.tail_rows, c.tail_values = np.zeros(tail_first[-1], dtype=np.int32), np.zeros(tail_first[-1], dtype=dtype)
        places = c._tail_places()
        c.tail_rows[places], c.tail_values[places] = tail_rows, tail_values
        c.scale = scale
        c.steps = int(check_array("steps", arrays, (1,), "i")[0]) if network.narrow else 0
        return c


def _twice(indptr: Array, rows: Array, tail_len: Array, tail_rows: Array) -> bool:
    """Whether a neuron has a row both in its sorted list and in its tail. Cost: tail entries · ln(length of a list)."""
    ends = np.cumsum(tail_len)
    for r in np.flatnonzero((tail_len > 0) & (np.diff(indptr) > 0)):
        own, tail = rows[indptr[r] : indptr[r + 1]], tail_rows[ends[r] - tail_len[r] : ends[r]]
        place = np.searchsorted(own, tail)
        if (own[np.minimum(place, len(own) - 1)] == tail).any():
            return True
    return False


def _whole(segments: Segments) -> Segments:
    """One segment for each neuron: plain CSR."""
    return Segments.consecutive(len(segments.first), 1, WHOLE)


def _cut(to: Segments, own: Segments, indptr: Array, rows: Array, values: Array) -> tuple[Array, Array, Array]:
    """(indptr, rows, values) of the same coefficients in other segments."""
    sizes = np.empty(len(to.first) * to.n_slices, dtype=np.int64)
    kernels.cut_sizes(sizes, *to.arguments(), *own.arguments(), indptr, rows)
    lists = _room(sizes, to, values.dtype)
    kernels.cut(*lists, *to.arguments(), *own.arguments(), indptr, rows, values)
    return lists


def _room(sizes: NDArray[np.int64], segments: Segments, dtype: Any) -> tuple[Array, Array, Array]:
    """(indptr, rows, values) for segments of these sizes."""
    indptr = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=indptr[1:])
    return indptr, np.empty(indptr[-1], dtype=segments.row_type), np.empty(indptr[-1], dtype=dtype)
