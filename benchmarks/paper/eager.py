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

N, M, COLUMNS, ENTITIES, RATE, REPETITIONS = 8192, 8192, 64, 512, 1e-3, 120
BATCHES = (1, 2, 4, 8, 16, 64)


def measure() -> list[dict[str, Any]]:
    """Steps of all batch sizes in turns, for a slow spell of the machine should meet all of them alike."""
    pairs, network = random_pairs(N, (COLUMNS, COLUMNS), ENTITIES), automatic(M)
    lazy = Training(pairs.X, pairs.y, network, 64, RATE).settle()
    eager = EagerTwin(pairs.X, pairs.y, network, max(BATCHES), RATE)
    eager_rows, lazy_rows = ({batch: cycle(N, batch) for batch in BATCHES} for _ in range(2))
    contestants: dict[Any, Any] = {}
    for batch in BATCHES:
        contestants["eager", batch] = lambda batch=batch: eager.step(next(eager_rows[batch]))
        contestants["lazy", batch] = lambda batch=batch: lazy.step(next(lazy_rows[batch]))
    seconds = interleaved(contestants, REPETITIONS, warm=3, of=np.min)
    stored, alpha = eager.bytes / 2**20, lazy.state.coefficients.nnz * 8 / 2**20
    return [{
        "batch": batch, "eager, ms a step": 1e3 * seconds["eager", batch],
        "lazy (scan), ms a step": 1e3 * seconds["lazy", batch],
        "lazy / eager": seconds["lazy", batch] / seconds["eager", batch], "eager, MiB": stored, "lazy, MiB of α": alpha,
    } for batch in BATCHES]  # fmt: skip


def main() -> None:
    """On one state each, for the steps are too small to change what fires."""
    with threads():
        difference = max(check_equal(batch) for batch in (1, 8, 64))
        rows = measure()
    plot("paper.eager", lambda axes: _draw(axes, rows))
    report("paper.eager", "Eager updates pay at tiny batches only, and keep every inner product",
           rows,
           f"n = m = {N:,}, {COLUMNS} ⊗ {COLUMNS}, automatic threshold (about 3.5 % fired), float32, all cores, the fastest of "
           f"{REPETITIONS} steps in turns. Eager: z (m, n) and K (n, n) stored. Same steps to {difference:.1g} on small "
           "copies.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    batches = [row["batch"] for row in rows]
    for name in ("eager, ms a step", "lazy (scan), ms a step"):
        axes.plot(batches, [row[name] for row in rows], "o-", label=name.removesuffix(", ms a step"))
    axes.set(xscale="log", yscale="log", xlabel="rows of a batch", ylabel="ms a step")
    axes.set_xticks(batches, [str(b) for b in batches])
    axes.minorticks_off()
    axes.legend(fontsize=8)
