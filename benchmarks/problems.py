"""Problems and trainings that the benchmarks measure: random pairs of entities, and one step after another on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import reduce
from itertools import count
from operator import mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kronsgd as ks
from kronsgd.engines import ENGINES, Engine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.training import epoch_batches, train_step

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows x_i = a_i ⊗ b_i ⊗ … over tables of unit-norm entities."""

    tables: tuple[Array, ...]  # (entities, columns) each, float32
    index: tuple[NDArray[np.int64], ...]  # (n,) each
    y: Array  # (n, 1)

    @property
    def X(self) -> ks.Features:
        """As a feature expression."""
        return reduce(mul, (ks.Dense(table)[i] for table, i in zip(self.tables, self.index, strict=True)))


def random_pairs(n: int, columns: tuple[int, ...], entities: int, seed: int = 0) -> Pairs:
    """n random combinations of Gaussian entities, with Gaussian targets. The rows depend on seed, n and entities only."""
    rng, rows = np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1))
    index = tuple(rows.integers(entities, size=n) for _ in columns)
    tables = [rng.standard_normal((entities, d)).astype(np.float32) for d in columns]
    unit = tuple(t / np.linalg.norm(t, axis=1, keepdims=True) for t in tables)
    return Pairs(unit, index, rows.standard_normal((n, 1)))


def cycle(n: int, batch: int, seed: int = 0) -> Iterator[NDArray[np.int64]]:
    """Shuffled batches of equal size, epoch after epoch."""
    for epoch in count():
        yield from epoch_batches(n, batch, shuffle=True, seed=seed, epoch=epoch)


class Training:
    """One engine's training, a step at a time. Run it inside `kronsgd.parallel.threads`."""

    def __init__(
        self, X: ks.Features, y: Array, network: TwoLayer, batch: int = 64, rate: float = 1.0, engine: str = "scan",
        batches: Iterator[NDArray[np.int64]] | None = None,
    ) -> None:  # fmt: skip
        self.engine: Engine = ENGINES[engine]
        self.state = self.engine.initialize(network, X)
        self.y, self.batch, self.rate, self.n_fired, self.n_seen = y, batch, rate, 0, 0
        self.batches = cycle(len(y), batch) if batches is None else batches
        self.upcoming: NDArray[np.int64] | None = None

    def step(self, rows: NDArray[np.int64] | None = None) -> float:
        """One step on the given rows, or the next batch. Returns the summed loss before it."""
        if rows is None:
            rows = next(self.batches) if self.upcoming is None else self.upcoming
            self.upcoming = next(self.batches, None)
        self.engine.expect(self.state, self.upcoming)
        loss, n_fired = train_step(
            self.engine, self.state, LOSSES["squared"], rows, self.y[rows], np.ones(len(rows)), self.rate, 0.0
        )
        self.n_fired, self.n_seen = self.n_fired + n_fired, self.n_seen + len(rows)
        return loss

    def epoch(self) -> None:
        """Every row once."""
        for _ in range(-(-len(self.y) // self.batch)):
            self.step()

    def settle(self) -> Training:
        """One epoch, then α in the order in which later epochs find it."""
        self.epoch()
        self.state.coefficients.compact()
        return self

    @property
    def fired(self) -> float:
        """Share of (row, neuron) pairs that have fired so far."""
        return self.n_fired / max(self.n_seen * self.state.network.n_hidden, 1)


def automatic(m: int, **settings: Any) -> TwoLayer:
    """m neurons at the automatic threshold."""
    return TwoLayer(n_hidden=m, threshold=auto_threshold(m), **settings)


def firing(X: ks.Features, m: int, share: float) -> TwoLayer:
    """m neurons with a threshold that `share` of the starting values of a sample of rows exceeds."""
    network = TwoLayer(n_hidden=m)
    rows = np.random.default_rng(0).permutation(X.n_rows)[:256]
    start = np.asarray(ENGINES["scan"].initialize(network, X).start(rows))
    return replace(network, threshold=float(np.quantile(start, 1 - share)))


def starting_weights(state: Any, out: Array) -> Array:
    """W(0) of a scan state in float32, written block by block: the library itself refuses arrays of gigabytes."""
    for block, first, size in state.network.block_sizes():
        out[first : first + size] = state.initial._block_weights(block, size)
    return out
