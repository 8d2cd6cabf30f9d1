"""The two-layer network: its shape, threshold, output weights, and how its neurons are split into blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.exchange import ALONE, Exchange
from kronsgd.validation import MOST, check_choice, check_integer, check_real

__all__ = ["Part", "TwoLayer", "auto_threshold", "generator"]

Array = NDArray[Any]
MOST_SCALE = 1e100  # its square is a number, too
MAX_BLOCKS = 64  # whatever the number of threads or machines, so that neither changes a result
PURPOSES = {name: k for k, name in enumerate(
    ("output weights", "leaf", "constant", "gaussian", "shuffle", "validation", "probe", "landmarks", "member")
)}  # fmt: skip


def auto_threshold(n_hidden: int) -> float:
    """b = √(0.4·ln m), which leaves m·Φ(−b) neurons firing (arXiv 2305.08001, section 3)."""
    return math.sqrt(0.4 * math.log(n_hidden))


def generator(seed: int, purpose: str, *key: int) -> np.random.Generator:
    """An independent random generator for each purpose and key of one model's seed."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(PURPOSES[purpose], *key)))


@dataclass(frozen=True)
class TwoLayer:
    """f_c(x) = (γ/√m) Σ_r a_rc max(⟨w_r, x⟩ − b, 0), with neuron r firing on x when ⟨w_r, x⟩ > b.

    With E = n_networks > 1, E networks of m = n_hidden / E neurons and n_outputs / E outputs as one: output e·C + c is output
    c of network e, and a is 0 outside the network's own neurons, so that none knows of the others. Every block of neurons
    holds the same block of each network in turn, drawn from the network's own seed.
    """

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
    n_networks: int = 1
    coefficient_dtype: str = "auto"

    def __post_init__(self) -> None:
        check_integer("n_hidden", self.n_hidden, 1, MOST)
        check_integer("n_outputs", self.n_outputs, 1)
        check_integer("init_rank", self.init_rank, 1)
        check_integer("seed", self.seed, 0)
        check_choice("init", self.init, ["structured", "gaussian"])
        check_choice("dtype", self.dtype, ["float32", "float64"])
        check_choice("coefficient_dtype", self.coefficient_dtype, ["auto", "bfloat16"])
        if self.narrow and self.dtype != "float32":
            raise ValueError(
                f'coefficient_dtype="bfloat16" goes with dtype="float32", not with {self.dtype!r}; set dtype="float32", or '
                'coefficient_dtype="auto".'
            )
        check_real("threshold", self.threshold, -math.inf)
        check_real("output_scale", self.output_scale, 0, MOST_SCALE, open_low=True)
        check_integer("n_networks", self.n_networks, 1)
        if self.n_hidden % self.n_networks or self.n_outputs % self.n_networks:
            raise ValueError(
                f"{self.n_hidden} neurons and {self.n_outputs} outputs cannot be shared by n_networks={self.n_networks}."
            )
        if self.antisymmetric and self.own_hidden % 2:
            raise ValueError(
                f"n_hidden={self.own_hidden} is odd, but antisymmetric=True pairs every neuron with one of opposite output "
                f"weight; choose n_hidden={self.own_hidden + 1} or antisymmetric=False."
            )

    @property
    def narrow(self) -> bool:
        """Whether α is kept in bfloat16."""
        return self.coefficient_dtype == "bfloat16"

    @property
    def own_hidden(self) -> int:
        """m, the neurons of each network."""
        return self.n_hidden // self.n_networks

    @property
    def own_outputs(self) -> int:
        """C, the outputs of each network."""
        return self.n_outputs // self.n_networks

    @property
    def size(self) -> str:
        """The number of neurons, for people: `1,024 neurons`, or `5 networks of 1,024 neurons`."""
        return (f"{self.n_networks} networks of " if self.n_networks > 1 else "") + f"{self.own_hidden:,} neurons"

    @cached_property
    def seeds(self) -> tuple[int, ...]:
        """The seed of each network's weights; the first is `seed`."""
        others = (generator(self.seed, "member", e).integers(2**31 - 1) for e in range(1, self.n_networks))
        return (self.seed, *map(int, others))

    def member(self, e: int) -> TwoLayer:
        """Network e alone: the same weights from its own seed."""
        return replace(self, n_hidden=self.own_hidden, n_outputs=self.own_outputs, n_networks=1, seed=self.seeds[e])

    def member_neurons(self, e: int) -> NDArray[np.int64]:
        """The neurons of network e, in the order that they have alone. Shape: (m,)."""
        sizes = ((start, size // self.n_networks) for _, start, size in self.block_sizes())
        return np.concatenate([np.arange(start + e * own, start + (e + 1) * own) for start, own in sizes])

    @cached_property
    def mask(self) -> NDArray[np.bool_]:
        """Which output weights join a neuron and an output of the same network. Shape: (n_hidden, n_outputs)."""
        out = np.zeros((self.n_hidden, self.n_outputs), dtype=bool)
        for e in range(self.n_networks):
            out[self.member_neurons(e), e * self.own_outputs : (e + 1) * self.own_outputs] = True
        return out

    def within_members(self, change: Array) -> Array:
        """A change of the output weights without what would join networks. Shape: (n_hidden, n_outputs)."""
        return change if self.n_networks == 1 else np.where(self.mask, change, 0).astype(change.dtype, copy=False)

    @property
    def scale(self) -> float:
        """γ/√m."""
        return self.output_scale / math.sqrt(self.own_hidden)

    @property
    def whole(self) -> TwoLayer:
        """The network that this one is a part of, or itself."""
        return self

    @property
    def exchange(self) -> Exchange:
        """What connects this part of the network with the others."""
        return ALONE

    @property
    def first_neuron(self) -> int:
        """The number of neuron 0 in the whole network."""
        return 0

    @property
    def block_size(self) -> int:
        """Neurons of every block but the last, which may be smaller."""
        return self.n_networks * 2 * -(-self.own_hidden // (2 * MAX_BLOCKS))

    @cached_property
    def blocks(self) -> NDArray[np.int64]:
        """Bounds of at most 64 neuron blocks of equal, even size (the last may be smaller). Shape: (blocks + 1,)."""
        return np.append(np.arange(0, self.n_hidden, self.block_size), self.n_hidden).astype(np.int64)

    def block_sizes(self) -> list[tuple[int, int, int]]:
        """(block number, first neuron, number of neurons) of each block."""
        bounds = self.blocks
        return [(i, int(a), int(b - a)) for i, (a, b) in enumerate(pairwise(bounds))]

    def output_weights(self) -> Array:
        """a_rc = ±1; with `antisymmetric`, a_(2k+1) = −a_(2k), so that f = 0 at the start. Shape: (m, C)."""
        out = np.zeros((self.n_hidden, self.n_outputs), dtype=self.dtype)
        for block, start, size in self.block_sizes():
            own, outputs = size // self.n_networks, self.own_outputs
            for e, seed in enumerate(self.seeds):
                signs = generator(seed, "output weights", block).choice([-1.0, 1.0], size=(own, outputs))
                if self.antisymmetric:
                    signs[1::2] = -signs[::2]
                out[start + e * own : start + (e + 1) * own, e * outputs : (e + 1) * outputs] = signs
        return out


@dataclass(frozen=True)
class Part(TwoLayer):
    """The neurons of one rank: a run of the whole network's blocks, with the same weights and scale as there.

    n_hidden, blocks and arrays are those of the rank; block numbers, which seed the weights, those of the whole network.
    """

    of: TwoLayer | None = None
    link: Exchange = ALONE
    first_block: int = 0

    @classmethod
    def on_rank(cls, network: TwoLayer, exchange: Exchange) -> Part:
        """The rank's share: blocks as evenly as can be. ValueError for more ranks than blocks."""
        n_blocks, own = len(network.blocks) - 1, {f.name: getattr(network, f.name) for f in fields(network)}
        if exchange.size > n_blocks:
            raise ValueError(
                f"{network.size} can be shared by at most {n_blocks} ranks, not by {exchange.size}; start fewer ranks, or take "
                "more neurons."
            )
        first, beyond = exchange.share(n_blocks)
        n_hidden = int(network.blocks[beyond] - network.blocks[first])
        return cls(**{**own, "n_hidden": n_hidden}, of=network, link=exchange, first_block=first)

    @property
    def whole(self) -> TwoLayer:
        assert self.of is not None
        return self.of

    @property
    def exchange(self) -> Exchange:
        return self.link

    @property
    def scale(self) -> float:
        return self.whole.scale

    @property
    def first_neuron(self) -> int:
        return self.first_block * self.block_size

    @property
    def block_size(self) -> int:
        return self.whole.block_size

    def block_sizes(self) -> list[tuple[int, int, int]]:
        return [(self.first_block + i, start, size) for i, start, size in super().block_sizes()]
