"""The scan engine's loops: sparse coefficients times panels, fired sets, what a step adds, compaction.

Names follow the paper: z = ⟨w_r, x_i⟩, b the threshold, alpha the coefficients, K a panel of inner products.
Neuron r's coefficients are sorted lists (indptr, rows, alpha), one for each slice of the panel's rows, plus a short unsorted
tail of rows new since the last compaction. Its list for slice k is segment first[r] + k·stride[r]: segments lie in the order
in which `forward` reads them. Lists name a row by its place in the slice, tails by its number. Their numbers
may be bfloat16 (see `kernels.bfloat16`). Neuron blocks are the unit of
parallel work: a thread writes only what its blocks own, and every sum runs in an order that does not depend on the number of
threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.bfloat16 import HALF, rounded
from kronsgd.kernels.lists import add_entry
from kronsgd.kernels.simd import add_rows, lowest_bit, rectify

__all__ = [
    "GROUP", "LANES", "compact", "cut", "cut_sizes", "forward", "have_room", "merged_sizes", "neuron_gradient", "record",
]  # fmt: skip

LANES = (16, 64)  # widths with compiled code of their own: a row of that many batch columns stays in registers
GROUP = 4  # blocks that walk the panel together, the unit of parallel work: fewer would walk it more often, more idle threads


def _make_forward(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")  # fused multiply-add; NaN stays visible
    def forward_tile(
        z: Any, fired: Any, partial: Any, K: Any, new_fired: Any, new_slopes: Any, new_a: Any, new_rows: Any, salt: Any,
        first: Any, stride: Any, slice_bits: int, indptr: Any, rows: Any, alpha: Any, tail_first: Any, tail_len: Any,
        tail_rows: Any, tail_alpha: Any, bounds: Any, a: Any, scale: Any, inverse: Any, b: Any, size: int,
    ) -> None:  # fmt: skip
        n_blocks, n_slices = len(bounds) - 1, (len(indptr) - 1) // len(first)
        in_use, in_slice = ~np.uint64(0) >> np.uint64(64 - size), _slice_bits_of(new_rows, new_slopes, slice_bits, n_slices)
        for group in prange((n_blocks + GROUP - 1) // GROUP):
            low, high = group * GROUP, min((group + 1) * GROUP, n_blocks)
            for r in range(bounds[low], bounds[high]):
                for s in range(size):
                    z[r, s] = (z[r, s] - b) * inverse
                for s in range(size, width):
                    z[r, s] = 0
            for k in range(n_slices):  # of the panel, kept in cache
                for r in range(bounds[low], bounds[high]):
                    segment = first[r] + k * stride[r]
                    for t in range(len(new_fired)):
                        bits = new_fired[t, r] & in_slice[k, t]
                        if bits != 0:
                            _add(bits, t, r, new_slopes, new_a, new_rows, first, stride, slice_bits, indptr, rows, alpha,
                                 tail_first, tail_len, tail_rows, tail_alpha, salt)  # fmt: skip
                    add_rows(width, z, r * width, K, rows, alpha, indptr[segment], indptr[segment + 1], k << slice_bits)
            for block in range(low, high):
                out = partial[block]
                out[:] = 0
                for r in range(bounds[block], bounds[block + 1]):
                    start = tail_first[r]
                    add_rows(width, z, r * width, K, tail_rows, tail_alpha, start, start + tail_len[r], 0)
                    fired[r] = rectify(width, z, r * width, scale) & in_use
                    for c in range(a.shape[1]):
                        weight = a[r, c]
                        for s in range(width):
                            out[c, s] += weight * z[r, s]

    return forward_tile


@njit(cache=True, error_model="numpy")
def _slice_bits_of(batch: Any, slopes: Any, slice_bits: int, n_slices: int) -> Any:  # pragma: no cover
    """[k, t]: which rows of tile t of the batch lie in slice k, as bits."""
    n_tiles, lanes = slopes.shape[0], slopes.shape[2]
    out = np.zeros((n_slices, n_tiles), np.uint64)
    for i in range(len(batch)):
        out[batch[i] >> slice_bits, i // lanes] |= np.uint64(1) << np.uint64(i % lanes)
    return out


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _add(
    bits: Any, t: int, r: int, slopes: Any, a: Any, batch: Any, first: Any, stride: Any, slice_bits: int, indptr: Any,
    rows: Any, alpha: Any, tail_first: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any, salt: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, i] += Σ_c slopes[t, c, s]·a[r, c] for the rows i = batch[t·L + s] of the bits s of one tile and neuron.

    Inlined, because a call would pass ten arrays of seven words each for a pair or two.
    """
    within = (1 << slice_bits) - 1
    while bits != 0:
        s = lowest_bit(bits)
        bits &= bits - np.uint64(1)
        value = slopes[t, 0, s] * a[r, 0]
        for c in range(1, a.shape[1]):
            value += slopes[t, c, s] * a[r, c]
        i = batch[t * slopes.shape[2] + s]
        segment = first[r] + (i >> slice_bits) * stride[r]
        low, high = indptr[segment], indptr[segment + 1]
        place = i & within
        guess = low + ((high - low) * place >> slice_bits)
        add_entry(value, i, place, r, low, high, guess, rows, alpha, tail_first, tail_len, tail_rows, tail_alpha, salt)


