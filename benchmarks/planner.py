"""Does the planner choose the fastest engine, and does it know how much memory a fit takes?

    python -m benchmarks.run planner

Times: the fastest epoch after the first of a fit with each engine, by the training loop's own clock. Memory: the peak that
tracemalloc sees during a fit (NumPy reports to it), against the plan at the densities that the fit ended with.
"""

from __future__ import annotations

import resource
import tracemalloc
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

import kronsgd as ks
from benchmarks.common import report
from kronsgd.engines import ENGINES

EPOCHS, ROUNDS, RATE = 4, 2, 0.05  # the step is so small that densities stay as they are at the start
TOLERANCE = 1.10  # the chosen engine may take this much longer than the fastest
HOPELESS = 20
LARGE = 8 << 20  # bytes: peaks below are dominated by Python's own objects


@dataclass(frozen=True)
class Shape:
    """One problem: rows, and the parameters of the estimator."""

    name: str
    rows: Callable[[np.random.Generator], Any]
    params: dict[str, Any] = field(default_factory=dict)


def dense(rng: np.random.Generator, entities: int, columns: int) -> ks.Dense:
    """A random table."""
    return ks.Dense(rng.normal(size=(entities, columns)).astype(np.float32))


def pairs(n1: int, n2: int, d1: int, d2: int, n: int = 0, one: bool = True) -> Callable[[np.random.Generator], Any]:
    """n different pairs of two tables (0: the complete grid), with the interactions of lower order if `one`."""

    def build(rng: np.random.Generator) -> Any:
        cells = np.sort(rng.permutation(n1 * n2)[: n or n1 * n2])
        a, b = dense(rng, n1, d1)[cells // n2], dense(rng, n2, d2)[cells % n2]
        return (1 + a) * (1 + b) if one else a * b

    return build


def power(n: int, d: int, exponent: int = 2, dtype: str = "float32") -> Callable[[np.random.Generator], Any]:
    """(1 + x) ** exponent over a table whose rows are the rows."""
    return lambda rng: (1 + ks.Dense(rng.normal(size=(n, d)).astype(dtype))) ** exponent


def triples(entities: int, d: int, n: int) -> Callable[[np.random.Generator], Any]:
    """Three tables under indices of their own."""

    def build(rng: np.random.Generator) -> Any:
        a, b, c = (dense(rng, entities, d)[rng.integers(entities, size=n)] for _ in range(3))
        return (1 + a) * (1 + b) * (1 + c)

    return build


def sparse(n: int, d: int, other: int) -> Callable[[np.random.Generator], Any]:
    """A sparse table times a dense one."""

    def build(rng: np.random.Generator) -> Any:
        table = ks.Sparse(sp.random_array((n // 4, d), density=0.05, rng=rng, dtype=np.float32).tocsr())
        return table[rng.integers(n // 4, size=n)] * (1 + dense(rng, n // 8, other)[rng.integers(n // 8, size=n)])

    return build


def kernels(n1: int, n2: int, n: int) -> Callable[[np.random.Generator], Any]:
    """An RBF kernel times a precomputed one."""

    def build(rng: np.random.Generator) -> Any:
        x = rng.normal(size=(n2, 6))
        gram = np.exp(-0.1 * ((x[:, None] - x) ** 2).sum(axis=2))
        return ks.RBF(rng.normal(size=(n1, 5)))[rng.integers(n1, size=n)] * ks.Kernel(gram)[rng.integers(n2, size=n)]

    return build


def shapes() -> list[Shape]:
    """Around the borders between the engines, where choosing is hard, and far from them."""
    out = []
    for d in (2, 6, 16, 40):
        out.append(Shape(f"pairs 40 × 60 of {d} × {d}", pairs(40, 60, d, d, 1500), {"n_hidden": 512}))
        out.append(Shape(f"self-product of {d}", power(1200, d), {"n_hidden": 512}))
    for d in (4, 12, 30):
        out.append(Shape(f"self-product of {d}, m = 2048", power(1500, d), {"n_hidden": 2048}))
        out.append(Shape(f"complete grid 30 × 70 of {d}", pairs(30, 70, d, d), {"n_hidden": 1024}))
        out.append(Shape(f"sparse grid 300 × 300 of {d}", pairs(300, 300, d, d, 1800), {"n_hidden": 1024}))
    for threshold in (1.0, 0.0, -1.0):
        out.append(Shape(f"b = {threshold:g}, pairs of 8 × 8", pairs(40, 60, 8, 8, 1200), {"threshold": threshold}))
        out.append(Shape(f"b = {threshold:g}, self-product of 30", power(1200, 30), {"threshold": threshold}))
    for size in (1, 8, 256):
        params = {"batch_size": size, "n_hidden": 512}
        out.append(Shape(f"batch {size}, pairs of 6 × 6", pairs(40, 60, 6, 6, 600 if size == 1 else 1500), params))
        out.append(Shape(f"batch {size}, self-product of 24", power(500 if size == 1 else 1500, 24), params))
    for size in (1, 4, 16, 64):
        for m in (2048, 16384):
            name, n = f"batch {size}, m = {m:,}, pairs of 30 × 30", 2000 if m == 2048 else 1200
            out.append(Shape(name, pairs(60, 80, 30, 30, n, one=False), {"batch_size": size, "n_hidden": m}))
        params = {"batch_size": size, "n_hidden": 512, "threshold": 3.0}
        out.append(Shape(f"batch {size}, b = 3, self-product of 40", power(2000, 40), params))
    for entities, d in ((20, 3), (20, 6), (60, 12)):
        out.append(Shape(f"three factors of {d}", triples(entities, d, 1500), {"n_hidden": 512}))
    for d in (20, 200):
        out.append(Shape(f"sparse {d} ⊗ dense 5", sparse(1600, d, 5), {"n_hidden": 512}))
    out += [
        Shape("cube of 8", power(1200, 8, 3), {"n_hidden": 512}),
        Shape("kernels 50 × 80", kernels(50, 80, 1500), {"n_hidden": 512}),
        Shape("float64 self-product of 16", power(1200, 16, 2, "float64"), {"dtype": "float64", "n_hidden": 512}),
        Shape("float64 pairs of 12 × 12", pairs(40, 60, 12, 12, 1500), {"dtype": "float64", "n_hidden": 512}),
        Shape("rank 4, pairs of 8 × 8", pairs(40, 60, 8, 8, 1500), {"init_rank": 4}),
        Shape("wide: m = 16,384, pairs of 6 × 6", pairs(30, 40, 6, 6, 800), {"n_hidden": 16384}),
        Shape("large n, pairs of 5 × 5", pairs(200, 200, 5, 5, 12000), {"n_hidden": 256}),
        Shape("large grid 100 × 150 of 30", pairs(100, 150, 30, 30), {"n_hidden": 256}),
        Shape("trained output, self-product of 10", power(1200, 10), {"train_output": True}),
    ]
    blocks = {"batching": "blocks"}
    for d in (2, 8, 30):
        out.append(Shape(f"blocks, complete grid 60 × 80 of {d}", pairs(60, 80, d, d), blocks))
    out += [
        Shape("blocks, half of a grid 100 × 100", pairs(100, 100, 10, 10, 5000), blocks | {"n_hidden": 512}),
        Shape("blocks, 5 % of a grid 300 × 300", pairs(300, 300, 6, 6, 4500), blocks | {"n_hidden": 512}),
        Shape("blocks, wide: m = 4,096, grid 40 × 50", pairs(40, 50, 6, 6), blocks | {"n_hidden": 4096}),
        Shape("blocks of 64, grid 50 × 60", pairs(50, 60, 6, 6), blocks | {"batch_size": 64}),
    ]
    return out


def fitted(shape: Shape, X: Any, engine: str, **params: Any) -> ks.KronRegressor:
    """A fit on random targets."""
    options = {"max_iter": EPOCHS, "learning_rate_init": RATE, "random_state": 0, "n_iter_no_change": 99} | params
    y = np.random.default_rng(1).normal(size=len(X))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return ks.KronRegressor(**{"n_hidden": 1024, **shape.params, **options}, engine=engine).fit(X, y)


def usable(shape: Shape, X: Any) -> dict[str, Any]:
    """Costs of the engines that can be used, by name; without those that the plan gives HOPELESS times the least."""
    costs = ks.plan(X, **{"n_hidden": 1024, **shape.params}, max_iter=EPOCHS, learning_rate_init=RATE).costs
    costs = {name: cost for name, cost in costs.items() if name in ENGINES and not cost.refused}
    least = min(cost.epoch_seconds for cost in costs.values())
    return {name: cost for name, cost in costs.items() if cost.epoch_seconds <= HOPELESS * least}


def epoch_seconds(shape: Shape, X: Any, engines: list[str]) -> dict[str, float]:
    """The fastest epoch after the first, by engine; the engines take turns."""
    best = dict.fromkeys(engines, np.inf)
    for _ in range(ROUNDS):
        for engine in engines:
            records = fitted(shape, X, engine).history_[1:]
            best[engine] = min(best[engine], *(record["seconds"] for record in records))
    return best


def peak(shape: Shape, X: Any, engine: str, **params: Any) -> tuple[float, float, float]:
    """(measured, predicted with the fit's densities, predicted before the fit) bytes at the worst moment of a fit."""
    before = ks.plan(X, **{"n_hidden": 1024, **shape.params, **params}, engine=engine).costs[engine].memory
    tracemalloc.start()
    model = fitted(shape, X, engine, **params)
    measured = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return measured, model.plan_.costs[engine].memory, before


def memory_cases(shape: Shape) -> Iterator[dict[str, Any]]:
    """A plain fit, and one that also chooses its step size and holds rows out."""
    yield {"max_iter": EPOCHS, "learning_rate_init": RATE}
    yield {"max_iter": EPOCHS, "learning_rate_init": RATE, "early_stopping": True}


def main() -> None:
    """Choices and memory over all shapes."""
    rows, ratios, priors = [], [], []
    for shape in shapes():
        X = shape.rows(np.random.default_rng(0))
        costs = usable(shape, X)
        for engine in costs:
            fitted(shape, X[:80], engine, max_iter=1)  # compiles
        seconds = epoch_seconds(shape, X, list(costs))
        chosen = min(costs, key=lambda name: costs[name].epoch_seconds)
        fastest = min(seconds, key=lambda name: seconds[name])
        peaks = [peak(shape, X, engine, **params) for engine in costs for params in memory_cases(shape)]
        ratios += [predicted / measured for measured, predicted, _ in peaks if measured > LARGE]
        priors += [before / measured for measured, _, before in peaks if measured > LARGE]
        sizes = zip(np.repeat(list(costs), 2), peaks, strict=True)
        rows.append({
            "shape": shape.name, "chosen": chosen, "fastest": fastest, "chosen ÷ fastest": seconds[chosen] / seconds[fastest],
            "ms per epoch": ", ".join(f"{name} {1e3 * s:.3g}" for name, s in seconds.items()),
            "peak MiB": ", ".join(f"{name} {p[0] / 2**20:.3g}" for name, p in sizes),
            "predicted ÷ peak": ", ".join(f"{p[1] / p[0]:.2f}" for p in peaks),
        })  # fmt: skip
    good = sum(row["chosen ÷ fastest"] <= TOLERANCE for row in rows)
    inside = sum(1 <= ratio <= 1.15 for ratio in ratios)
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    note = (
        f"The chosen engine is within {100 * (TOLERANCE - 1):.0f} % of the fastest in {good} of {len(rows)} shapes. Predicted "
        f"peaks at the densities that training ended with are {min(ratios):.2f} to {max(ratios):.2f} times the measured ones "
        f"(1 to 1.15 in {inside} of {len(ratios)} fits above {LARGE >> 20} MiB); before training, when densities are a guess, "
        f"{min(priors):.2f} to {max(priors):.2f} times. The benchmark's own process reached {resident:.0f} MiB of resident "
        "memory, compiled code and libraries included."
    )
    report("planner", "The planner chooses the fastest engine and knows its memory", rows, note)  # fmt: skip
