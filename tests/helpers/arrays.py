"""Random arrays, and how far two of them are apart."""

from __future__ import annotations

import numpy as np


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def positive_table(n, seed=0):
    """A kernel table: symmetric and positive definite."""
    x = normal(n, n + 10, seed=seed)
    return x @ x.T


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)