_FORWARD = {lanes: _make_forward(lanes) for lanes in LANES}


def forward(z: Any, fired: Any, partial: Any, K: Any, *arguments: Any) -> None:
    """One tile of the batch, in place: z[r, s] becomes max(z + scale·Σ_p alpha[p]·K[rows[p], s] − b, 0).

    Also which rows of the batch each neuron fires on, as bits, and each block's part of the outputs. Each group of blocks
    walks the panel in slices that stay in a core's cache, all its neurons on one slice before the next. What the step before
    has added (see `record`) goes into the lists as they pass by.
    Shape: z (m, L), fired (m,) uint64, partial (blocks, C, L), K (n, L), the arguments of `record`, bounds (blocks + 1,),
    a (m, C). Cost: 2·L·(nnz + m·C) flops and that of `record`; free of d.
    """
    _FORWARD[K.shape[1]](z, fired, partial, K, *arguments)


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
    fired: Any, slopes: Any, a: Any, batch: Any, salt: Any, first: Any, stride: Any, slice_bits: int, indptr: Any, rows: Any,
    alpha: Any, tail_first: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, batch[i]] += Σ_c slopes[t, c, s]·a[r, c] for every fired pair (i = t·L + s).

    A row already in one of neuron r's sorted lists is looked for with `lists.find`; a new one goes to the tail, which must have
    room. Slice by slice, as `forward` does it, so that both give the same bits.
    Shape: fired (T, m) bits, slopes (T, C, L), a (m, C), batch (S,), first and stride (m,), lists (segments + 1,), (nnz,),
    (nnz,), tails (m + 1,), (m,), (room,), (room,). Cost: slices·T·m + fired pairs · (2·C + ln(nnz per neuron)).
    """
    in_slice = _slice_bits_of(batch, slopes, slice_bits, (len(indptr) - 1) // len(first))
    for r in prange(len(first)):
        for k in range(len(in_slice)):
            for t in range(len(fired)):
                _add(fired[t, r] & in_slice[k, t], t, r, slopes, a, batch, first, stride, slice_bits, indptr, rows, alpha,
                     tail_first, tail_len, tail_rows, tail_alpha, salt)  # fmt: skip


@njit(cache=True, error_model="numpy")
def have_room(tail_first: Any, tail_len: Any, added: Any) -> bool:  # pragma: no cover
    """Whether every neuron's tail takes so many more entries. Shape: (m + 1,), (m,), (m,). Cost: m."""
    fits = True
    for r in range(len(added)):
        fits &= tail_len[r] + added[r] <= tail_first[r + 1] - tail_first[r]
    return fits


