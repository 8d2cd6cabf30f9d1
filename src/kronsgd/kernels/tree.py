"""The tree engine's loops: which neurons can fire, their inner products, and what a step adds to α and to the bounds.

Only (row, neuron) pairs whose upper bound passes the threshold are evaluated, and only fired ones are kept: each neuron
block has its own list of them, row after row of the batch. Sums run in the scan kernels' order, so that both engines give
the same bits. A thread writes only what its blocks own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.bfloat16 import NO_SALT
from kronsgd.kernels.lists import add_entry
from kronsgd.kernels.simd import add_rows, add_together, dot, prefetch

__all__ = ["DIRECTIONS", "FEW", "GROUPS", "LEVELS", "count_added", "forward", "neuron_gradient", "rebuild", "refresh", "update"]

FEW, DIRECTIONS = 8, 32  # coordinates in the second and in the last bound; the first one takes a single coordinate
LEVELS = (1, FEW, DIRECTIONS)
SUMS = 4  # of as many neurons at a time: one alone would wait for every addition
GROUPS = 16  # of blocks, whose candidates are evaluated together
AHEAD = 1  # groups between asking for lists and reading them
LINE = 16  # numbers of float32 in a cache line
UNIT = 2.0**-23
MARGIN = 8  # times η·D²: what rounding may hide of a squared norm; see docs/tree.md


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def forward(
    neurons: Any, hidden: Any, moved: Any, ends: Any, partial: Any, counts: Any, start: Any, K: Any, t: Any, rest: Any,
    leading: Any, P: Any, radius: Any, limit: Any, terms: Any, indptr: Any, rows: Any, alpha: Any,
    tail_first: Any, tail_len: Any, tail_rows: Any, tail_alpha: Any, bounds: Any, a: Any, scale: Any, inverse: Any, b: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """The neurons that fire on each row of the batch, their part of the outputs, and counts.

    For ends[block, s] ≤ q < ends[block, s + 1], neuron neurons[block, q] fires on row s, hidden[block, q] is z − b there and
    moved[block, q] is ⟨w_r − w_r(0), x_s⟩ in units of `scale`. counts: evaluated and fired pairs, terms of their sums.
    Shape: start (S, m, 1), K (S, n, 1), t (S, 32), rest (S, levels), P (m, 32), leading (m,) = P[:, 0], radius (levels, m),
    limit (m,), partial (blocks, C, S), counts (groups, 3), a (m, C), one list for each neuron, tails as in kernels.scan.
    Cost: 6·S·m flops, 16 to 80 for each pair that passes the first bound, and 2·nnz(α_r) for each evaluated one.
    """
    n_blocks = len(bounds) - 1
    for group in prange(GROUPS):
        first_block, beyond = group * n_blocks // GROUPS, (group + 1) * n_blocks // GROUPS
        low, high = bounds[first_block], bounds[beyond]
        highest, kept = np.empty(high - low, np.float32), np.empty(high - low + (AHEAD + 1) * SUMS, np.int64)
        z = np.empty(SUMS, start.dtype)
        counts[group, :] = 0
        partial[first_block:beyond] = 0
        ends[first_block:beyond, 0] = 0
        for s in range(len(t)):
            n_kept = _candidates(kept, highest, low, high, s, start, leading, P, radius, limit, t, rest, scale)
            for k in range((AHEAD + 1) * SUMS):
                kept[n_kept + k] = kept[max(n_kept - 1, 0)]  # the last few are filled up
            for block in range(first_block, beyond):
                ends[block, s + 1] = ends[block, s]
            block = first_block
            for few in range(0, n_kept, SUMS):
                for k in range(AHEAD * SUMS, (AHEAD + 1) * SUMS):
                    for p in range(indptr[kept[few + k]], indptr[kept[few + k] + 1], LINE):
                        prefetch(rows, p)
                        prefetch(alpha, p)
                _evaluate(z, kept, few, K, s, start, indptr, rows, alpha, tail_first, tail_len, tail_rows, tail_alpha,
                          inverse, b)  # fmt: skip
                for k in range(min(SUMS, n_kept - few)):
                    r, value = kept[few + k], scale * z[k]
                    while r >= bounds[block + 1]:
                        block += 1
                    counts[group, 0] += 1
                    counts[group, 1] += value > 0
                    counts[group, 2] += terms[r]
                    if not (value <= 0):  # what is not a number shows in the outputs
                        _keep_fired(block, s, r, value, z[k], neurons, hidden, moved, ends, partial, start, a, inverse, b)


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _keep_fired(
    block: Any, s: Any, r: Any, value: Any, z: Any, neurons: Any, hidden: Any, moved: Any, ends: Any, partial: Any, start: Any,
    a: Any, inverse: Any, b: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """Neuron r fires on row s: at the end of its block's list, and into the outputs."""
    q = ends[block, s + 1]
    ends[block, s + 1] += 1
    neurons[block, q], hidden[block, q] = r, value
    moved[block, q] = np.float64(z) - np.float64(start[s, r, 0] - b) * inverse
    for c in range(a.shape[1]):
        partial[block, c, s] += a[r, c] * value


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _candidates(
    kept: Any, highest: Any, low: Any, high: Any, s: Any, start: Any, leading: Any, P: Any, radius: Any, limit: Any, t: Any,
    rest: Any, scale: Any,
) -> Any:  # fmt: skip  # pragma: no cover
    """The neurons that can fire on row s move to the front of `kept`. Returns their number.

    That is where start + scale·⟨P_r, t_s⟩ + |scale|·radius·rest is above the neuron's limit, for 1, 8 and 32 coordinates in
    turn. What is not a number is kept.
    """
    size = abs(scale)
    x, r_x = scale * t[s, 0], size * rest[s, 0]
    for r in range(low, high):
        highest[r - low] = start[s, r, 0] + leading[r] * x + radius[0, r] * r_x
    n_kept = 0
    for r in range(low, high):
        kept[n_kept] = r
        n_kept += not (highest[r - low] <= limit[r])
    n_kept = _keep(FEW, 1, kept, n_kept, start, P, radius, limit, t, rest, s, scale, size)
    return _keep(DIRECTIONS, 2, kept, n_kept, start, P, radius, limit, t, rest, s, scale, size)


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _keep(
    n_coordinates: Any, level: Any, kept: Any, n_kept: Any, start: Any, P: Any, radius: Any, limit: Any, t: Any, rest: Any,
    s: Any, scale: Any, size: Any,
) -> Any:  # fmt: skip  # pragma: no cover
    """Of the neurons kept[:n_kept] those that pass the next bound move to the front. Returns their number."""
    passed = 0
    for k in range(n_kept):
        r = kept[k]
        along = scale * dot(n_coordinates, P, r * DIRECTIONS, t, s * DIRECTIONS)
        highest = np.float32(start[s, r, 0]) + along + size * radius[level, r] * rest[s, level]
        kept[passed] = r
        passed += not (highest <= limit[r])
    return passed


