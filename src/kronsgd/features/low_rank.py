"""Rows that are combinations of a few wide ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from kronsgd.features.derived import Derived
from kronsgd.features.leaf import Array
from kronsgd.features.leaves import Dense
from kronsgd.validation import as_float_matrix, check_array

__all__ = ["LowRank"]


class LowRank(Derived):
    """Rows u_i·V of d columns, scaled to norm 1, at the cost of min(r, d) columns.

    Parameters: u (entities, r); v (r, d). With V = T·Q, Q of orthonormal rows (the QR decomposition of Vᵀ), ⟨u_i V, u_j V⟩ =
    ⟨u_i T, u_j T⟩: rows of u·T are the same space. Cost: r²·d once; an inner product takes min(r, d) multiplications.
    """

    def __init__(self, u: ArrayLike, v: ArrayLike) -> None:
        u, v = as_float_matrix("LowRank(u)", u), as_float_matrix("LowRank(v)", v)
        if u.shape[1] != len(v):
            raise ValueError(f"u has {u.shape[1]} columns but v has {len(v)} rows; a row is u[i] @ v, so both must be equal.")
        self.factor: Array = v.astype(np.float64) if v.shape[1] <= len(v) else np.linalg.qr(v.T.astype(np.float64))[1].T
        self.table = self._rows(u)

    def like(self, u: ArrayLike) -> LowRank:
        """New rows u·V in this space."""
        u = as_float_matrix("like(u)", u)
        if u.shape[1] != len(self.factor):
            raise ValueError(f"like(u) has {u.shape[1]} columns; rows are combinations of {len(self.factor)}.")
        return self.holding(self._rows(u))

    def _rows(self, u: Array) -> Dense:
        return Dense(np.asarray(u @ self.factor, dtype=u.dtype))

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {"factor": self.factor}, {}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.factor = check_array("factor", arrays, (None, self.table.n_coordinates), "f")
