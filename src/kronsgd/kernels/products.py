"""Products of several tables' rows in one pass: panels of inner products, and starting values, of pure products.

The tables of all factors are stacked into one; an index then names a row of the stack for every factor.
"""

from __future__ import annotations

from typing import Any

from numba import njit, prange

__all__ = ["panel_tiles", "start_tiles"]

# Each thread writes only the rows or blocks it owns.


@njit(cache=True, parallel=True, error_model="numpy")
def panel_tiles(out: Any, stack: Any, index: Any, row_scale: Any) -> None:  # pragma: no cover
    """out[t, j, :] = row_scale[j] · Π_g stack[t, index[g, j], :].

    Shape: out (T, n, L), stack (T, E, L), index (G, n), row_scale (n,). Cost: G·n·T·L; free of every factor's dimension.
    """
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            first, scale = index[0, j], row_scale[j]
            if index.shape[0] == 2:
                second = index[1, j]
                for s in range(out.shape[2]):
                    out[t, j, s] = scale * stack[t, first, s] * stack[t, second, s]
                continue
            for s in range(out.shape[2]):
                out[t, j, s] = scale * stack[t, first, s]
            for g in range(1, index.shape[0]):
                row = index[g, j]
                for s in range(out.shape[2]):
                    out[t, j, s] *= stack[t, row, s]


@njit(cache=True, parallel=True, error_model="numpy")
def start_tiles(out: Any, stack: Any, entities: Any, scale: Any, rank: int, bounds: Any) -> None:  # pragma: no cover
    """out[t, r, s] = scale[i] · Σ_q Π_g stack[entities[g, i], r·Q + q], for the row i = t·L + s of the batch.

    Shape: out (T, m, L), stack (E, m·Q), entities (G, S), scale (S,), bounds (blocks + 1,). Cost: G·Q·S·m.
    """
    lanes, n_factors = out.shape[2], entities.shape[0]
    for block in prange(len(bounds) - 1):
        for i in range(len(scale)):
            t, s, first, factor = i // lanes, i % lanes, entities[0, i], scale[i]
            if rank == 1 and n_factors == 2:
                second = entities[1, i]
                for r in range(bounds[block], bounds[block + 1]):
                    out[t, r, s] = factor * stack[first, r] * stack[second, r]
                continue
            for r in range(bounds[block], bounds[block + 1]):
                total = 0 * factor
                for q in range(r * rank, (r + 1) * rank):
                    value = stack[first, q]
                    for g in range(1, n_factors):
                        value *= stack[entities[g, i], q]
                    total += value
                out[t, r, s] = factor * total