@njit(cache=True, fastmath={"contract"}, error_model="numpy", inline="always")
def _evaluate(
    z: Any, kept: Any, few: Any, K: Any, s: Any, start: Any, indptr: Any, rows: Any, alpha: Any, tail_first: Any,
    tail_len: Any, tail_rows: Any, tail_alpha: Any, inverse: Any, b: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """z[k] = (start − b)/scale + Σ_p alpha[p]·K[s, rows[p]] for a few neurons: all together until the shortest list ends."""
    base = s * K.shape[1]
    r0, r1, r2, r3 = kept[few], kept[few + 1], kept[few + 2], kept[few + 3]
    p0, p1, p2, p3 = indptr[r0], indptr[r1], indptr[r2], indptr[r3]
    n = min(indptr[r0 + 1] - p0, indptr[r1 + 1] - p1, indptr[r2 + 1] - p2, indptr[r3 + 1] - p3)
    for k in range(SUMS):
        z[k] = (start[s, kept[few + k], 0] - b) * inverse
    add_together(z, K, base, rows, alpha, (p0, p1, p2, p3), n)
    for k in range(SUMS):
        r = kept[few + k]
        add_rows(1, z, k, K, rows, alpha, indptr[r] + n, indptr[r + 1], base)
        add_rows(1, z, k, K, tail_rows, tail_alpha, tail_first[r], tail_first[r] + tail_len[r], base)


@njit(cache=True, parallel=True, error_model="numpy")
def count_added(added: Any, neurons: Any, ends: Any, bounds: Any) -> None:  # pragma: no cover
    """added[r] = number of rows that neuron r fires on. Shape: (m,). Cost: m + fired pairs."""
    for block in prange(len(bounds) - 1):
        added[bounds[block] : bounds[block + 1]] = 0
        for q in range(ends[block, -1]):
            added[neurons[block, q]] += 1


@njit(cache=True, parallel=True, error_model="numpy")
def neuron_gradient(
    out: Any, neurons: Any, hidden: Any, ends: Any, slopes: Any, bounds: Any
) -> None:  # pragma: no cover
    """out[r, c] = Σ_s hidden·slopes[s, c] over fired pairs. Shape: out (m, C), slopes (S, C). Cost: 2·C for each pair."""
    for block in prange(len(bounds) - 1):
        out[bounds[block] : bounds[block + 1]] = 0
        for s in range(len(slopes)):
            for q in range(ends[block, s], ends[block, s + 1]):
                for c in range(out.shape[1]):
                    out[neurons[block, q], c] += hidden[block, q] * slopes[s, c]


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def update(
    neurons: Any, hidden: Any, moved: Any, ends: Any, slopes: Any, a: Any, batch: Any, K: Any, t: Any,
    leading: Any, P: Any, radius: Any, limit: Any, squared: Any, path: Any, terms: Any, precision: Any, longest: Any,
    scale: Any, inverse: Any, b: Any, indptr: Any, rows: Any, alpha: Any, tail_first: Any, tail_len: Any, tail_rows: Any,
    tail_alpha: Any, bounds: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, batch[s]] += Σ_c slopes[s, c]·a[r, c] for every fired pair, and what that does to the neurons' bounds.

    ‖v + Σ_s c_s x_s‖² grows by 2·c_s⟨v, x_s⟩ + c_s² K_ss row by row, v taking in the rows before; ⟨v, x_s⟩ is `moved` and what
    the batch's earlier rows add to it.
    Shape: slopes (S, C), K (S, n, 1), bounds of neurons as in `forward`, squared, path and terms (m,).
    Cost: fired pairs · (2·C + 32 + ln(nnz per neuron) + number of the neuron's other fired pairs in the batch).
    """
    for block in prange(len(bounds) - 1):
        low, n_pairs = bounds[block], ends[block, len(batch)]
        last, before = np.full(bounds[block + 1] - low, -1, np.int64), np.empty(n_pairs, np.int64)
        coefficient, row = np.empty(n_pairs, np.float64), np.empty(n_pairs, np.int64)
        for s in range(len(batch)):
            i = batch[s]
            for q in range(ends[block, s], ends[block, s + 1]):
                r = neurons[block, q]
                value = slopes[s, 0] * a[r, 0]
                for c in range(1, a.shape[1]):
                    value += slopes[s, c] * a[r, c]
                begin, stop = indptr[r], indptr[r + 1]
                guess = begin + (stop - begin) * i // K.shape[1]
                add_entry(value, i, i, r, begin, stop, guess, rows, alpha, tail_first, tail_len, tail_rows, tail_alpha,
                          NO_SALT)  # fmt: skip
                along, p = moved[block, q], last[r - low]
                while p >= 0:
                    along += coefficient[p] * K[s, row[p], 0]
                    p = before[p]
                before[q], row[q], coefficient[q], last[r - low] = last[r - low], i, value, q
                terms[r] += 1
                path[r] += abs(value)
                error = UNIT * (terms[r] + DIRECTIONS) + precision
                error *= 3 * path[r] * longest * longest + abs(hidden[block, q] * inverse)
                squared[r] += value * (2 * along + value * K[s, i, 0]) + 2 * abs(value) * error
                for k in range(DIRECTIONS):
                    P[r, k] += value * t[s, k]
        for q in range(n_pairs):
            r = neurons[block, q]
            if last[r - low] >= 0:
                last[r - low] = -1
                _refresh(r, leading, P, radius, limit, squared, path, terms, precision, longest, scale, b)


@njit(cache=True, error_model="numpy", inline="always")
def _refresh(
    r: Any, leading: Any, P: Any, radius: Any, limit: Any, squared: Any, path: Any, terms: Any, precision: Any, longest: Any,
    scale: Any, b: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """Neuron r's radius at every level, and its limit, from what it has learned; both rounded to the safe side."""
    leading[r] = P[r, 0]
    most = path[r] * longest
    error = UNIT * (terms[r] + 2 * DIRECTIONS) + precision
    taken, k = 0.0, 0
    for level in range(3):
        while k < (1 if level == 0 else FEW if level == 1 else DIRECTIONS):
            taken += np.float64(P[r, k]) * np.float64(P[r, k])
            k += 1
        radius[level, r] = np.sqrt(max(squared[r] - taken, 0.0) + MARGIN * error * most * most) * (1 + 4 * UNIT)
        if not (taken < np.inf):  # coordinates have overflowed
            radius[level, r] = np.inf
    limit[r] = b - error * (5 * abs(scale) * most * longest + 5 * abs(b) + 4)


@njit(cache=True, parallel=True, error_model="numpy")
def refresh(
    leading: Any, P: Any, radius: Any, limit: Any, squared: Any, path: Any, terms: Any, precision: Any, longest: Any,
    scale: Any, b: Any, bounds: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """Every neuron's radii and limit anew. Cost: 32·m."""
    for block in prange(len(bounds) - 1):
        for r in range(bounds[block], bounds[block + 1]):
            _refresh(r, leading, P, radius, limit, squared, path, terms, precision, longest, scale, b)


@njit(cache=True, parallel=True, error_model="numpy")
def rebuild(
    P: Any, path: Any, outside: Any, terms: Any, t: Any, rest: Any, indptr: Any, rows: Any, alpha: Any, tail_first: Any,
    tail_len: Any, tail_rows: Any, tail_alpha: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """From α itself: P[r] = Σ_j alpha_rj·t_j, path[r] = Σ_j |alpha_rj|, outside[r] = Σ_j |alpha_rj|·rest_j, number of terms.

    Shape: t (n, 32), rest (n,), P (m, 32). Cost: 64·nnz(α) flops.
    """
    for r in prange(len(path)):
        total = np.zeros(DIRECTIONS, np.float64)
        path[r], outside[r], terms[r] = 0, 0, indptr[r + 1] - indptr[r] + tail_len[r]
        for p in range(indptr[r], indptr[r + 1]):
            path[r] += abs(alpha[p])
            outside[r] += abs(alpha[p]) * rest[rows[p]]
            for c in range(DIRECTIONS):
                total[c] += alpha[p] * t[rows[p], c]
        for p in range(tail_first[r], tail_first[r] + tail_len[r]):
            path[r] += abs(tail_alpha[p])
            outside[r] += abs(tail_alpha[p]) * rest[tail_rows[p]]
            for c in range(DIRECTIONS):
                total[c] += tail_alpha[p] * t[tail_rows[p], c]
        for c in range(DIRECTIONS):
            P[r, c] = total[c]
