"""Online learning: what a call of partial_fit takes as a stream grows to 100,000 rows.

    python -m benchmarks.run stream
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

import kronsgd as ks
from benchmarks.common import peak_memory, report, target
from kronsgd.engines import ScanEngine

N, ENTITIES, COLUMNS, M, BATCH, RATE = 100_000, 2_000, (32, 24), 256, 16, 1.0
AT_ONCE, ALONE = 200, 300  # entities known at the start; rows of each tenth that come one by one
PARTS, FLAT = 10, 1.5  # target: the overhead of a call at the end is at most so many times that at the start
LANES, ITEM, ENTRY = 16, 4, 8  # columns of a panel; bytes of a number, and of a coefficient with its row


def problem(n: int) -> tuple[ks.Features, NDArray[Any]]:
    """Pairs of entities of which ever more are known; no pair is special. Half of the targets are 1, half −1."""
    rng = np.random.default_rng(0)
    known = AT_ONCE + (ENTITIES - AT_ONCE) * np.arange(n) // N
    i, j = (rng.random((2, n)) * known).astype(np.int64)
    a, b = (ks.Dense(rng.standard_normal((ENTITIES, d)).astype(np.float32)) for d in COLUMNS)
    return a[i] * b[j], rng.permutation(np.tile([1.0, -1.0], n // 2))


class Clock:
    """Seconds within the engine's own step."""

    def __init__(self) -> None:
        self.inside = 0.0

    @contextmanager
    def watching(self, names: tuple[str, ...] = ("forward", "backward", "update")) -> Iterator[Clock]:
        """Time the scan engine's phases."""
        before = {name: getattr(ScanEngine, name) for name in names}
        for name, phase in before.items():
            setattr(ScanEngine, name, self._timed(phase))
        try:
            yield self
        finally:
            for name, phase in before.items():
                setattr(ScanEngine, name, phase)

    def _timed(self, phase: Any) -> Any:
        def timed(*arguments: Any) -> Any:
            started = time.perf_counter()
            try:
                return phase(*arguments)
            finally:
                self.inside += time.perf_counter() - started

        return timed


def stream(n: int = N) -> tuple[ks.KronRegressor, list[dict[str, Any]], int]:
    """(the model after n rows, what calls took in each tenth, number of calls): rows one by one, and the rest in batches."""
    X, y = problem(n)
    model = ks.KronRegressor(n_hidden=M, engine="scan", learning_rate_init=RATE, random_state=0, memory_limit="64 GiB")
    rows, done, calls = [], 0, 0
    for part in range(PARTS):
        row: dict[str, Any] = {"rows so far": n * (part + 1) // PARTS}
        for size, stop in ((BATCH, row["rows so far"] - ALONE), (1, row["rows so far"])):
            model.set_params(batch_size=size)
            took = []
            with Clock().watching() as clock:
                while done < stop:
                    own = slice(done, min(done + size, stop))
                    some, some_y, clock.inside, started = X[own], y[own], 0.0, time.perf_counter()
                    model.partial_fit(some, some_y)
                    took.append((time.perf_counter() - started, clock.inside))
                    done, calls = own.stop, calls + 1
            whole, inside = np.array(took).T
            name = "one by one" if size == 1 else f"batches of {size}"
            row |= {
                f"{name}, rows/s": size / float(whole.mean()), f"{name}: ms of a step": 1e3 * float(np.median(inside)),
                f"{name}: ms around it": 1e3 * float(np.median(whole - inside)),
            }  # fmt: skip
        row["coefficients, million"] = model.state_.coefficients.nnz / 1e6
        rows.append(row)
    return model, rows, calls


def warm_up() -> None:
    """The same work at a small size."""
    stream(10 * (ALONE + BATCH))


def predicted(model: ks.KronRegressor, calls: int) -> dict[str, float]:
    """MiB of what grows with a stream."""
    state, n, leaves = model.state_, model.features_.n_rows, list(model.features_.leaves())
    alpha, known = state.coefficients, model._known
    assert known is not None
    keys = [known._rows, *(table._keys for table in known._tables)]
    record = model.history_[-1]
    parts = {
        "coefficients": ENTRY * (len(alpha.values) + len(alpha.tail_rows)),
        "a copy of them while tails are merged": ENTRY * (alpha.nnz + len(alpha.tail_rows)),
        "panel of the batch": 1.25 * n * LANES * ITEM,
        "row numbers, norms and places": n * (len(leaves) * (8 + 4) + 8 + 4 + 8),
        "tables and their starting values": sum(2 * ITEM * leaf.n_entities * (leaf.dim + M) for leaf in leaves),
        "keys": sum(sys.getsizeof(d) + len(d) * (sys.getsizeof(next(iter(d))) + 32) for d in keys),
        "history": calls * (sys.getsizeof(record) + sum(sys.getsizeof(value) for value in record.values())),
        "the stream itself": n * (2 * 8 * 2 + 8 * 3) + ITEM * ENTITIES * sum(COLUMNS) * 2,
    }
    return {name: size / 2**20 for name, size in parts.items()}


def main() -> None:
    """One stream, timed; again in a process of its own, for its memory."""
    warm_up()
    model, rows, calls = stream()
    for name in ("one by one", f"batches of {BATCH}"):
        for row in rows:
            ratio = row[f"{name}: ms around it"] / rows[0][f"{name}: ms around it"]
            row[f"{name}: around it, to the first tenth"] = f"{ratio:.2f}, {target(ratio, at_most=FLAT)}"
    parts = predicted(model, calls)
    _, grown = peak_memory("benchmarks.stream", "stream()", "warm_up()")
    listed = ", ".join(f"{name} {size:.1f}" for name, size in parts.items())
    report("stream", "A stream's calls cost the same however long it is, but for the step itself",
           rows,
           f"{COLUMNS[0]} ⊗ {COLUMNS[1]} columns, m = {M}, {AT_ONCE} entities of each table at first, in the end {ENTITIES:,}; "
           f"of each tenth {ALONE} rows come one by one, the others {BATCH} at a time. A step is the engine's forward, "
           "backward and update: n gathers for each row of the batch, and all coefficients; around it is all else that "
           "partial_fit does. rows/s: mean over the tenth; ms: median call. Peak memory beyond imports and a short stream: "
           f"measured {grown:.0f} MiB, predicted {sum(parts.values()):.0f} MiB ({listed}).", _draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    n = [row["rows so far"] for row in rows]
    for color, name in zip(("C0", "C1"), ("one by one", f"batches of {BATCH}"), strict=True):
        axes.plot(n, [row[f"{name}: ms of a step"] for row in rows], "o--", color=color, label=f"{name}: the step")
        axes.plot(n, [row[f"{name}: ms around it"] for row in rows], "o-", color=color, label=f"{name}: around it")
    axes.set(xlabel="rows so far", ylabel="ms a call", ylim=(0, None))
    axes.legend(fontsize=7)
