"""The scan engine's loops: sparse coefficients times panels, fired sets, what a step adds, compaction.

Names follow the paper: z = ⟨w_r, x_i⟩, b the threshold, alpha the coefficients, K a panel of inner products.
Neuron r's coefficients are a sorted list (indptr, rows, alpha) plus a short unsorted tail of rows new since the last
compaction. Neuron blocks are the unit of parallel work: a thread writes only what its blocks own, and every sum runs in
an order that does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.simd import add_rows, lowest_bit, rectify

__all__ = ["LANES", "compact", "forward", "merged_sizes", "neuron_gradient", "record"]

LANES = (16, 64)  # widths with compiled code of their own: a row of that many batch columns stays in registers
GROUPS = 16  # of blocks: the units of parallel work; more would walk the panel more often, fewer would idle threads
PANEL_ROWS = 2048  # of a slice: 512 KiB at 64 lanes of float32, half of a core's second-level cache


def _make_forward(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")  # fused multiply-add; NaN stays visible
    def forward_tile(
        z: Any, fired: Any, partial: Any, cursor: Any, K: Any, indptr: Any, rows: Any, alpha: Any, tail_len: Any,
        tail_rows: Any, tail_alpha: Any, bounds: Any, a: Any, scale: Any, inverse: Any, b: Any, size: int,
    ) -> None:  # fmt: skip
        n, n_blocks, room = K.shape[0], len(bounds) - 1, tail_rows.shape[1]
        tail_index, tail_value = tail_rows.ravel(), tail_alpha.ravel()
        in_use = ~np.uint64(0) >> np.uint64(64 - size)
        for group in prange(GROUPS):
            low, high = group * n_blocks // GROUPS, (group + 1) * n_blocks // GROUPS
            for r in range(bounds[low], bounds[high]):
                cursor[r] = indptr[r]
                for s in range(size):
                    z[r, s] = (z[r, s] - b) * inverse
                for s in range(size, width):
                    z[r, s] = 0
                add_rows(width, z, r * width, K, tail_index, tail_value, r * room, r * room + tail_len[r], n)
            for end in range(PANEL_ROWS, n + PANEL_ROWS, PANEL_ROWS):  # a slice of the panel, kept in cache
                for r in range(bounds[low], bounds[high]):
                    cursor[r] = add_rows(width, z, r * width, K, rows, alpha, cursor[r], indptr[r + 1], end)
            for block in range(low, high):
                out = partial[block]
                out[:] = 0
                for r in range(bounds[block], bounds[block + 1]):
                    fired[r] = rectify(width, z, r * width, scale) & in_use
                    for c in range(a.shape[1]):
                        weight = a[r, c]
                        for s in range(width):
                            out[c, s] += weight * z[r, s]

    return forward_tile


_FORWARD = {lanes: _make_forward(lanes) for lanes in LANES}


def forward(z: Any, fired: Any, partial: Any, cursor: Any, K: Any, *arguments: Any) -> None:
    """One tile of the batch, in place: z[r, s] becomes max(z + scale·Σ_p alpha[p]·K[rows[p], s] − b, 0).

    Also which rows of the batch each neuron fires on, as bits, and each block's part of the outputs. Each group of blocks
    walks the panel in slices that stay in a core's cache, all its neurons on one slice before the next.
    Shape: z (m, L), fired (m,) uint64, partial (blocks, C, L), cursor (m,) scratch, K (n, L), lists (m + 1,), (nnz,), (nnz,),
    tails (m,), (m, T), (m, T), bounds (blocks + 1,), a (m, C). Cost: 2·L·(nnz + m·C) flops; free of d.
    """
    _FORWARD[K.shape[1]](z, fired, partial, cursor, K, *arguments)


@njit(cache=True, parallel=True, error_model="numpy")
def neuron_gradient(out: Any, hidden: Any, fired: Any, slopes: Any, bounds: Any) -> None:  # pragma: no cover
    """out[r, c] = Σ_{t,s} hidden[t, r, s]·slopes[t, c, s]: the gradient of the output weights.

    Shape: out (m, C), hidden (T, m, L), fired (T, m) bits, slopes (T, C, L). Cost: 2·C flops for each fired pair.
    """
    for block in prange(len(bounds) - 1):
        for r in range(bounds[block], bounds[block + 1]):
            out[r, :] = 0
            for t in range(hidden.shape[0]):
                bits = fired[t, r]
                while bits != 0:
                    s = lowest_bit(bits)
                    bits &= bits - np.uint64(1)
                    for c in range(out.shape[1]):
                        out[r, c] += hidden[t, r, s] * slopes[t, c, s]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def record(
    fired: Any, slopes: Any, a: Any, batch: Any, indptr: Any, rows: Any, alpha: Any, tail_len: Any, tail_rows: Any,
    tail_alpha: Any, bounds: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, batch[i]] += Σ_c slopes[t, c, s]·a[r, c] for every fired pair (i = t·L + s).

    A row already in neuron r's sorted list is found by bisection; a new one goes to the tail, which must have room.
    Shape: fired (T, m) bits, slopes (T, C, L), a (m, C), batch (S,). Cost: T·m + fired pairs · (2·C + ln(nnz per neuron)).
    """
    lanes = slopes.shape[2]
    for block in prange(len(bounds) - 1):
        for t in range(fired.shape[0]):
            for r in range(bounds[block], bounds[block + 1]):
                bits = fired[t, r]
                while bits != 0:
                    s = lowest_bit(bits)
                    bits &= bits - np.uint64(1)
                    value = slopes[t, 0, s] * a[r, 0]
                    for c in range(1, a.shape[1]):
                        value += slopes[t, c, s] * a[r, c]
                    if value == 0:
                        continue
                    i, low, length = batch[t * lanes + s], indptr[r], indptr[r + 1] - indptr[r]
                    while length > 1:  # without branches, which would be mispredicted half of the time
                        half = length >> 1
                        low += half * np.int64(rows[low + half - 1] < i)
                        length -= half
                    if length == 1 and rows[low] == i:
                        alpha[low] += value
                    else:
                        tail_rows[r, tail_len[r]] = i
                        tail_alpha[r, tail_len[r]] = value
                        tail_len[r] += 1


