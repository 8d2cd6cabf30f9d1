"""Which engine: counted flops of one step."""

from __future__ import annotations

import math

import numpy as np
from scipy.stats import norm

from kronsgd.features.base import Features
from kronsgd.initial import MAX_COORDINATES, coordinate_dim
from kronsgd.network import TwoLayer

__all__ = ["choose_engine", "flops_per_row"]

DENSE_ADVANTAGE = 2.0  # a GEMM's flop costs about half of one in the sparse loop (measured)


def flops_per_row(network: TwoLayer, features: Features) -> dict[str, float]:
    """Flops for each row of a batch, by engine: dense 6·m·d, scan 2·m·n·ρ + 2·n·(factors), ρ = Φ(−b) at the start."""
    n, m = features.n_rows, network.n_hidden
    density = float(norm.sf(network.threshold))
    return {
        "dense": 6.0 * m * coordinate_dim(features),
        "scan": 2.0 * m * n * density + 2.0 * n * len(list(features.leaves())),
    }


def choose_engine(network: TwoLayer, features: Features) -> str:
    """"dense" where the product's dimension d is so small that explicit weights cost less, else "scan"."""
    flops = flops_per_row(network, features)
    d = coordinate_dim(features)
    fits = (2 * network.n_hidden + features.n_rows) * d * np.dtype(network.dtype).itemsize <= MAX_COORDINATES
    exact = all(leaf.dim < math.inf for leaf in features.leaves())
    return "dense" if exact and fits and flops["dense"] < DENSE_ADVANTAGE * flops["scan"] else "scan"
