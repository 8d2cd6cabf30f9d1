"""The scan engine's loops: sparse coefficients times panels, fired sets, coefficients of a step, compaction.

Names follow the paper: z = ⟨w_r, x_i⟩, b the threshold, alpha the coefficients, K a panel of inner products.
Neuron r's coefficients are a sorted list (indptr, rows, alpha) plus a short unsorted tail of rows new since the last
compaction. Neuron blocks are the unit of parallel work: a thread writes only what its blocks own, and every sum runs in
an order that does not depend on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

__all__ = ["LANES", "accumulate", "activate", "compact", "merged_sizes", "neuron_gradient", "record", "step_coefficients"]

LANES = (16, 64)  # widths with compiled code of their own: the inner loops unroll over them
GROUPS = 16  # of blocks: the units of parallel work; more would walk the panel more often, fewer would idle threads
PANEL_ROWS = 1024  # of a slice: 256 KiB at 64 lanes of float32, a part of a core's second-level cache


def _make_accumulate(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"})  # fused multiply-add; NaN stays visible
    def accumulate_panel(z: Any, cursor: Any, K: Any, indptr: Any, rows: Any, alpha: Any, bounds: Any) -> None:
        n_blocks = len(bounds) - 1
        for group in prange(GROUPS):
            first, beyond = bounds[group * n_blocks // GROUPS], bounds[(group + 1) * n_blocks // GROUPS]
            for r in range(first, beyond):
                cursor[r] = indptr[r]
                for s in range(width):
                    z[r, s] = 0
            for end in range(PANEL_ROWS, K.shape[0] + PANEL_ROWS, PANEL_ROWS):  # a slice of the panel, kept in cache
                for r in range(first, beyond):
                    start, beyond_list = cursor[r], indptr[r + 1]
                    stop = start
                    while stop < beyond_list and rows[stop] < end:
                        stop += 1
                    acc = np.zeros(width, K.dtype)  # allocated here, so that it lives in registers
                    for p in range(start, stop):
                        value, j = alpha[p], rows[p]
                        for s in range(width):
                            acc[s] += value * K[j, s]
                    for s in range(width):
                        z[r, s] += acc[s]
                    cursor[r] = stop

    return accumulate_panel


def _make_activate(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"})
    def activate_block(
        z: Any, partial: Any, fired: Any, K: Any, z0: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any, bounds: Any,
        a: Any, scale: Any, b: Any, size: int, tile: int,
    ) -> None:  # fmt: skip
        for block in prange(len(bounds) - 1):
            count = 0
            out = partial[block]
            out[:] = 0
            for r in range(bounds[block], bounds[block + 1]):
                acc = np.empty(width, K.dtype)
                for s in range(width):
                    acc[s] = z[r, s]
                for p in range(tail_len[r]):
                    value, j = tail_alpha[r, p], tail_rows[r, p]
                    for s in range(width):
                        acc[s] += value * K[j, s]
                for s in range(size):
                    excess = z0[tile * width + s, r] + scale * acc[s] - b
                    if excess <= 0:
                        z[r, s] = 0
                    else:
                        z[r, s] = excess
                        count += 1
                for s in range(size, width):
                    z[r, s] = 0
                for c in range(a.shape[1]):
                    weight = a[r, c]
                    for s in range(width):
                        out[c, s] += weight * z[r, s]
            fired[block] = count

    return activate_block


_ACCUMULATE = {lanes: _make_accumulate(lanes) for lanes in LANES}
_ACTIVATE = {lanes: _make_activate(lanes) for lanes in LANES}


def accumulate(z: Any, cursor: Any, K: Any, indptr: Any, rows: Any, alpha: Any, bounds: Any) -> None:
    """One tile of the batch: z[r, s] = Σ_p alpha[p]·K[rows[p], s] over neuron r's sorted list.

    Shape: z (m, L), cursor (m,) scratch, K (n, L), lists (m + 1,), (nnz,), (nnz,). Cost: 2·L·nnz flops; free of d.
    Each group of blocks walks the panel in slices that stay in a core's cache, all its neurons on one slice before the next.
    """
    _ACCUMULATE[K.shape[1]](z, cursor, K, indptr, rows, alpha, bounds)


def activate(z: Any, partial: Any, fired: Any, K: Any, *arguments: Any) -> None:
    """In place: z[r, s] becomes max(z0 + scale·(z + the tail's sum) − b, 0); partial outputs and fired pairs of each block.

    Shape: z (m, L), partial (blocks, C, L), fired (blocks,), K (n, L), z0 (S, m), tails (m, T).
    Cost: 2·L·(tail entries + m·C) flops; free of d. NaN stays NaN, so that divergence shows.
    """
    _ACTIVATE[K.shape[1]](z, partial, fired, K, *arguments)


@njit(cache=True, parallel=True)
def step_coefficients(hidden: Any, slopes: Any, a: Any, bounds: Any) -> None:  # pragma: no cover
    """In place: hidden[t, r, s] becomes Σ_c slopes[t, c, s]·a[r, c] where the neuron fired, and stays 0 elsewhere.

    Shape: hidden (T, m, L), slopes (T, C, L), a (m, C). Cost: 2·T·m·L·C; does not depend on n or d.
    """
    for block in prange(len(bounds) - 1):
        for t in range(hidden.shape[0]):
            for r in range(bounds[block], bounds[block + 1]):
                for s in range(hidden.shape[2]):
                    if hidden[t, r, s] > 0:
                        total = slopes[t, 0, s] * a[r, 0]
                        for c in range(1, a.shape[1]):
                            total += slopes[t, c, s] * a[r, c]
                        hidden[t, r, s] = total


@njit(cache=True, parallel=True)
def neuron_gradient(out: Any, hidden: Any, slopes: Any, bounds: Any) -> None:  # pragma: no cover
    """out[r, c] = Σ_{t,s} hidden[t, r, s]·slopes[t, c, s]: the gradient of the output weights.

    Shape: out (m, C), hidden (T, m, L), slopes (T, C, L). Cost: 2·T·m·L·C.
    """
    for block in prange(len(bounds) - 1):
        for r in range(bounds[block], bounds[block + 1]):
            for c in range(out.shape[1]):
                out[r, c] = 0
                for t in range(hidden.shape[0]):
                    for s in range(hidden.shape[2]):
                        out[r, c] += hidden[t, r, s] * slopes[t, c, s]


@njit(cache=True, parallel=True)
def record(
    coefficients: Any, batch: Any, indptr: Any, rows: Any, alpha: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any,
    bounds: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, batch[i]] += coefficients[t, r, s] for every non-zero coefficient (i = t·L + s).

    A row already in neuron r's sorted list is found by bisection; a new one goes to the tail, which must have room.
    Shape: coefficients (T, m, L), batch (S,). Cost: T·m·L + fired pairs · ln(nnz per neuron).
    """
    lanes = coefficients.shape[2]
    for block in prange(len(bounds) - 1):
        for t in range(coefficients.shape[0]):
            size = min(lanes, len(batch) - t * lanes)
            for r in range(bounds[block], bounds[block + 1]):
                for s in range(size):
                    value = coefficients[t, r, s]
                    if value == 0:
                        continue
                    i = batch[t * lanes + s]
                    low, high = indptr[r], indptr[r + 1]
                    while low < high:
                        middle = (low + high) // 2
                        if rows[middle] < i:
                            low = middle + 1
                        else:
                            high = middle
                    if low < indptr[r + 1] and rows[low] == i:
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
