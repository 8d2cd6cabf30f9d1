"""Steps of one network on up to 64 ranks, predicted: a rank's own share measured, the exchange counted.

    python -m benchmarks.run scaling

A rank's own share of a step is measured on one thread, with the real engine on the real share of neurons; only what the other
ranks would send is made up. The exchange takes rounds · (two latencies + what a message costs on this machine, measured)
+ bytes / bandwidth, as `python -m benchmarks.run hosts` finds it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.common import report, target
from benchmarks.hosts import on_one_host
from benchmarks.problems import Training, automatic, random_pairs
from kronsgd.engines.segments import bits_for
from kronsgd.engines.shards import join
from kronsgd.exchange import Exchange
from kronsgd.network import Part, TwoLayer
from kronsgd.parallel import threads

Array = NDArray[Any]
BLOCKS, BATCH, COLUMNS, ENTITIES = 64, 64, 64, 1024
RANKS = (1, 2, 4, 8, 16, 32, 64)
PROBLEMS = (  # rows, neurons, share of their pairs that has a coefficient
    (100_000, 163_840, 0.045), (100_000, 65_536, 0.045), (25_000, 16_384, 0.045), (8192, 4096, 0.045)
)  # fmt: skip
NETWORKS = {"25 µs, 10 Gbit/s": (25e-6, 1.25e9), "100 µs, 1 Gbit/s": (1e-4, 1.25e8), "500 µs, 1 Gbit/s": (5e-4, 1.25e8)}
ALGORITHMS = ("doubling", "all_gather")


class Pretended(Exchange):
    """The exchange of rank 0 of so many ranks, of which the others send zeros at no cost."""

    shared = True

    def __init__(self, size: int) -> None:
        self.size, self._n_blocks = size, 0

    def share(self, n_blocks: int) -> tuple[int, int]:
        self._n_blocks = n_blocks
        return 0, -(-n_blocks // self.size)

    def gather(
        self, partial: Array, axis: int, numbers: Sequence[float], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Array, list[float]]:
        meanwhile()
        room = [(0, self._n_blocks - size if k == axis else 0) for k, size in enumerate(partial.shape)]
        return np.pad(partial, room), list(numbers)


def coefficients(n_rows: int, n_hidden: int, share: float) -> dict[str, Array]:
    """As the engine's arrays: every neuron of one block with its own random rows, the same for all blocks."""
    rng, own = np.random.default_rng(0), n_hidden // BLOCKS
    lists = [np.flatnonzero(rng.random(n_rows) < share).astype(np.int32) for _ in range(own)]
    ends = np.cumsum([0, *map(len, lists)])
    return {
        "indptr": ends, "rows": np.concatenate(lists), "values": np.full(ends[-1], 1e-6, np.float32),
        "tail_first": np.zeros(own + 1, np.int64), "tail_len": np.zeros(own, np.int64), "tail_rows": np.zeros(0, np.int32),
        "tail_values": np.zeros(0, np.float32), "slice_bits": np.array([bits_for(share, 4)]), "scale": np.ones(1),
    }  # fmt: skip


def own_share(n_rows: int, n_hidden: int, share: float, size: int) -> tuple[float, float]:
    """Median seconds of (one rank's part of a step, the panel of inner products in it), on this thread."""
    pairs = random_pairs(n_rows, (COLUMNS, COLUMNS), ENTITIES)
    network: TwoLayer = automatic(n_hidden)
    if size > 1:
        network = Part.on_rank(network, Pretended(size))
    training = Training(pairs.X, pairs.y, network, BATCH, rate=1e-6)
    arrays = join([coefficients(n_rows, n_hidden, share)] * (len(network.blocks) - 1))
    training.engine.restore(training.state, {**arrays, "output_weights": training.state.output_weights})
    del arrays
    training.state.coefficients.merge_long_tails()
    steps, panels, repetitions = [], [], max(8, size)
    for _ in range(2 + repetitions):
        rows = np.sort(next(training.batches))
        started = time.perf_counter()
        training.state.gram.panel(rows, BATCH, None, training.state.buffers)
        panels.append(time.perf_counter() - started)
        started = time.perf_counter()
        training.step(rows)
        steps.append(time.perf_counter() - started)
    return median(steps[2:]), median(panels[2:])


def exchange_seconds(size: int, latency: float, bandwidth: float, message: float, algorithm: str) -> float:
    """Of one exchange. latency: seconds one way; message: seconds that one costs the processors."""
    rounds = (size - 1).bit_length() if algorithm == "doubling" else size - 1
    sent = (size - 1) * (24 + 4 * BATCH * -(-BLOCKS // size))
    return rounds * (2 * latency + message) + sent / bandwidth


def speed_ups(problem: tuple[int, int, float], message: Mapping[str, float]) -> list[dict[str, Any]]:
    """For every number of ranks and network. message: seconds of one, by algorithm."""
    shares = {size: own_share(*problem, size) for size in RANKS}
    n, m, share = problem
    rows = []
    for size, (step, panel) in shares.items():
        row = {"rows": n, "neurons": m, "α, %": 100 * share, "ranks": size, "own share, ms": 1e3 * step,
               "its panel, ms": 1e3 * panel, "no exchange": shares[1][0] / step}  # fmt: skip
        for name, network in NETWORKS.items():
            for algorithm in ALGORITHMS:
                seconds = step + exchange_seconds(size, *network, message[algorithm], algorithm)
                row[f"{name}, {algorithm}"] = shares[1][0] / seconds
        rows.append(row)
    return rows


def draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """Speed-up over ranks for the first problem and the last, on each network."""
    for (n, m, share), style in zip((PROBLEMS[0], PROBLEMS[-1]), ("-", ":"), strict=True):
        own = [row for row in rows if (row["rows"], row["neurons"], row["α, %"]) == (n, m, 100 * share)]
        for colour, name in enumerate(NETWORKS):
            axes.plot(RANKS, [row[f"{name}, doubling"] for row in own], style, color=f"C{colour}", label=f"n = {n:,}, {name}")
    axes.plot(RANKS, RANKS, color="black", linewidth=0.5)
    axes.set(xscale="log", yscale="log", xlabel="ranks", ylabel="times as fast as one", xticks=RANKS, xticklabels=RANKS)
    axes.legend(fontsize=6)


def main() -> None:
    """A large problem at two densities, a middling and a small one."""
    message, _ = on_one_host(2, 500)
    with threads(1):
        rows = [row for problem in PROBLEMS for row in speed_ups(problem, message)]
    best = next(row for row in rows if row["ranks"] == RANKS[-1])["25 µs, 10 Gbit/s, doubling"]
    report("scaling", f"64 ranks are {best:.0f} times as fast as one on a large problem", rows,
           f"Predicted (target of the first problem on 64 ranks, 25 µs one way: {target(best, at_least=50)}). Measured: one "
           f"thread's share of a step of {BATCH} rows, at random coefficients of the given share: 4.5 % is that of "
           "five epochs with 65,536 neurons. Counted: the exchange, by all_gather and by doubling, at "
           f"{1e3 * message['doubling']:.2f} ms a message (all_gather {1e3 * message['all_gather']:.2f}), measured between two "
           "processes of one machine. Every rank computes the whole panel of inner products, rows × batch: it bounds the "
           "speed-up. More than 64 ranks are refused, for there are 64 blocks; between two powers of two the largest share is "
           "that of the smaller one.", draw)  # fmt: skip
