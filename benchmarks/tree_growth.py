"""How the time of the tree engine's step on one row grows with the neurons.

    python -m benchmarks.run tree_growth
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benchmarks.common import report, slope, target
from benchmarks.problems import Training, automatic, cycle
from benchmarks.tree_speed import N, rate_of, teacher
from kronsgd.parallel import threads

NEURONS = [2**k for k in range(12, 19)]
STEPS, WARM, ROUNDS = 60, 15, 5
LIMIT = 0.8  # of the exponent
SLOWER = 10  # than the automatic step, as a network in the middle of its training


def settled(m: int) -> Training:
    """After one epoch of single rows; counts start anew."""
    X, y = teacher()
    y = ((y - y.mean()) / y.std())[:, None]
    network = automatic(m)
    training = Training(X, y, network, 1, rate_of(X, network) / SLOWER, "tree")
    training.epoch()
    training.engine.begin_epoch(training.state)
    training.state.counts[:] = 0
    return training


def milliseconds(training: Training) -> float:
    """Median of a step; the first ones of each round fill the caches."""
    batches, times = cycle(N, 1, seed=1), []
    for _ in range(ROUNDS):
        for k in range(STEPS):
            rows, started = next(batches), time.perf_counter()
            training.step(rows)
            times += [time.perf_counter() - started] if k >= WARM else []
    return 1e3 * float(np.median(times))


def measure(m: int) -> dict[str, Any]:
    """One width, which is let go before the next one."""
    training = settled(m)
    ms = milliseconds(training)
    state = training.state
    _, rows, evaluated, fired, _ = state.counts
    arrays = training.engine.arrays(state)  # type: ignore[attr-defined]
    bounds = [] if state.movement is None else [*state.movement.bounds(), *state.movement.sums()[:3], state.movement.t]
    learned = sum(array.nbytes for array in arrays.values())
    return {
        "m": m, "ms": ms, "fired %": 100 * fired / max(rows, 1) / m, "evaluated %": 100 * evaluated / max(rows, 1) / m,
        "still pruning": state.movement is not None, "coefficients, MiB": learned / 2**20,
        "bounds, MiB": sum(array.nbytes for array in bounds) / 2**20, "values of all pairs, MiB": 4 * N * m / 2**20,
    }  # fmt: skip


def main(neurons: list[int] = NEURONS) -> None:
    """One width after the other: the widest takes gigabytes."""
    with threads():
        rows = [measure(m) for m in neurons]
    exponent = slope(neurons, [row["ms"] for row in rows])
    for row in rows:
        row["exponent"] = row["target"] = ""
    rows[-1] |= {"exponent": exponent, "target": target(exponent, at_most=LIMIT)}
    report("tree_growth", "One row a step: time against the number of neurons", rows,
           f"Planted pairs, n = {N:,}, the automatic threshold, batches of 1 at a tenth of their share of the automatic step; "
           f"whole steps after a first epoch, median of {ROUNDS * (STEPS - WARM)}. Values of all pairs: what the paper's order "
           "of work would store; not measured.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    m, ms = [row["m"] for row in rows], [row["ms"] for row in rows]
    axes.plot(m, ms, "o-", label=f"measured, exponent {rows[-1]['exponent']:.2f}")
    axes.plot(m, [ms[0] * k / m[0] for k in m], "--", color="0.6", label="exponent 1")
    axes.set(xscale="log", yscale="log", xlabel="neurons m", ylabel="ms a step")
    axes.legend(fontsize=8)
