"""The kernel of the network that does not learn features: its tangent kernel at the start, for infinitely many neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr, owens_t

__all__ = ["limiting_tangent_kernel"]

Array = NDArray[Any]


def limiting_tangent_kernel(cosines: Array, threshold: float) -> Array:
    """Θ(x, x') / Θ(x, x) = ⟨x, x'⟩ · P(⟨w, x⟩ > b and ⟨w, x'⟩ > b) / P(⟨w, x⟩ > b) for Gaussian w and rows of norm 1.

    Shape: cosines (n, n') -> the same. For correlation ρ the probability is Φ(−b) − 2·T(b, √((1 − ρ)/(1 + ρ))), with T
    Owen's function (Owen 1956, Annals of Mathematical Statistics 27, 1075). At b = 0 it is the arc-cosine kernel of
    degree 0 (Cho and Saul 2009). Only the first layer is trained, as in the network's own default.
    """
    rho = np.clip(cosines, -1, 1)
    with np.errstate(divide="ignore"):  # opposite rows: T(b, ∞) is half of Φ(−|b|)
        slope = np.sqrt((1 - rho) / (1 + rho))
    both = ndtr(-threshold) - 2 * owens_t(threshold, slope)
    return np.asarray(rho * both / ndtr(-threshold))
