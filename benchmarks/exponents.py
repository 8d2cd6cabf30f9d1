"""How the time of a step grows: with the neurons, the rows, the batch, and with the pairs of a complete grid.

    python -m benchmarks.run exponents
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import interleaved, report, slope, target
from benchmarks.problems import Pairs, Training, automatic, random_pairs
from kronsgd.engines import ENGINES
from kronsgd.parallel import threads
from kronsgd.training import epoch_batches

COLUMNS, ENTITIES, RATE, REPETITIONS = 64, 64, 1e-3, 15
NEURONS, NEURONS_ROWS = [2**k for k in range(12, 18)], 2048
ROWS, ROWS_NEURONS = [2**k for k in range(11, 16)], 4096
BATCHES, BATCHES_SIZE = [2**k for k in range(4, 11)], 4096
SIDES, SIDES_NEURONS, BLOCK = [100, 178, 316, 562, 1000], 256, 1024
LIMITS = {  # targets
    "neurons m": 0.85, "neurons m, Gaussian w(0)": 0.85, "random rows n": 1.02, "batch S": 1.0,
    "pairs of a complete grid": 0.6,
}  # fmt: skip


def scan(n: int, m: int, batch: int = 64, init: str = "structured") -> Training:
    """After one epoch on random pairs; of fewer columns where w(0) is stored."""
    pairs = random_pairs(n, (16, 16) if init == "gaussian" else (COLUMNS, COLUMNS), ENTITIES)
    return Training(pairs.X, pairs.y, automatic(m, init=init), batch, RATE).settle()


def series(trainings: dict[int, Training], name: str) -> dict[str, Any]:
    """Median milliseconds of a step for each size, taken in turns, and how the coefficients grow."""
    ms = {size: 1e3 * s for size, s in interleaved({k: t.step for k, t in trainings.items()}, REPETITIONS).items()}
    shares = [100 * t.fired for t in trainings.values()]
    filled = slope(list(ms), [t.state.coefficients.nnz * t.batch for t in trainings.values()])
    return entry(name, ms, f"{shares[0]:.2f} … {shares[-1]:.2f}", filled)


def entry(name: str, ms: dict[int, float], fired: str = "", work: float | str = "") -> dict[str, Any]:
    """One row of the table."""
    exponent = slope(list(ms), list(ms.values()))
    return {"growing": name, "sizes": list(ms), "ms a step": [round(t, 3) for t in ms.values()], "fired %": fired,
            "exponent of S·nnz(α)": work, "exponent of time": exponent,
            "target": target(exponent, at_most=LIMITS[name])}  # fmt: skip


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
    rows = []
    with threads():
        rows.append(series({m: scan(NEURONS_ROWS, m) for m in NEURONS}, "neurons m"))
        gaussian = {m: scan(NEURONS_ROWS, m, init="gaussian") for m in NEURONS}
        rows.append(series(gaussian, "neurons m, Gaussian w(0)"))
        del gaussian  # gigabytes of starting values
        rows.append(series({n: scan(n, ROWS_NEURONS) for n in ROWS}, "random rows n"))
        rows.append(series({s: scan(BATCHES_SIZE, BATCHES_SIZE, s) for s in BATCHES}, "batch S"))
        if "grid" in ENGINES:
            note = f"Grid and scan agree to {check_grid():.1g} on the same blocks. "
            rows.append(entry("pairs of a complete grid", {side**2: grid(side) for side in SIDES}))
    report("exponents", "How the time of a step grows", rows,
           f"{note}Least-squares slope of log time, whole steps after the first epoch, automatic threshold. Neurons: n = "
           f"{NEURONS_ROWS:,}; rows: m = {ROWS_NEURONS:,}; batch: n = m = {BATCHES_SIZE:,}; grid: m = {SIDES_NEURONS}, blocks "
           f"of about {BLOCK:,} pairs, mean over an epoch.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for row in rows:
        sizes = np.array(row["sizes"], dtype=float)
        axes.plot(sizes / sizes[0], row["ms a step"], "o-", label=f"{row['growing']}: {row['exponent of time']:.2f}")
    axes.set(xscale="log", yscale="log", xlabel="times the smallest size", ylabel="ms a step")
    axes.legend(title="exponent", fontsize=8)
