"""The grid engine's loops: a strip of half-contracted coefficients, blocks of pairs evaluated from it, and its upkeep.

Names follow the paper: z = ⟨w_r, x⟩, b the threshold, alpha the coefficients, A and B the inner products of the inner and
the outer entities. Cell (p, q) has the number p·2^bits + q, so that neuron r's cells of inner entity p are one segment of its
sorted lists, which name it by q; tails name it by its number. A strip holds h[r, p, s] = Σ_q alpha_r[p, q]·B[q, U_s] for
some outer entities U, a lane each; a tile row is an inner entity over the lanes of a strip. Neuron blocks are the unit of
parallel work, and no sum's order depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.lists import add_entry
from kronsgd.kernels.scan import LANES
from kronsgd.kernels.simd import add_products, add_rows, lowest_bit, prefetch, rectify

__all__ = ["activate", "build_strip", "record"]

ROWS = 4  # tile rows evaluated at once: 4 × 64 lanes of float32 are 16 registers of 512 bits


def _make_build_strip(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")  # fused multiply-add; NaN stays visible
    def build(
        h: Any, strip_start: Any, B: Any, start: Any, outer: Any, first: Any, stride: Any, bits: int, indptr: Any, rows: Any,
        alpha: Any, tail_first: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any, bounds: Any,
    ) -> None:  # fmt: skip
        n_inner = h.shape[1]
        for block in prange(len(bounds) - 1):
            for r in range(bounds[block], bounds[block + 1]):
                h[r] = 0
                for p in range(n_inner):
                    segment = first[r] + p * stride[r]
                    at = (r * n_inner + p) * width
                    add_rows(width, h, at, B, rows, alpha, indptr[segment], indptr[segment + 1], 0)
                for k in range(tail_first[r], tail_first[r] + tail_len[r]):
                    inner = np.int64(tail_rows[k]) >> bits
                    at = (r * n_inner + inner) * width
                    add_rows(width, h, at, B, tail_rows, tail_alpha, k, k + 1, -(inner << bits))
                for q in range(start.shape[1]):
                    for s in range(len(outer)):
                        strip_start[r, q, s] = start[r, q, outer[s]]
                    for s in range(len(outer), width):
                        strip_start[r, q, s] = 0

    return build


def _make_activate(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
    def evaluate(
        hidden: Any, fired: Any, partial: Any, h: Any, A: Any, strip_start: Any, start: Any, inner: Any, observed: Any,
        first: int, beyond: int, a: Any, scale: Any, inverse: Any, b: Any, bounds: Any,
    ) -> None:  # fmt: skip
        n_inner, n_rows = h.shape[1], hidden.shape[1]
        for block in prange(len(bounds) - 1):
            partial[block, :, first:beyond] = 0
            for r in range(bounds[block], bounds[block + 1]):
                for t in range(first, beyond):
                    for s in range(width):
                        hidden[r, t, s] = -b * inverse
                    for q in range(start.shape[1]):
                        factor = start[r, q, inner[t]] * inverse
                        for s in range(width):
                            hidden[r, t, s] += factor * strip_start[r, q, s]
                t = first
                while t + ROWS <= beyond:
                    add_products(width, ROWS, hidden, (r * n_rows + t) * width, A, t, n_rows, h, r * n_inner * width, n_inner)
                    t += ROWS
                while t < beyond:
                    add_products(width, 1, hidden, (r * n_rows + t) * width, A, t, n_rows, h, r * n_inner * width, n_inner)
                    t += 1
                for t in range(first, beyond):
                    fired[r, t] = rectify(width, hidden, (r * n_rows + t) * width, scale) & observed[t]
                for c in range(a.shape[1]):
                    weight = a[r, c]
                    for t in range(first, beyond):
                        for s in range(width):
                            partial[block, c, t, s] += weight * hidden[r, t, s]

    return evaluate


def _make_record(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
    def add(
        h: Any, fired: Any, slopes: Any, a: Any, inner: Any, tile_first: int, beyond: int, outer: Any, own: Any, live: bool,
        first: Any, stride: Any, bits: int, indptr: Any, rows: Any, alpha: Any, tail_first: Any, tail_len: Any,
        tail_rows: Any, tail_alpha: Any, bounds: Any, salt: Any,
    ) -> None:  # fmt: skip
        n_inner = h.shape[1]
        for block in prange(len(bounds) - 1):
            lane, value = np.empty(width, np.int32), np.empty(width, h.dtype)
            for r in range(bounds[block], bounds[block + 1]):
                following = min(r + 1, len(tail_len) - 1)  # its lists and rows of h come from far: ask for them early
                for t in range(tile_first, beyond):
                    segment = first[following] + inner[t] * stride[following]
                    for k in range(indptr[segment], indptr[segment + 1], 16):
                        prefetch(rows, k)
                        prefetch(alpha, k)
                    if live:
                        for s in range(0, width, 16):
                            prefetch(h, (following * n_inner + inner[t]) * width + s)
                for t in range(tile_first, beyond):
                    left, p, n_fired = fired[r, t], inner[t], 0
                    segment = first[r] + p * stride[r]
                    low, high = indptr[segment], indptr[segment + 1]
                    while left != 0:
                        s = lowest_bit(left)
                        left &= left - np.uint64(1)
                        total = slopes[0, t, s] * a[r, 0]
                        for c in range(1, a.shape[1]):
                            total += slopes[c, t, s] * a[r, c]
                        lane[n_fired], value[n_fired] = s, total
                        n_fired += 1
                        cell = (p << bits) + outer[s]
                        guess = low + ((high - low) * outer[s] >> bits)
                        add_entry(total, cell, outer[s], r, low, high, guess, rows, alpha, tail_first, tail_len, tail_rows,
                                  tail_alpha, salt)  # fmt: skip
                    if live:
                        add_rows(width, h, (r * n_inner + p) * width, own, lane, value, 0, n_fired, 0)

    return add


_BUILD = {lanes: _make_build_strip(lanes) for lanes in LANES}
_ACTIVATE = {lanes: _make_activate(lanes) for lanes in LANES}
_RECORD = {lanes: _make_record(lanes) for lanes in LANES}


def build_strip(h: Any, *arguments: Any) -> None:
    """h[r, p, s] = Σ_q alpha_r[p, q]·B[q, s] over lists and tails; strip_start[r, q, s] = start[r, q, outer[s]].

    Shape: h (m, n1, L), strip_start (m, Q, L), B (n2, L), start (m, Q, n2'), outer (≤ L,), lists as in kernels.scan.
    Cost: 2·L·nnz flops; free of d.
    """
    _BUILD[h.shape[2]](h, *arguments)


def activate(hidden: Any, *arguments: Any) -> None:
    """hidden[r, t, s] = max(z − b, 0) on tile rows first … beyond − 1, and as bits where an observed row fires.

    z = scale·Σ_k A[k, t]·h[r, k, s] + Σ_q start[r, q, inner[t]]·strip_start[r, q, s]. Sets each block's partial outputs too.
    Shape: hidden (m, T, L), fired (m, T) and observed (T,) bits, partial (blocks, C, T, L), A (n1, T), h (m, n1, L),
    start (m, Q, n1'). Cost: 2·(n1 + Q + C)·L flops for each tile row and neuron; free of d and n. NaN stays NaN, so that
    divergence shows.
    """
    _ACTIVATE[hidden.shape[2]](hidden, *arguments)


def record(h: Any, *arguments: Any) -> None:
    """alpha_r[cell] += c and, if `live`, h[r, p, :] += c·own[s, :], with c = Σ_c slopes[c, t, s]·a[r, c] at fired cells.

    A new cell goes to the tail, which must have room. Shape: fired (m, T) bits, slopes (C, T, L), own (L, L), outer (≤ L,).
    Cost: m·T + fired cells · (2·(L + C) + ln(nnz per neuron and inner entity)).
    """
    _RECORD[h.shape[2]](h, *arguments)
