"""How the time of a step grows: with the neurons, the rows, the batch, and with the pairs of a complete grid.

    python -m benchmarks.run exponents
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import interleaved, plot, report, slope, target
from benchmarks.problems import Pairs, Training, automatic, random_pairs
from kronsgd.engines import ENGINES
from kronsgd.parallel import threads
from kronsgd.training import epoch_batches

COLUMNS, ENTITIES, RATE, REPETITIONS = 64, 64, 1e-3, 15
NEURONS, NEURONS_ROWS = [2**k for k in range(12, 18)], 2048
ROWS, ROWS_NEURONS = [2**k for k in range(11, 16)], 4096
BATCHES, BATCHES_SIZE = [2**k for k in range(4, 11)], 4096
SIDES, SIDES_NEURONS, BLOCK = [100, 178, 316, 562, 1000], 256, 1024
LIMITS = {"neurons m": 0.85, "random rows n": 1.02, "batch S": 1.0, "pairs of a complete grid": 0.6}  # targets


def scan(n: int, m: int, batch: int = 64) -> Training:
    """After one epoch on random pairs."""
    pairs = random_pairs(n, (COLUMNS, COLUMNS), ENTITIES)
    return Training(pairs.X, pairs.y, automatic(m), batch, RATE).settle()


def steps(trainings: dict[int, Training]) -> dict[int, float]:
    """Median milliseconds of a step for each size, in turns."""
    return {size: 1e3 * s for size, s in interleaved({k: t.step for k, t in trainings.items()}, REPETITIONS).items()}


def complete(side: int) -> Pairs:
    """Every pair of `side` entities with as many others, in any order."""
    pairs = random_pairs(side**2, (COLUMNS, COLUMNS), side)
    order = np.random.default_rng(0).permutation(side**2)
    return Pairs(pairs.tables, (order // side, order % side), pairs.y)


def block_epoch(training: Training, epoch: int) -> tuple[float, int]:
    """(seconds, batches) of one epoch over blocks of the grid, as `fit` walks them."""
    inner, outer = training.engine.sides(training.state).split(training.state.features)  # type: ignore[attr-defined]
    cells = inner.entity, outer.entity
    batches = epoch_batches(len(cells[0]), BLOCK, shuffle=True, seed=0, epoch=epoch, cells=cells)  # type: ignore[call-arg]
    started = time.perf_counter()
    training.engine.begin_epoch(training.state)  # type: ignore[attr-defined]
    for rows in batches:
        training.step(rows)
    return time.perf_counter() - started, len(batches)


def check_grid(side: int = 24) -> float:
    """The grid engine takes the scan's steps on the same blocks. Largest relative difference of outputs; asserts 1e-4."""
    pairs, outputs = complete(side), []
    for name in ("scan", "grid"):
        training = Training(pairs.X, pairs.y, automatic(256), rate=100.0, engine=name)
        for epoch in range(3):
            block_epoch(training, epoch)
        outputs.append(training.engine.outputs(training.state, pairs.X))
    difference = float(np.linalg.norm(outputs[1] - outputs[0]) / np.linalg.norm(outputs[0]))
    assert difference < 1e-4, difference
    return difference


def grid(side: int) -> float:
    """Milliseconds of a block's step: the faster of two epochs after the first, strips included."""
    pairs = complete(side)
    training = Training(pairs.X, pairs.y, automatic(SIDES_NEURONS), BLOCK, RATE, engine="grid")
    epochs = [block_epoch(training, epoch) for epoch in range(3)]
    return 1e3 * min(seconds / count for seconds, count in epochs[1:])


def main() -> None:
    """Each series on its own."""
    note = "Complete grids are left out: this version has no grid engine. "
    with threads():
        series = {
            "neurons m": steps({m: scan(NEURONS_ROWS, m) for m in NEURONS}),
            "random rows n": steps({n: scan(n, ROWS_NEURONS) for n in ROWS}),
            "batch S": steps({s: scan(BATCHES_SIZE, BATCHES_SIZE, s) for s in BATCHES}),
        }
        if "grid" in ENGINES:
            note = f"Grid and scan agree to {check_grid():.1g} on the same blocks. "
            series["pairs of a complete grid"] = {side**2: grid(side) for side in SIDES}
    rows: list[dict[str, Any]] = []
    for name, ms in series.items():
        exponent = slope(list(ms), list(ms.values()))
        rows.append({"growing": name, "from": min(ms), "to": max(ms), "ms a step": ", ".join(f"{t:.3g}" for t in ms.values()),
                     "exponent": exponent, "target": target(exponent, at_most=LIMITS[name])})  # fmt: skip
    plot("exponents", lambda axes: _draw(axes, series))
    report("exponents", "How the time of a step grows", "python -m benchmarks.run exponents", rows,
           f"{note}Least-squares slope of log time, whole steps after the first epoch, automatic threshold. Neurons: n = "
           f"{NEURONS_ROWS:,}; rows: m = {ROWS_NEURONS:,}; batch: n = m = {BATCHES_SIZE:,}; grid: m = {SIDES_NEURONS}, blocks "
           f"of about {BLOCK:,} pairs, mean over an epoch.")  # fmt: skip


def _draw(axes: Any, series: dict[str, dict[int, float]]) -> None:
    for name, ms in series.items():
        sizes = np.array(list(ms), dtype=float)
        axes.plot(sizes / sizes[0], list(ms.values()), "o-", label=f"{name}: {slope(sizes, list(ms.values())):.2f}")
    axes.set(xscale="log", yscale="log", xlabel="times the smallest size", ylabel="ms a step")
    axes.legend(title="exponent", fontsize=8)
