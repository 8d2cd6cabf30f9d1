"""How each neuron's list of coefficients is cut into slices, and where the slices lie."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from kronsgd.kernels.scan import GROUP
from kronsgd.validation import check_count

__all__ = ["Segments", "bits_for"]

Index = NDArray[np.int64]
SHORT = 16  # bits that a row's place fits into, in slices of at most so many bits
SLICE_BITS = (7, 11)  # 128 to 2,048 rows: 32 to 512 KiB of a panel of 64 lanes of float32, within a first or second-level cache
ENTRIES = 80  # most in a segment on average; denser lists take shorter slices, which stay in a nearer cache


@dataclass(frozen=True)
class Segments:
    """Neuron r keeps its rows of slice k in segment first[r] + k·stride[r]. One slice makes it plain CSR.

    A group of neurons reads slice after slice of the panel, all its neurons on one slice before the next: segments lie in
    that order, so that the lists are read from end to end.
    """

    first: Index  # (m,)
    stride: Index  # (m,): number of neurons in the group
    slice_bits: int  # a slice has 2^slice_bits rows
    n_slices: int
    n_rows: int
    bounds: Index | None = None  # of neuron blocks; None: slices stay as they are

    @classmethod
    def of(cls, bounds: Index, n_rows: int, slice_bits: int | None = None) -> Segments:
        """For neuron blocks with these bounds; at first with the longest slices. ValueError for more rows than have numbers."""
        _check_rows(n_rows)
        bits = SLICE_BITS[1] if slice_bits is None else slice_bits
        n_slices = max(n_rows - 1 >> bits, 0) + 1
        edges = np.append(bounds[:-1:GROUP], bounds[-1])
        sizes = np.diff(edges)
        start, stride = np.repeat(edges[:-1], sizes), np.repeat(sizes, sizes)
        return cls(start * (n_slices - 1) + np.arange(bounds[-1]), stride, bits, n_slices, n_rows, bounds)

    @classmethod
    def consecutive(cls, n_hidden: int, n_slices: int, slice_bits: int) -> Segments:
        """Plain CSR, each neuron's list from slice to slice."""
        stride = np.ones(n_hidden, dtype=np.int64)
        return cls(np.arange(n_hidden) * n_slices, stride, slice_bits, n_slices, n_slices << slice_bits)

    def over(self, n_rows: int) -> Segments:
        """For so many rows of the same neuron blocks, in slices of the same length. ValueError for more than have numbers."""
        _check_rows(n_rows)
        if self.bounds is not None and max(n_rows - 1 >> self.slice_bits, 0) + 1 != self.n_slices:
            return Segments.of(self.bounds, n_rows, self.slice_bits)
        return replace(self, n_rows=n_rows)

    def cut(self, slice_bits: int) -> Segments:
        """The same rows in other slices. ValueError for slices of a length that cannot be."""
        if self.bounds is None or not SLICE_BITS[0] <= slice_bits <= SLICE_BITS[1]:
            if slice_bits != self.slice_bits:
                raise ValueError(f"slices of 2^{slice_bits} rows do not fit these coefficients")
            return self
        return Segments.of(self.bounds, self.n_rows, slice_bits)

    def cut_for(self, share: float, itemsize: int) -> Segments:
        """The same rows in slices that suit coefficients at this share of the pairs of rows and neurons."""
        return self if self.bounds is None else self.cut(bits_for(share, itemsize))

    def arguments(self) -> tuple[Index, Index, int]:
        """(first, stride, slice bits), as kernels take them."""
        return self.first, self.stride, self.slice_bits

    @property
    def row_type(self) -> type[np.uint16] | type[np.int32]:
        """Of a row's place within its slice: 6 instead of 8 bytes for a coefficient are faster to read, too."""
        return np.uint16 if self.slice_bits <= SHORT else np.int32

    @property
    def table(self) -> Index:
        """Segment of each neuron and slice. Shape: (m, slices)."""
        return np.asarray(self.first[:, None] + np.arange(self.n_slices) * self.stride[:, None])


def _check_rows(n_rows: int) -> None:
    check_count("training rows", n_rows, 'train on fewer rows, or on pairs with engine="grid"')


def bits_for(share: float, itemsize: int) -> int:
    """Of slices where this share of the pairs of rows and neurons has a coefficient: long, but shorter for denser lists."""
    low, high = SLICE_BITS
    longest = high - (itemsize > 4 and high > low)
    return min(max(int(math.log2(ENTRIES / max(share, 1e-9))), low), longest)
