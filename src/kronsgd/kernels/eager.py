"""The eager engine's loops: stored inner products are read, moved along training rows, and made anew from coefficients.

`moved` has a row of numbers for each neuron, so that an update adds to memory that lies together; the forward pass picks one
number from each row. A thread writes only the neurons it owns.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.simd import add_rows, lowest_bit, prefetch

__all__ = ["COLUMNS", "fill", "forward", "update"]

GROUPS = 16  # of blocks: the units of parallel work
AHEAD = 16  # neurons between asking for a number of theirs, which caches rarely hold, and using it
COLUMNS = 64  # made at a time
TILE = 2048  # numbers that stay in the first-level cache while all rows of a batch are added to them


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def forward(
    z: Any, fired: Any, partial: Any, moved: Any, batch: Any, bounds: Any, a: Any, scale: Any, b: Any
) -> None:  # pragma: no cover
    """In place: z[t, r, s] becomes max(z + scale·moved[r, i] − b, 0) at row i = batch[t·L + s]; NaN stays NaN.

    Also which rows of the batch each neuron fires on, as bits, and each block's part of the outputs.
    Shape: z (T, m, L), fired (T, m), partial (T, blocks, C, L), moved (m, ≥ n), batch (S,), bounds (blocks + 1,), a (m, C).
    Cost: S·m cache lines, 2·C flops for each fired pair.
    """
    n_blocks, lanes, room = len(bounds) - 1, z.shape[2], moved.shape[1]
    flat, last = moved.reshape(moved.size), moved.shape[0] - 1
    for group in prange(GROUPS):
        for block in range(group * n_blocks // GROUPS, (group + 1) * n_blocks // GROUPS):
            partial[:, block] = 0
            for r in range(bounds[block], bounds[block + 1]):
                ahead = min(r + AHEAD, last) * room
                for t in range(len(z)):
                    fired[t, r] = 0
                    for s in range(min(lanes, len(batch) - t * lanes)):
                        i = batch[t * lanes + s]
                        prefetch(flat, ahead + i)
                        value = z[t, r, s] + scale * moved[r, i] - b
                        fired[t, r] |= np.uint64(value > 0) << np.uint64(s)
                        if value <= 0:
                            value = 0
                        z[t, r, s] = value
                        if value != 0:
                            for c in range(a.shape[1]):
                                partial[t, block, c, s] += a[r, c] * value


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def update(moved: Any, fired: Any, slopes: Any, a: Any, K: Any) -> None:  # pragma: no cover
    """moved[r, :n] += Σ_{t,s} (Σ_c slopes[t, c, s]·a[r, c])·K[t·L + s] over the rows that neuron r fires on.

    Shape: moved (m, ≥ n), fired (T, m) bits, slopes (T, C, L), a (m, C), K (S, n). Cost: 2·n flops for each fired pair.
    """
    n, lanes = K.shape[1], slopes.shape[2]
    some = np.zeros(fired.shape[1], np.uint64)
    for t in range(len(fired)):
        some |= fired[t]
    firing = np.flatnonzero(some)
    for k in prange(len(firing)):
        r, count = firing[k], 0
        own, value = np.empty(len(K), np.int64), np.zeros(len(K), moved.dtype)
        for t in range(len(fired)):
            bits = fired[t, r]
            while bits != 0:
                s = lowest_bit(bits)
                bits &= bits - np.uint64(1)
                own[count] = t * lanes + s
                for c in range(a.shape[1]):
                    value[count] += slopes[t, c, s] * a[r, c]
                count += 1
        for first in range(0, n, TILE):
            _add(moved[r, first : min(first + TILE, n)], K, first, own, value, count)


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _add(out: Any, K: Any, first: Any, own: Any, value: Any, count: Any) -> None:  # pragma: no cover
    """out[i] += Σ_{p < count} value[p]·K[own[p], first + i]: four rows at a time load and store `out` a quarter as often."""
    n = len(out)
    for p in range(0, count - 3, 4):
        x0, x1 = K[own[p], first : first + n], K[own[p + 1], first : first + n]
        x2, x3 = K[own[p + 2], first : first + n], K[own[p + 3], first : first + n]
        c0, c1, c2, c3 = value[p], value[p + 1], value[p + 2], value[p + 3]
        for i in range(n):
            out[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])
    for p in range(count - count % 4, count):
        x0, c0 = K[own[p], first : first + n], value[p]
        for i in range(n):
            out[i] += c0 * x0[i]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def fill(
    moved: Any, K: Any, first: Any, stride: Any, slice_bits: int, indptr: Any, rows: Any, alpha: Any, tail_first: Any,
    tail_len: Any, tail_rows: Any, tail_alpha: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """moved[r, s] = Σ_p alpha[p]·K[rows[p], s] over neuron r's lists and its tail.

    Shape: moved (m, ≤ COLUMNS), K (n, COLUMNS), lists and tails as in kernels.scan. Cost: 2·COLUMNS·nnz flops.
    """
    n_slices = (len(indptr) - 1) // len(first)
    for r in prange(len(moved)):
        sums = np.zeros(COLUMNS, moved.dtype)
        for k in range(n_slices):
            segment = first[r] + k * stride[r]
            add_rows(COLUMNS, sums, 0, K, rows, alpha, indptr[segment], indptr[segment + 1], k << slice_bits)
        add_rows(COLUMNS, sums, 0, K, tail_rows, tail_alpha, tail_first[r], tail_first[r] + tail_len[r], 0)
        for s in range(moved.shape[1]):
            moved[r, s] = sums[s]
