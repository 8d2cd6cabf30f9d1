"""Operations of one step, counted and not timed: how they grow with d, m, n and the batch.

    python -m benchmarks.run paper.operations
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.common import plot, report, slope
from benchmarks.problems import Pairs, Training, automatic, random_pairs
from kronsgd.engines import ENGINES
from kronsgd.parallel import threads
from kronsgd.reference import KroneckerSGD, Operations

RATE = 1e-3  # so small that the fired sets stay those of w(0)
STEPS = 4  # that are counted
ENTITIES = 64


@dataclass(frozen=True)
class Shape:
    """A problem: d = columns²."""

    d: int = 1024
    m: int = 1024
    n: int = 1024
    batch: int = 16

    def pairs(self) -> Pairs:
        """Random pairs of entities."""
        columns = round(self.d**0.5)
        return random_pairs(self.n, (columns, columns), ENTITIES)

    def rows(self) -> list[Any]:
        """The batches that are counted."""
        rng = np.random.default_rng(0)
        return [np.sort(rng.choice(self.n, self.batch, replace=False)) for _ in range(STEPS)]


GROWING = {
    "d": [64, 256, 1024, 4096, 16384, 65536], "m": [256, 512, 1024, 2048, 4096, 8192], "n": [256, 512, 1024, 2048, 4096],
    "batch": [1, 2, 4, 8, 16, 32, 64],
}  # fmt: skip


# Counters: (shape) -> operations of a step, a multiply-add being two, a comparison and a stored number one each --------


def eager(store: str) -> Callable[[Shape], float]:
    """The paper's algorithm counts its own."""

    def count(shape: Shape) -> float:
        pairs = shape.pairs()
        sgd = KroneckerSGD(automatic(shape.m, dtype="float64"), pairs.X, store=store)
        before = sgd.operations.copy()
        for rows in shape.rows():
            batch = sgd.forward(rows)
            sgd.update(sgd.backward(batch, (batch.outputs - pairs.y[rows]) / len(rows), RATE))
        spent: Operations = sgd.operations - before
        return (2 * spent.multiply_adds + spent.comparisons + spent.nodes_written) / STEPS

    return count


def lazy(engine: str, evaluated: Callable[[Training, Shape], float]) -> Callable[[Shape], float]:
    """An engine that evaluates ⟨w_r, x_i⟩ from α: nnz(α)/m multiply-adds for each pair (i, r) that it evaluates.

    Beside these: a panel of n·S inner products from two factors, and what is done for each evaluated and each fired pair.
    """

    def count(shape: Shape) -> float:
        pairs = shape.pairs()
        training = Training(pairs.X, pairs.y, automatic(shape.m), shape.batch, RATE, engine=engine)
        training.epoch()  # so that α is filled as it is from then on
        fired = training.fired * shape.batch * shape.m
        coefficients = training.state.coefficients.nnz / shape.m
        panel = 2 * shape.n * shape.batch
        return panel + evaluated(training, shape) * (2 * coefficients + 1) + 5 * fired

    return count


def dense(shape: Shape) -> float:
    """Two products of a batch with explicit weights."""
    return 4.0 * shape.batch * shape.m * shape.d


# HOOK: an engine that evaluates fewer than all pairs says here how many (row, neuron) pairs a step of it evaluated, on average
# over its last epoch. It appears in the table and the picture as soon as kronsgd.engines.ENGINES has it.
# Example: "tree": lambda training, shape: training.state.counts.evaluated / training.state.counts.steps
EVALUATED: dict[str, Callable[[Training, Shape], float]] = {"scan": lambda training, shape: shape.batch * shape.m}

COUNTERS: dict[str, Callable[[Shape], float]] = {
    "eager, trees": eager("tree"), "eager, no trees": eager("flat"),
    **{f"lazy ({name})": lazy(name, pairs) for name, pairs in EVALUATED.items() if name in ENGINES}, "dense": dense,
}  # fmt: skip


def series(name: str) -> list[dict[str, Any]]:
    """One row for each counter, along one growing size."""
    sizes = GROWING[name]
    out = []
    for counter, count in COUNTERS.items():
        values = [count(replace(Shape(), **{name: size})) for size in sizes]
        out.append({"growing": name, "algorithm": counter, "sizes": f"{sizes[0]:,} … {sizes[-1]:,}", "first": values[0],
                    "last": values[-1], "exponent": slope(sizes, values), "counts": values})  # fmt: skip
    return out


def main() -> None:
    """Everything else stays at the default shape."""
    with threads():
        rows = [row for name in GROWING for row in series(name)]
    plot("paper.operations", lambda axes: _draw(axes, rows))
    base = Shape()
    report("paper.operations", "Operations of a step: free of d; linear in the batch; trees do not pay over stored values",
           "python -m benchmarks.run paper.operations", [{k: v for k, v in row.items() if k != "counts"} for row in rows],
           f"Counted, not timed: a multiply-add is two, a comparison and a stored number one each. d = {base.d:,}, m = "
           f"{base.m:,}, n = {base.n:,}, batch {base.batch} unless growing; automatic threshold; α after one epoch. "
           "Eager counts are the reference's own. The paper's bound, S²·m^(4/5)·n, has exponent 2 in the batch.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    """The batch, where the algorithms differ most, with the paper's bound."""
    batches = np.array(GROWING["batch"], dtype=float)
    for row in rows:
        if row["growing"] == "batch":
            axes.plot(batches, row["counts"], "o-", label=f"{row['algorithm']}: S^{row['exponent']:.2f}")
    base = Shape()
    axes.plot(batches, batches**2 * base.m**0.8 * base.n, "k--", label="the paper's S² m^(4/5) n")
    axes.set(xscale="log", yscale="log", xlabel="rows of a batch S", ylabel="operations of a step")
    axes.legend(fontsize=7)
