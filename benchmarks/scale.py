"""10^9 pairs on 100 machines, counted: what each machine would keep, compute and exchange. Nothing of that size is run.

The planner's own formulas and built-in rates (of one 2-core machine), for the neurons that one machine would own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report
from kronsgd.engines.cells import MAX_BYTES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.planner import BUILT_IN, Problem, Schedule
from kronsgd.planner.memory import peak_bytes
from kronsgd.planner.work import STEP_WORK, epoch_steps
from kronsgd.validation import MOST

GIB = 2.0**30
COLUMNS, DENSITY, FIRED = 128, 0.12, 0.05  # of a table; of α after an epoch and firing, about as at a million pairs


def problem(inner: int, outer: int, pairs: int, n_hidden: int, blocks: bool, block: int) -> Problem:
    """A problem of these sizes, from a tiny one of the same kind."""
    rng = np.random.default_rng(0)
    a, b = (ks.Dense(rng.standard_normal((8, COLUMNS), dtype=np.float32)) for _ in range(2))
    cells = np.arange(64)
    network = TwoLayer(n_hidden, threshold=auto_threshold(1024))
    schedule = Schedule(block if blocks else 64, block, blocks, one_epoch=True)
    small = Problem.of(network, a[cells // 8] * b[cells % 8], schedule)
    tables = tuple(replace(t, entities=n) for t, n in zip(small.tables, (inner, outer), strict=True))
    return replace(
        small, n_rows=pairs, tables=tables, sides=(inner, outer, pairs), fired=FIRED, alpha=DENSITY / 2, alpha_last=DENSITY
    )


def broken(inner: int, outer: int, pairs: int, engine: str) -> str:
    """Which limits of the code as it is such a problem passes."""
    found = []
    if engine == "grid":
        found += [f"{name} inner products: {4 * n * n / GIB:.0f} GiB, allowed {MAX_BYTES / GIB:.0f}" for name, n in (
            ("inner", inner), ("outer", outer)) if 4 * n * n > MAX_BYTES]  # fmt: skip
        if (cells := inner << (outer - 1).bit_length()) > MOST:
            found.append(f"cell numbers up to {cells:.1e} in 32 bits")
    return "; ".join(found) or "none"


def row(inner: int, outer: int, pairs: int, machines: int, m: int, engine: str, block: int) -> dict[str, Any]:
    """One machine's part."""
    own = 2 * -(-m // (2 * machines))
    p = problem(inner, outer, pairs, own, engine == "grid", block)
    memory, parts = peak_bytes(engine, p)
    work = STEP_WORK[engine](p)
    seconds = sum(BUILT_IN.seconds(w, 4, 64) for w in work.values())
    steps, size = epoch_steps(engine, p), block if engine == "grid" else 64
    neurons = parts["tails"] + parts["coefficients"] + parts.get("compaction", 0)
    return {
        "engine": engine, "entities": f"{inner:,} × {outer:,}", "pairs": f"{pairs:.0e}", "machines": machines,
        "neurons each": own, "α GiB": neurons / GIB, "rows GiB": (parts["rows"] + parts["row norms"]) / GIB,
        "entities² GiB": parts["entity inner products"] / GIB, "panel or strip GiB":
        (parts.get("panel", 0) + parts.get("strip", 0)) / GIB, "whole GiB": memory / GIB, "rows per step": size,
        "steps": steps, "Gflop per step": sum(w.flops for w in work.values()) / 1e9, "ms per step": 1e3 * seconds,
        "hours per epoch": steps * seconds / 3600, "MiB received per step": 64 * size * 4 / 2**20,
        "limits passed": broken(inner, outer, pairs, engine),
    }  # fmt: skip


def main() -> None:
    """A million pairs on one machine, as measured in `million`; then a thousand times as many."""
    rows = [
        row(2000, 2000, 10**6, 1, 1024, "grid", 1024), row(10_000, 100_000, 10**9, 1, 1024, "grid", 1024),
        row(10_000, 100_000, 10**9, 64, 1024, "grid", 16_384), row(10_000, 100_000, 10**9, 100, 1600, "grid", 16_384),
        row(100_000, 100_000, 10**9, 100, 1600, "grid", 16_384), row(10_000, 100_000, 10**9, 100, 1600, "scan", 64),
    ]  # fmt: skip
    report(
        "scale", "10^9 pairs on 100 machines: counted with the planner's formulas, not run",
        [{"what": what, **{f"{k}": r[what] for k, r in enumerate(rows, 1)}} for what in rows[0]],
        f"α is {100 * DENSITY:.0f} % dense at the end and half of that on average, {100 * FIRED:.0f} % of the pairs fire; "
        "built-in rates of a 2-core machine; without latencies.",
    )  # fmt: skip


if __name__ == "__main__":
    main()
