"""Products of several tables' rows in one pass: panels of inner products, and starting values, of pure products.

The tables of all factors are stacked into one; an index then names a row of the stack for every factor.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

from kronsgd.kernels.simd import prefetch

__all__ = ["panel_tiles", "start_tiles"]

AHEAD = 4  # rows between asking for a row of a table, which caches rarely hold, and using it
OFFSET = 16  # numbers more in a row, or a column's numbers would all share one set of the first-level cache

# Each thread writes only the rows or blocks it owns.


@njit(cache=True, parallel=True, error_model="numpy")
def panel_tiles(out: Any, stack: Any, index: Any, row_scale: Any) -> None:  # pragma: no cover
    """out[t, j, :] = row_scale[j] · Π_g stack[t, index[j, g], :].

    Shape: out (T, n, L), stack (T, E, L), index (n, G), row_scale (n,). Cost: G·n·T·L; free of every factor's dimension.
    """
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            first, scale = index[j, 0], row_scale[j]
            if index.shape[1] == 2:
                second = index[j, 1]
                for s in range(out.shape[2]):
                    out[t, j, s] = scale * stack[t, first, s] * stack[t, second, s]
                continue
            for s in range(out.shape[2]):
                out[t, j, s] = scale * stack[t, first, s]
            for g in range(1, index.shape[1]):
                row = index[j, g]
                for s in range(out.shape[2]):
                    out[t, j, s] *= stack[t, row, s]


@njit(cache=True, parallel=True, error_model="numpy")
def start_tiles(out: Any, stack: Any, entities: Any, scale: Any, rank: int, bounds: Any) -> None:  # pragma: no cover
    """out[t, r, s] = scale[i] · Σ_q Π_g stack[block of r, entities[g, i], (r − first of its block)·Q + q], i = t·L + s.

    Shape: out (T, m, L), stack (blocks, E, neurons of a block · Q), entities (G, S), scale (S,), bounds (blocks + 1,).
    Cost: G·Q·S·m. A block's part of the tables lies together, or every entity would be a page of its own.
    """
    n_factors, n_rows, lanes = entities.shape[0], entities.shape[1], out.shape[2]
    for block in prange(len(bounds) - 1):
        start, size = bounds[block], bounds[block + 1] - bounds[block]
        tile = np.empty((lanes, size + OFFSET), out.dtype)
        for i in range(n_rows):
            if i + AHEAD < n_rows:
                for g in range(n_factors):
                    row = (block * stack.shape[1] + entities[g, i + AHEAD]) * stack.shape[2]
                    for line in range(0, size * rank, 16):
                        prefetch(stack, row + line)
            t, s, factor = i // lanes, i % lanes, scale[i]
            first, last = entities[0, i], entities[n_factors - 1, i]
            if rank == 1 and n_factors == 2:
                for r in range(size):
                    tile[s, r] = factor * stack[block, first, r] * stack[block, last, r]
            else:
                for r in range(size):
                    tile[s, r] = 0
                    for q in range(r * rank, (r + 1) * rank):
                        value = factor * stack[block, first, q]
                        for g in range(1, n_factors):
                            value *= stack[block, entities[g, i], q]
                        tile[s, r] += value
            if s == lanes - 1 or i == n_rows - 1:
                for r in range(size):
                    for k in range(s + 1):
                        out[t, start + r, k] = tile[k, r]
