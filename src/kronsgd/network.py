"""The two-layer network: its shape, threshold, output weights, and how its neurons are split into blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.validation import check_choice, check_integer, check_real

__all__ = ["TwoLayer", "auto_threshold", "generator"]

Array = NDArray[Any]
MAX_BLOCKS = 64  # whatever the number of threads or machines, so that neither changes a result
PURPOSES = {name: k for k, name in enumerate(
    ("output weights", "leaf", "constant", "gaussian", "shuffle", "validation", "probe", "landmarks")
)}  # fmt: skip


def auto_threshold(n_hidden: int) -> float:
    """b = √(0.4·ln m), which leaves m·Φ(−b) neurons firing (arXiv 2305.08001, section 3)."""
    return math.sqrt(0.4 * math.log(n_hidden))


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """An independent random generator for each purpose and key of one model's seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose], *key)))


@dataclass(frozen=True)
class TwoLayer:
    """f_c(x) = (γ/√m) Σ_r a_rc max(⟨w_r, x⟩ − b, 0), with neuron r firing on x when ⟨w_r, x⟩ > b."""

    n_hidden: int
    n_outputs: int = 1
    threshold: float = 0.0
    output_scale: float = 1.0
    init: str = "structured"
    init_rank: int = 1
    antisymmetric: bool = True
    train_output: bool = False
    seed: int = 0
    dtype: str = "float32"

    def __post_init__(self) -> None:
        check_integer("n_hidden", self.n_hidden, 1)
        check_integer("init_rank", self.init_rank, 1)
        check_choice("init", self.init, ["structured", "gaussian"])
        check_choice("dtype", self.dtype, ["float32", "float64"])
        check_real("threshold", self.threshold, -math.inf)
        check_real("output_scale", self.output_scale, 0, open_low=True)
        if self.antisymmetric and self.n_hidden % 2:
            raise ValueError(
                f"n_hidden={self.n_hidden} is odd, but antisymmetric=True pairs every neuron with one of opposite output "
                f"weight; choose n_hidden={self.n_hidden + 1} or antisymmetric=False."
            )

    @property
    def scale(self) -> float:
        """γ/√m."""
        return self.output_scale / math.sqrt(self.n_hidden)

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Bounds of at most 64 neuron blocks of equal, even size (the last may be smaller). Shape: (blocks + 1,)."""
        size = 2 * -(-self.n_hidden // (2 * MAX_BLOCKS))
        return np.append(np.arange(0, self.n_hidden, size), self.n_hidden).astype(np.int64)

    def block_sizes(self) -> list[tuple[int, int, int]]:
        """(block number, first neuron, number of neurons) of each block."""
        bounds = self.blocks
        return [(i, int(a), int(b - a)) for i, (a, b) in enumerate(pairwise(bounds))]

    def output_weights(self) -> Array:
        """a_rc = ±1; with `antisymmetric`, a_(2k+1) = −a_(2k), so that f = 0 at the start. Shape: (m, C)."""
        out = np.empty((self.n_hidden, self.n_outputs), dtype=self.dtype)
        for block, start, size in self.block_sizes():
            signs = generator(self.seed, "output weights", block).choice([-1.0, 1.0], size=(size, self.n_outputs))
            if self.antisymmetric:
                signs[1::2] = -signs[::2]
            out[start : start + size] = signs
        return out
