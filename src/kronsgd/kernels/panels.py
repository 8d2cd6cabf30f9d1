"""Numba loops that turn inner products between entities into inner products between rows.

Panels are tile-major: (tiles, rows, lanes), a tile being `lanes` columns of the batch, so that the inner loop of every
later kernel runs over contiguous lanes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange

__all__ = ["add_rows", "copy_columns", "multiply_rows", "power_scale", "set_rows"]

CHUNK = 64  # entities transposed at once

# Each thread writes only the rows it owns; no kernel below has an order of sums that depends on the threads.


@njit(cache=True, parallel=True, error_model="numpy")
def copy_columns(out: Any, gram: Any, columns: Any) -> None:  # pragma: no cover
    """out[t, e, s] = gram[e, columns[t·L + s]] of a symmetric gram, and 0 past the last column.

    Shape: out (T, E, L), gram (E, E), columns (S,). Cost: E·T·L; does not depend on any dimension of a factor.
    It reads rows, not columns: a column has a cache line of its own for every number.
    """
    n_tiles, n, lanes = out.shape
    for chunk in prange((n + CHUNK - 1) // CHUNK):
        start, size = chunk * CHUNK, min(CHUNK, n - chunk * CHUNK)
        tile = np.empty((lanes, CHUNK), out.dtype)
        for t in range(n_tiles):
            width = min(lanes, len(columns) - t * lanes)
            for s in range(width):
                row = columns[t * lanes + s]
                for e in range(size):
                    tile[s, e] = gram[row, start + e]
            tile[width:] = 0
            for e in range(size):
                for s in range(lanes):
                    out[t, start + e, s] = tile[s, e]


@njit(cache=True, parallel=True)
def set_rows(out: Any, panel: Any, index: Any) -> None:  # pragma: no cover
    """out[t, j, :] = panel[t, index[j], :].  Shape: out (T, n, L), panel (T, E, L), index (n,). Cost: n·T·L."""
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            out[t, j, :] = panel[t, index[j], :]


@njit(cache=True, parallel=True)
def multiply_rows(out: Any, panel: Any, index: Any) -> None:  # pragma: no cover
    """out[t, j, :] *= panel[t, index[j], :].  Shape and cost: as set_rows."""
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            for s in range(out.shape[2]):
                out[t, j, s] *= panel[t, index[j], s]


@njit(cache=True, parallel=True)
def add_rows(out: Any, panel: Any, index: Any) -> None:  # pragma: no cover
    """out[t, j, :] += panel[t, index[j], :].  Shape and cost: as set_rows."""
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            for s in range(out.shape[2]):
                out[t, j, s] += panel[t, index[j], s]


@njit(cache=True, parallel=True)
def power_scale(out: Any, exponent: int, row_scale: Any, column_scale: Any) -> None:  # pragma: no cover
    """out[t, j, s] = out[t, j, s]^exponent · row_scale[j] · column_scale[t, s].  Shape: out (T, n, L). Cost: n·T·L."""
    for j in prange(out.shape[1]):
        for t in range(out.shape[0]):
            for s in range(out.shape[2]):
                value = out[t, j, s]
                power = value
                for _ in range(exponent - 1):
                    power *= value
                out[t, j, s] = power * row_scale[j] * column_scale[t, s]