@njit(cache=True, parallel=True, error_model="numpy")
def merged_sizes(
    sizes: Any, order: Any, first: Any, stride: Any, slice_bits: int, indptr: Any, tail_first: Any, tail_len: Any,
    tail_rows: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """sizes[segment] = its length once the tails are merged in; order sorts each neuron's tail by row, counted from its start.

    Shape: sizes (segments,), order (room,). Cost: segments + tail entries · ln(tail).
    """
    for segment in prange(len(sizes)):
        sizes[segment] = indptr[segment + 1] - indptr[segment]
    for r in prange(len(tail_len)):
        start, end = tail_first[r], tail_first[r] + tail_len[r]
        order[start:end] = np.argsort(tail_rows[start:end], kind="mergesort")
        for q in range(start, end):
            i = tail_rows[start + order[q]]
            if q == start or i != tail_rows[start + order[q - 1]]:
                sizes[first[r] + (i >> slice_bits) * stride[r]] += 1


@njit(cache=True, parallel=True, error_model="numpy")
def compact(
    new_indptr: Any, new_rows: Any, new_alpha: Any, order: Any, first: Any, stride: Any, slice_bits: int, indptr: Any,
    rows: Any, alpha: Any, tail_first: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """Merge every neuron's tail into its sorted lists, adding up tail entries of the same row: the nearest bfloat16 number.

    Shape: lists (segments + 1,), (nnz,), (nnz,), tails (m + 1,), (m,), (room,), (room,). Cost: nnz, copied run by run, and
    tail entries · ln(length of a list).
    """
    for r in prange(len(tail_len)):
        start = tail_first[r]
        q, last = start, start + tail_len[r]
        for k in range((len(indptr) - 1) // len(tail_len)):
            segment, begin, end = first[r] + k * stride[r], k << slice_bits, (k + 1) << slice_bits
            p, stop, out = indptr[segment], indptr[segment + 1], new_indptr[segment]
            while q < last and tail_rows[start + order[q]] < end:
                j = tail_rows[start + order[q]]
                n = np.searchsorted(rows[p:stop], j - begin)
                for c in range(n):
                    new_rows[out + c], new_alpha[out + c] = rows[p + c], alpha[p + c]
                p, out = p + n, out + n
                value = tail_alpha[start + order[q]]
                q += 1
                while q < last and tail_rows[start + order[q]] == j:
                    value += tail_alpha[start + order[q]]
                    q += 1
                new_rows[out], new_alpha[out] = j - begin, rounded(new_alpha[out], value, HALF)
                out += 1
            for c in range(stop - p):
                new_rows[out + c], new_alpha[out + c] = rows[p + c], alpha[p + c]


@njit(cache=True, parallel=True, error_model="numpy")
def cut_sizes(
    sizes: Any, new_first: Any, new_stride: Any, new_bits: int, first: Any, stride: Any, bits: int, indptr: Any, rows: Any
) -> None:  # pragma: no cover
    """sizes[segment] = number of the lists' rows that new segments take. Shape: sizes (new segments,). Cost: nnz."""
    m = len(first)
    for r in prange(m):
        for k in range(len(sizes) // m):
            sizes[new_first[r] + k * new_stride[r]] = 0
        for k in range((len(indptr) - 1) // m):
            segment = first[r] + k * stride[r]
            for p in range(indptr[segment], indptr[segment + 1]):
                sizes[new_first[r] + (((k << bits) + rows[p]) >> new_bits) * new_stride[r]] += 1


@njit(cache=True, parallel=True, error_model="numpy")
def cut(
    new_indptr: Any, new_rows: Any, new_alpha: Any, new_first: Any, new_stride: Any, new_bits: int, first: Any, stride: Any,
    bits: int, indptr: Any, rows: Any, alpha: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """The same lists in new segments. Shape: lists (segments + 1,), (nnz,), (nnz,). Cost: nnz."""
    m = len(first)
    for r in prange(m):
        now, out = -1, 0
        for k in range((len(indptr) - 1) // m):
            segment = first[r] + k * stride[r]
            for p in range(indptr[segment], indptr[segment + 1]):
                i = (k << bits) + rows[p]
                if i >> new_bits != now:
                    now = i >> new_bits
                    out = new_indptr[new_first[r] + now * new_stride[r]]
                new_rows[out], new_alpha[out] = i - (now << new_bits), alpha[p]
                out += 1
