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
from kronsgd.kernels.tree import DIRECTIONS
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


def lazy(engine: str) -> Callable[[Shape], float]:
    """An engine that evaluates ⟨w_r, x_i⟩ from α: a multiply-add for each coefficient of an evaluated neuron.

    Beside these: a panel of n·S inner products from two factors, 5 for each fired pair, and what finding the pairs takes.
    """

    def count(shape: Shape) -> float:
        pairs = shape.pairs()
        training = Training(pairs.X, pairs.y, automatic(shape.m), shape.batch, RATE, engine=engine)
        training.epoch()  # so that α is filled as it is from then on
        training.engine.begin_epoch(training.state)
        training.n_fired = training.n_seen = 0
        training.epoch()
        found, terms = evaluated(training, shape)
        return 2 * shape.n * shape.batch + found + 2 * terms + 5 * training.fired * shape.batch * shape.m

    return count


def evaluated(training: Training, shape: Shape) -> tuple[float, float]:
    """(operations that bound pairs, terms of the inner products that are evaluated) of a step."""
    state = training.state
    if getattr(state, "movement", None) is None:  # all of them, with one comparison each
        return shape.batch * shape.m, shape.batch * state.coefficients.nnz
    steps, rows, pairs, fired, terms = state.counts
    return (6 * rows * shape.m + 2 * DIRECTIONS * (pairs + fired)) / steps, terms / steps


def dense(shape: Shape) -> float:
    """Two products of a batch with explicit weights."""
    return 4.0 * shape.batch * shape.m * shape.d


COUNTERS: dict[str, Callable[[Shape], float]] = {
    "eager, trees": eager("tree"), "eager, no trees": eager("flat"),
    "lazy (scan)": lazy("scan"), "lazy (tree)": lazy("tree"), "dense": dense,
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
           [{k: v for k, v in row.items() if k != "counts"} for row in rows],
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
