"""Eager updates of stored inner products, as the paper has them, beside lazy ones: time and memory for each batch size.

    python -m benchmarks.run paper.eager
"""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import interleaved, plot, report
from benchmarks.eager import EagerTwin, check_equal
from benchmarks.problems import Training, automatic, cycle, random_pairs
from kronsgd.parallel import threads

N, M, COLUMNS, ENTITIES, RATE, REPETITIONS = 8192, 8192, 64, 512, 1e-3, 40
BATCHES = (1, 2, 4, 8, 16, 64)


def settled() -> Training:
    """The lazy engine from the second epoch on, whatever batch comes next."""
    pairs = random_pairs(N, (COLUMNS, COLUMNS), ENTITIES)
    return Training(pairs.X, pairs.y, automatic(M), 64, RATE).settle()


def measure(lazy: Training, batch: int) -> dict[str, Any]:
    """Steps in turns, on the same rows."""
    pairs = random_pairs(N, (COLUMNS, COLUMNS), ENTITIES)
    eager = EagerTwin(pairs.X, pairs.y, automatic(M), batch, RATE)
    lazy.batch, lazy.batches, rows = batch, cycle(N, batch), cycle(N, batch)
    seconds = interleaved({"eager": lambda: eager.step(next(rows)), "lazy": lazy.step}, REPETITIONS, warm=3, of=np.min)
    alpha = lazy.state.coefficients
    return {
        "batch": batch, "fired %": 100 * eager.n_fired / (batch * M), "eager, ms a step": 1e3 * seconds["eager"],
        "lazy (scan), ms a step": 1e3 * seconds["lazy"], "lazy / eager": seconds["lazy"] / seconds["eager"],
        "eager, MiB": eager.bytes / 2**20, "lazy, MiB of α": alpha.nnz * 8 / 2**20,
    }  # fmt: skip


def main() -> None:
    """Each batch size on the same lazy state, for its steps are too small to change what fires."""
    with threads():
        difference = max(check_equal(batch) for batch in (1, 8, 64))
        lazy = settled()
        rows = [measure(lazy, batch) for batch in BATCHES]
    plot("paper.eager", lambda axes: _draw(axes, rows))
    report("paper.eager", "Eager updates pay at tiny batches only, and keep every inner product",
           "python -m benchmarks.run paper.eager", rows,
           f"n = m = {N:,}, {COLUMNS} ⊗ {COLUMNS}, automatic threshold, float32, all cores, the fastest of {REPETITIONS} steps "
           f"in turns. Eager: z (m, n) and K (n, n) stored. Same steps to {difference:.1g} on small copies.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    batches = [row["batch"] for row in rows]
    for name in ("eager, ms a step", "lazy (scan), ms a step"):
        axes.plot(batches, [row[name] for row in rows], "o-", label=name.removesuffix(", ms a step"))
    axes.set(xscale="log", yscale="log", xlabel="rows of a batch", ylabel="ms a step")
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.minorticks_off()
    axes.legend(fontsize=8)
