"""The grid engine's loops: a strip of half-contracted coefficients, blocks of pairs evaluated from it, and its upkeep.

Names follow the paper: z = ⟨w_r, x⟩, b the threshold, alpha the coefficients, A and B the inner products of the inner and
the outer entities. A cell is a pair (p, q), numbered p·n2 + q. A strip holds h[r, p, s] = Σ_q alpha_r[p, q]·B[q, U_s] for
some outer entities U, a lane each; a tile row is an inner entity over the lanes of a strip. Neuron blocks are the unit of
parallel work, and no sum's order depends on the number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.prefetch import prefetch

__all__ = ["LANES", "ROWS", "activate", "build_strip", "find_runs", "record"]

LANES = (16, 64)  # widths with compiled code of their own: the inner loops unroll over them
ROWS = 4  # tile rows evaluated at once: 4 × 64 lanes of float32 are 16 registers of 512 bits


@njit(cache=True, parallel=True)
def find_runs(runs: Any, indptr: Any, rows: Any, n_outer: int, bounds: Any) -> None:  # pragma: no cover
    """runs[r, p] = place in neuron r's sorted list where inner entity p's cells begin; runs[r, n1] is the list's end.

    Shape: runs (m, n1 + 1), lists (m + 1,), (nnz,). Cost: nnz + m·n1.
    """
    for block in prange(len(bounds) - 1):
        for r in range(bounds[block], bounds[block + 1]):
            k, end = indptr[r], indptr[r + 1]
            for p in range(runs.shape[1] - 1):
                while k < end and rows[k] < p * n_outer:
                    k += 1
                runs[r, p] = k
            runs[r, runs.shape[1] - 1] = end


def _make_build_strip(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"})  # fused multiply-add; NaN stays visible
    def build(
        h: Any, strip_start: Any, B: Any, start: Any, outer: Any, runs: Any, rows: Any, alpha: Any, tail_len: Any,
        tail_rows: Any, tail_alpha: Any, bounds: Any,
    ) -> None:  # fmt: skip
        n_inner, n_outer = h.shape[1], B.shape[0]
        for block in prange(len(bounds) - 1):
            acc = np.empty(width, B.dtype)  # of this thread's own: LLVM keeps it in registers
            for r in range(bounds[block], bounds[block + 1]):
                for p in range(n_inner):
                    first = p * n_outer
                    for s in range(width):
                        acc[s] = 0
                    for k in range(runs[r, p], runs[r, p + 1]):
                        value, q = alpha[k], rows[k] - first
                        for s in range(width):
                            acc[s] += value * B[q, s]
                    for s in range(width):
                        h[r, p, s] = acc[s]
                for k in range(tail_len[r]):
                    value = tail_alpha[r, k]
                    p = tail_rows[r, k] // n_outer
                    q = tail_rows[r, k] - p * n_outer
                    for s in range(width):
                        h[r, p, s] += value * B[q, s]
                for q in range(start.shape[1]):
                    for s in range(len(outer)):
                        strip_start[r, q, s] = start[r, q, outer[s]]
                    for s in range(len(outer), width):
                        strip_start[r, q, s] = 0

    return build


def _make_activate(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"})
    def evaluate(
        hidden: Any, partial: Any, cells: Any, h: Any, A: Any, strip_start: Any, start: Any, inner: Any, observed: Any,
        first: int, beyond: int, a: Any, scale: Any, b: Any, bounds: Any,
    ) -> None:  # fmt: skip
        for block in prange(len(bounds) - 1):
            acc = np.empty(4 * width, A.dtype)  # one array of this thread's own: LLVM keeps all of it in registers
            out = np.zeros((a.shape[1] + 1, beyond - first, width), A.dtype)
            for r in range(bounds[block], bounds[block + 1]):
                for t in range(first, beyond, 4):
                    for s in range(4 * width):
                        acc[s] = 0
                    for k in range(h.shape[1]):
                        a0, a1, a2, a3 = A[t, k], A[t + 1, k], A[t + 2, k], A[t + 3, k]
                        for s in range(width):
                            acc[s] += a0 * h[r, k, s]
                            acc[width + s] += a1 * h[r, k, s]
                            acc[2 * width + s] += a2 * h[r, k, s]
                            acc[3 * width + s] += a3 * h[r, k, s]
                    for i in range(4):
                        for s in range(width):
                            hidden[r, t + i, s] = scale * acc[i * width + s] - b
                fired = 0
                for t in range(first, beyond):
                    for q in range(start.shape[1]):
                        factor = start[r, q, inner[t]]
                        for s in range(width):
                            hidden[r, t, s] += factor * strip_start[r, q, s]
                    for s in range(width):
                        hidden[r, t, s] = 0 if hidden[r, t, s] <= 0 else hidden[r, t, s] * observed[t, s]
                    for c in range(a.shape[1]):
                        weight = a[r, c]
                        for s in range(width):
                            out[c, t - first, s] += weight * hidden[r, t, s]
                    for s in range(width):
                        out[a.shape[1], t - first, s] += 1 if hidden[r, t, s] > 0 else 0
                    for s in range(width):
                        fired += hidden[r, t, s] > 0
                cells[r] += fired
            partial[block, :, first:beyond] = out

    return evaluate


def _make_record(lanes: int) -> Any:
    width = lanes

    @njit(cache=True, parallel=True, fastmath={"contract"})
    def add(
        h: Any, hidden: Any, slopes: Any, a: Any, inner: Any, first: int, beyond: int, outer: Any, B: Any, live: bool,
        n_outer: int, runs: Any, rows: Any, alpha: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any, bounds: Any,
    ) -> None:  # fmt: skip
        for block in prange(len(bounds) - 1):
            lane, value, acc = np.empty(width + 1, np.int64), np.empty(width, h.dtype), np.empty(width, h.dtype)
            for r in range(bounds[block], bounds[block + 1]):
                following = min(r + 1, len(tail_len) - 1)  # its lists and rows of h come from far: ask for them early
                for t in range(first, beyond):
                    if live:
                        place = (following * h.shape[1] + inner[t]) * width
                        for s in range(0, width, 16):
                            prefetch(h, place + s)
                    for k in range(runs[following, inner[t]], runs[following, inner[t] + 1], 16):
                        prefetch(rows, k)
                        prefetch(alpha, k)
                for t in range(first, beyond):
                    n_fired = 0
                    for s in range(width):
                        lane[n_fired] = s
                        n_fired += hidden[r, t, s] > 0
                    if n_fired == 0:
                        continue
                    p = inner[t]
                    for i in range(n_fired):
                        total = slopes[0, t, lane[i]] * a[r, 0]
                        for c in range(1, a.shape[1]):
                            total += slopes[c, t, lane[i]] * a[r, c]
                        value[i] = total
                    if live:
                        for s in range(width):
                            acc[s] = h[r, p, s]
                        for i in range(n_fired):
                            coefficient, u = value[i], lane[i]
                            for s in range(width):
                                acc[s] += coefficient * B[u, s]
                        for s in range(width):
                            h[r, p, s] = acc[s]
                    end, n_tail = runs[r, p + 1], tail_len[r]
                    for i in range(n_fired):
                        if value[i] == 0:
                            continue
                        cell = p * n_outer + outer[lane[i]]
                        low, size = runs[r, p], end - runs[r, p]
                        while size > 0:  # bisection without unpredictable branches
                            half = (size + 1) >> 1
                            low += half if rows[low + half - 1] < cell else 0
                            size -= half
                        if low < end and rows[low] == cell:
                            alpha[low] += value[i]
                        else:
                            tail_rows[r, n_tail] = cell
                            tail_alpha[r, n_tail] = value[i]
                            n_tail += 1
                    tail_len[r] = n_tail

    return add


_BUILD = {lanes: _make_build_strip(lanes) for lanes in LANES}
_ACTIVATE = {lanes: _make_activate(lanes) for lanes in LANES}
_RECORD = {lanes: _make_record(lanes) for lanes in LANES}


def build_strip(h: Any, *arguments: Any) -> None:
    """h[r, p, s] = Σ_q alpha_r[p, q]·B[q, s] over lists and tails; strip_start[r, q, s] = start[r, q, outer[s]].

    Shape: h (m, n1, L), strip_start (m, Q, L), B (n2, L), start (m, Q, n2'), outer (≤ L,), runs (m, n1 + 1), tails (m, T).
    Cost: 2·L·nnz flops; free of d. The lists are sorted by cell, so that each p's sum stays in registers.
    """
    _BUILD[h.shape[2]](h, *arguments)


def activate(hidden: Any, *arguments: Any) -> None:
    """hidden[r, t, s] = max(z − b, 0) on tile rows first … beyond − 1 (a multiple of 4), and 0 where no row was observed.

    z = scale·Σ_k A[t, k]·h[r, k, s] + Σ_q start[r, q, inner[t]]·strip_start[r, q, s]. observed is 1 where a place has a row,
    else 0. Sets the block's partial outputs and, after them, the number of neurons that fire in each place; adds to
    cells[r] the places in which neuron r fires.
    Shape: hidden (m, T, L), partial (blocks, C + 1, T, L), observed (T, L), A (T, n1), h (m, n1, L), start (m, Q, n1').
    Cost: 2·(n1 + Q + C)·L flops for each tile row and neuron; free of d and n. NaN stays NaN, so that divergence shows.
    """
    _ACTIVATE[hidden.shape[2]](hidden, *arguments)


def record(h: Any, *arguments: Any) -> None:
    """alpha_r[cell] += c and, if `live`, h[r, p, :] += c·B[s, :], with c = Σ_c slopes[c, t, s]·a[r, c] at fired cells.

    A cell in neuron r's sorted list is found by bisection among those of its inner entity; a new one goes to the tail, which
    must have room. Shape: hidden (m, T, L), slopes (C, T, L), B (L, L), outer (≤ L,), runs (m, n1 + 1), tails (m, room).
    Cost: m·T·L + fired cells · (2·L + ln(nnz per neuron and inner entity)).
    """
    _RECORD[h.shape[2]](h, *arguments)
