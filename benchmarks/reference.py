"""One step at n = m = 8,192, d = 65,536 beside the best PyTorch versions of the same step, and the memory of each.

    python -m benchmarks.run reference
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks.common import available_memory, interleaved, peak_memory, report, target
from benchmarks.opponents import SparseProduct, TorchDense, TorchDual, TorchDualColumns, TorchFactored
from benchmarks.problems import Training, automatic, cycle, random_pairs
from kronsgd.parallel import threads

N, M, COLUMNS, ENTITIES, BATCH, RATE = 8192, 8192, 256, 512, 64, 1.0
SMALL = {"n": 512, "m": 512, "columns": 64, "entities": 64}
SPEED, MEMORY, DUAL_SPEED = 400, 20, 10  # targets
TWINS: dict[str, Any] = {
    "PyTorch, explicit rows and weights": TorchDense,
    "PyTorch, explicit weights, bilinear": TorchFactored,
    "PyTorch, dual, dense α (n, m)": TorchDual,
    "PyTorch, dual, dense α (m, n)": TorchDualColumns,
}
OURS, FLOOR = "kronsgd", "MKL sparse product of the same α, nothing else"


def contest(name: str, n: int, m: int, columns: int, entities: int, rate: float = RATE) -> tuple[Any, Callable[[], float]]:
    """(contestant, its step on the next batch), from w(0)."""
    pairs = random_pairs(n, (columns, columns), entities)
    ours = Training(pairs.X, pairs.y, automatic(m), BATCH, rate)
    if name == OURS:
        return ours, ours.step
    twin, batches = TWINS[name](pairs, ours.state, BATCH, rate), cycle(n, BATCH)
    return twin, lambda: twin.step(next(batches))


def work(name: str, small: bool) -> None:
    """What peak memory is measured of: two epochs of ours, three steps of the others, whose memory does not grow."""
    size = SMALL if small else {"n": N, "m": M, "columns": COLUMNS, "entities": ENTITIES}
    with threads():
        _, step = contest(name, **size)
        for _ in range(2 * size["n"] // BATCH if name == OURS else 3):
            step()


def check_equal() -> float:
    """Train all on the small copy for two epochs. Largest relative difference of losses and of W(t) − W(0); asserts 1e-3."""
    worst = 0.0
    with threads():
        ours, step = contest(OURS, **SMALL, rate=100.0)
        start = ours.engine.hidden_weights(ours.state)
        losses = np.array([step() for _ in range(2 * SMALL["n"] // BATCH)])
        moved = ours.engine.hidden_weights(ours.state) - start
        x = random_pairs(SMALL["n"], (SMALL["columns"],) * 2, SMALL["entities"]).X.dense()
        assert losses.std() > 1e-3 * losses.mean(), "the problem does not train, so that equality would mean nothing"
        for name in TWINS:
            twin, step = contest(name, **SMALL, rate=100.0)
            theirs = np.array([step() for _ in losses])
            weights = twin.alpha.numpy().T @ x if isinstance(twin, TorchDual) else twin.W.numpy() - start
            apart = np.linalg.norm(weights - moved) / np.linalg.norm(moved)
            worst = max(worst, float(np.abs(theirs / losses - 1).max()), float(apart))
            assert worst < 1e-3, (name, worst)
    return worst


def measure(name: str, repetitions: int) -> dict[str, float]:
    """Seconds of a step in turns with ours, once three steps at full size gave equal losses; ours is in its second epoch."""
    size = (N, M, COLUMNS, ENTITIES)
    ours, our_step = contest(OURS, *size)
    twin, step = contest(name, *size)
    rows = np.arange(BATCH)
    losses = [ours.step(rows) for _ in range(3)]  # on one batch, so that the second and third show the updates
    assert losses[0] != losses[1] != losses[2]
    np.testing.assert_allclose([twin.step(rows) for _ in losses], losses, rtol=1e-4, err_msg=name)
    first = interleaved({"first epoch": our_step}, N // BATCH // 2, warm=0)
    floor = SparseProduct(ours.state, rows).step
    seconds = interleaved({OURS: our_step, name: step, FLOOR: floor}, repetitions)
    return {**seconds, **first, "fired": ours.fired, "nnz": ours.state.coefficients.nnz}


def entry(name: str, seconds: dict[str, float], ours_beyond: float) -> dict[str, Any]:
    """One row of the table."""
    ratio = seconds[name] / seconds[OURS]
    goal = SPEED if TWINS[name] is TorchDense else DUAL_SPEED if issubclass(TWINS[name], TorchDual) else None
    peak, beyond = peak_memory("benchmarks.reference", f"work({name!r}, False)", f"work({name!r}, True)")
    less = beyond / ours_beyond
    return {
        "step": name, "ms": 1e3 * seconds[name], "ours in turns with it": 1e3 * seconds[OURS], "ours is faster": ratio,
        "target": "" if goal is None else target(ratio, at_least=goal), "peak MiB": peak, "beyond imports": beyond,
        "ours needs less": less, "memory target": target(less, at_least=MEMORY) if TWINS[name] is TorchDense else "",
    }  # fmt: skip


def main() -> None:
    """Equal first, then side by side, one opponent at a time because two of them hold gigabytes."""
    difference, explicit = check_equal(), 4 * COLUMNS**2 * (N + M)
    names = [n for n in TWINS if issubclass(TWINS[n], TorchDual) or available_memory() > 1.3 * explicit]
    peak, beyond = peak_memory("benchmarks.reference", f"work({OURS!r}, False)", f"work({OURS!r}, True)")
    rows: list[dict[str, Any]] = []
    with threads():
        for name in names:
            seconds = measure(name, 40 if issubclass(TWINS[name], TorchDual) else 5)
            rows.append(entry(name, seconds, beyond))
    ours = 1e3 * seconds[OURS]
    rows.append({"step": FLOOR, "ms": 1e3 * seconds[FLOOR], "ours in turns with it": ours,
                 "ours is faster": seconds[FLOOR] / seconds[OURS]})  # fmt: skip
    rows.append({"step": f"{OURS}, first epoch", "ms": 1e3 * seconds["first epoch"]})
    rows.append({"step": OURS, "ms": ours, "peak MiB": peak, "beyond imports": beyond})
    report("reference", "The reference step against PyTorch", rows,
           f"n = m = {N:,}, {COLUMNS} ⊗ {COLUMNS} from {ENTITIES} entities each, batch {BATCH}, automatic threshold ("
           f"{100 * seconds['fired']:.1f} % fired, {100 * seconds['nnz'] / (N * M):.1f} % of α filled), float32, medians from "
           f"the second epoch. Losses and weights agree to {difference:.1g} (two epochs of a small copy; three steps at full "
           "size). Peaks: a new process each, two epochs of ours; beyond its imports and a tiny run of the same.",
           draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for k, row in enumerate(row for row in rows if "peak MiB" in row):
        axes.plot(row["ms"], row["beyond imports"], "o", label=row["step"], color=f"C{k}")
    axes.margins(0.15)
    axes.set(xscale="log", yscale="log", xlabel="ms a step", ylabel="MiB beyond imports")
    axes.legend(fontsize=8)