@njit(cache=True, parallel=True)
def merged_sizes(sizes: Any, order: Any, indptr: Any, tail_len: Any, tail_rows: Any) -> None:  # pragma: no cover
    """sizes[r] = length of neuron r's list once its tail is merged in; order[r, :] sorts the tail by row (stable).

    Shape: sizes (m,), order (m, T). Cost: tail entries · ln(tail).
    """
    for r in prange(len(sizes)):
        n = tail_len[r]
        order[r, :n] = np.argsort(tail_rows[r, :n], kind="mergesort")
        distinct = 0
        for p in range(n):
            distinct += p == 0 or tail_rows[r, order[r, p]] != tail_rows[r, order[r, p - 1]]
        sizes[r] = indptr[r + 1] - indptr[r] + distinct


@njit(cache=True, parallel=True)
def compact(
    new_indptr: Any, new_rows: Any, new_alpha: Any, indptr: Any, rows: Any, alpha: Any, tail_len: Any, tail_rows: Any,
    tail_alpha: Any, order: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """Merge every neuron's tail into its sorted list, adding up tail entries of the same row, and empty the tail.

    Shape: lists (nnz,), tails (m, T). Cost: nnz, a fixed number of times per epoch.
    """
    for r in prange(len(tail_len)):
        p, q, out = indptr[r], 0, new_indptr[r]
        while p < indptr[r + 1] or q < tail_len[r]:
            if q == tail_len[r] or (p < indptr[r + 1] and rows[p] < tail_rows[r, order[r, q]]):
                new_rows[out] = rows[p]
                new_alpha[out] = alpha[p]
                p += 1
            else:
                j = tail_rows[r, order[r, q]]
                total = tail_alpha[r, order[r, q]]
                q += 1
                while q < tail_len[r] and tail_rows[r, order[r, q]] == j:
                    total += tail_alpha[r, order[r, q]]
                    q += 1
                new_rows[out] = j
                new_alpha[out] = total
            out += 1
        tail_len[r] = 0
