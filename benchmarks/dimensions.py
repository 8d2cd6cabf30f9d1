"""One step at n = m = 8,192 for products of 2^12 … 2^40 and infinitely many dimensions: the same time and memory.

    python -m benchmarks.run dimensions
"""

from __future__ import annotations

import tracemalloc
from functools import reduce
from operator import mul
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import interleaved, report, slope, target
from benchmarks.opponents import TorchDense
from benchmarks.problems import Training, automatic, random_pairs
from kronsgd.parallel import threads

N, M, ENTITIES, FACTORS, RATE, REPETITIONS = 8192, 8192, 256, 4, 1e-3, 60
COLUMNS = (8, 16, 64, 1024)  # of each factor
INFINITE = "infinitely many"
SPREAD, EXPONENT = 1.05, 0.01  # targets


def problems() -> dict[str, tuple[ks.Features, Any]]:
    """The same entities, row index and groups at every dimension; in the last, one factor is an RBF kernel."""
    out = {}
    for columns in COLUMNS:
        pairs = random_pairs(N, (columns,) * FACTORS, ENTITIES)
        out[f"2^{FACTORS * columns.bit_length() - FACTORS}"] = pairs.X, pairs.y
    leaves = [ks.Dense(t)[i] for t, i in zip(pairs.tables[1:], pairs.index[1:], strict=True)]
    rbf = ks.RBF(np.random.default_rng(2).normal(size=(ENTITIES, 64)))[pairs.index[0]]
    return {**out, INFINITE: (reduce(mul, leaves, rbf), pairs.y)}


def check_equal() -> float:
    """At 2^8 dimensions, PyTorch's explicit step agrees. Largest relative difference of losses; asserts 1e-4."""
    pairs = random_pairs(256, (4,) * FACTORS, 32)
    ours = Training(pairs.X, pairs.y, automatic(256), rate=100.0)
    twin = TorchDense(pairs, ours.state, 64, 100.0)
    batches = [np.arange(k, 256, 4) for k in range(4)] * 3
    losses = np.array([ours.step(rows) for rows in batches])
    difference = float(np.abs(np.array([twin.step(rows) for rows in batches]) / losses - 1).max())
    assert losses[-1] < losses[0], "the problem does not train, so that equality would mean nothing"
    assert difference < 1e-4, difference
    return difference


def allocated(training: Training) -> int:
    """KiB that a step allocates."""
    tracemalloc.start()
    training.step()
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    training.step()
    peak = tracemalloc.get_traced_memory()[1] - before
    tracemalloc.stop()
    return peak // 1024


def main() -> None:
    """One epoch of each, then their steps in turns."""
    rows: list[dict[str, Any]] = []
    with threads():
        difference = check_equal()
        trainings = {name: Training(X, y, automatic(M), rate=RATE) for name, (X, y) in problems().items()}
        for training in trainings.values():
            training.settle()
        seconds = interleaved({name: t.step for name, t in trainings.items()}, REPETITIONS)
        for name, training in trainings.items():
            d = float("inf") if name == INFINITE else 2.0 ** int(name[2:])
            rows.append({
                "dimensions": name, "median ms a step": 1e3 * seconds[name], "fired %": 100 * training.fired,
                "α filled %": 100 * training.state.coefficients.nnz / (N * M), "KiB allocated in a step": allocated(training),
                "PyTorch, explicit: GiB for rows and weights": 4 * d * (N + M) / 2**30,
            })  # fmt: skip
    times = [row["median ms a step"] for row in rows]
    spread, exponent = max(times) / min(times), slope([2.0 ** int(r["dimensions"][2:]) for r in rows[:-1]], times[:-1])
    report("dimensions", "A step costs the same at every dimension", rows,
           f"n = m = {N:,}, batch 64, {FACTORS} factors of {ENTITIES} entities each under row indices of their own, one "
           f"threshold, second epoch, steps in turns. Slowest / fastest {spread:.3f} ({target(spread, at_most=SPREAD)}); "
           f"time ∝ d^{exponent:.4f} ({target(exponent, at_most=EXPONENT)}). Explicit PyTorch takes the same steps at 2^8 "
           f"dimensions (losses to {difference:.1g}) and cannot hold 2^24.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    times = [row["median ms a step"] for row in rows]
    axes.plot(range(len(rows)), times, "o-")
    axes.set_xticks(range(len(rows)), [row["dimensions"] for row in rows])
    axes.set(xlabel="dimensions of the product", ylabel="ms a step", ylim=(0, 1.2 * max(times)))
