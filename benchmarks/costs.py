"""One step's operations, bytes and time for products of 2^12, 2^24, 2^40 and infinitely many dimensions.

    python -m benchmarks.run costs
"""

from __future__ import annotations

import time
import tracemalloc
from statistics import median
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report
from kronsgd.engines import ScanEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads
from kronsgd.training import train_step

ENTITIES, N, M, BATCH = 300, 4000, 2048, 64


def product(columns: int, infinite: bool) -> ks.Features:
    """Four tables of 300 entities under a row index each, the last an RBF kernel if `infinite`."""
    rng, rows = np.random.default_rng(0), np.random.default_rng(1)
    tables: list[Any] = [ks.Dense(rng.normal(size=(ENTITIES, columns))) for _ in range(4)]
    if infinite:
        tables[3] = ks.RBF(rng.normal(size=(ENTITIES, columns)))
    a, b, c, d = (table[rows.integers(ENTITIES, size=N)] for table in tables)
    return a * b * c * d


def measure(X: ks.Features) -> dict[str, Any]:
    """Median over steps of the second epoch."""
    engine, rng = ScanEngine(), np.random.default_rng(2)
    state = engine.initialize(TwoLayer(n_hidden=M, threshold=auto_threshold(M), output_scale=0.1), X)
    y, times, flops, peaks = rng.normal(size=(N, 1)), [], [], []
    order = rng.permutation(2 * N) % N
    for t in range(2 * N // BATCH):
        rows = order[t * BATCH : (t + 1) * BATCH]
        if t == 2 * N // BATCH - 10:
            tracemalloc.start()
        tracemalloc.reset_peak() if tracemalloc.is_tracing() else None
        before = tracemalloc.get_traced_memory()[0]
        started = time.perf_counter()
        train_step(engine, state, LOSSES["squared"], rows, y[rows], np.ones(BATCH), 100.0, 0.0)
        if tracemalloc.is_tracing():
            peaks.append(tracemalloc.get_traced_memory()[1] - before)
        elif t > N // BATCH:
            times.append(time.perf_counter() - started)
            flops.append(2 * BATCH * state.coefficients.nnz / (N * M * BATCH))
    tracemalloc.stop()
    return {"median ms a step": 1e3 * median(times), "flops / (n·m·S)": median(flops),
            "KiB allocated in a step": median(peaks) // 1024}  # fmt: skip


def main() -> None:
    """The same step at every dimension."""
    cases = [("2^12", 8, False), ("2^24", 64, False), ("2^40", 1024, False), ("infinitely many (one RBF factor)", 64, True)]
    rows = []
    for name, columns, infinite in cases:
        with threads():
            rows.append({"dimensions": name, **measure(product(columns, infinite))})
    report("costs", "A step costs the same at every dimension", "python -m benchmarks.run costs", rows,
           f"Four factors, {ENTITIES} entities each, n = {N:,}, m = {M:,}, batch {BATCH}, from the second epoch. Flops differ "
           "only through the share of neurons that fire. tests/test_costs.py counts every kernel call's arrays.")  # fmt: skip
