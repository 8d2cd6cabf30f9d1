"""How fast the scan's step is at each density: against the matrix product's rate where few fire, against PyTorch where many do.

    python -m benchmarks.run density
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from benchmarks.common import interleaved, report, target
from benchmarks.limits import gemm_rates
from benchmarks.opponents import SparseProduct, TorchDual, TorchDualColumns
from benchmarks.problems import Training, cycle, firing, random_pairs
from kronsgd.parallel import threads

N, M, COLUMNS, ENTITIES, BATCH, REPETITIONS = 8192, 8192, 64, 512, 64, 30
RATE = 1e-4  # so small that the fired sets stay those of w(0)
SHARES = (0.02, 0.03, 0.1, 0.3, 0.5)
SPARSE, EFFICIENCY, DENSE_RATIO = 0.1, 0.55, 1.0  # up to this share, the target is efficiency; above it, PyTorch's time
OPPONENTS = {"dual (n, m)": TorchDual, "dual (m, n)": TorchDualColumns}


def check_equal(share: float) -> float:
    """A small copy at this density, with steps that matter. Largest relative difference of losses; asserts 1e-4."""
    pairs = random_pairs(256, (16, 16), 64)
    ours = Training(pairs.X, pairs.y, firing(pairs.X, 256, share), rate=10.0)
    twins = [twin(pairs, ours.state, BATCH, 10.0) for twin in OPPONENTS.values()]
    batches = [np.arange(k, 256, 4) for k in range(4)] * 3
    losses = np.array([ours.step(rows) for rows in batches])
    theirs = np.array([[twin.step(rows) for rows in batches] for twin in twins])
    difference = float(np.abs(theirs / losses - 1).max())
    assert difference < 1e-4, (share, difference)
    return difference


def measure(share: float, gemm: float) -> dict[str, Any]:
    """One epoch of ours, then steps in turns."""
    pairs = random_pairs(N, (COLUMNS, COLUMNS), ENTITIES)
    ours = Training(pairs.X, pairs.y, firing(pairs.X, M, share), BATCH, RATE)
    ours.settle()
    contestants: dict[str, Any] = {"ours": ours.step, "floor": SparseProduct(ours.state, np.arange(BATCH)).step}
    for name, kind in OPPONENTS.items():
        twin, batches = kind(pairs, ours.state, BATCH, RATE), cycle(N, BATCH)
        contestants[name] = lambda twin=twin, batches=batches: twin.step(next(batches))
    seconds = interleaved(contestants, REPETITIONS)
    rate = 2e-9 * BATCH * ours.state.coefficients.nnz / seconds["ours"]
    best = min(seconds[name] for name in OPPONENTS) / seconds["ours"]
    sparse = share <= SPARSE
    return {
        "fired %": 100 * ours.fired, "ms a step": 1e3 * seconds["ours"], "GFLOP/s": rate, "of the matrix product": rate / gemm,
        **{f"PyTorch {name}, ms": 1e3 * seconds[name] for name in OPPONENTS}, "MKL sparse product alone, ms":
        1e3 * seconds["floor"], "PyTorch dual / ours": best,
        "target": target(rate / gemm, at_least=EFFICIENCY) if sparse else target(best, at_least=DENSE_RATIO),
    }  # fmt: skip


def main() -> None:
    """Each density on a state of its own."""
    gemm = max(gemm_rates().values())
    with threads():
        difference = max(check_equal(share) for share in SHARES)
        rows = [measure(share, gemm) for share in SHARES]
    report("density", "The scan's step at every density", rows,
           f"n = m = {N:,}, {COLUMNS} ⊗ {COLUMNS}, batch {BATCH}, whole steps in the second epoch; the step size is so small "
           f"that firing stays as it starts. GFLOP/s: 2·S·nnz(α) over the whole step's time; matrix product: {gemm:.0f} "
           f"GFLOP/s, float32, measured just before. Targets: ≥ {EFFICIENCY} of it up to {100 * SPARSE:.0f} % fired, above "
           f"that at least as fast as PyTorch with dense α. Losses agree to {difference:.1g} on small copies.",
           draw=partial(_draw, gemm=gemm))  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]], gemm: float) -> None:
    fired = [row["fired %"] for row in rows]
    axes.plot(fired, [row["ms a step"] for row in rows], "o-", label="kronsgd, whole step")
    for name in [c for c in rows[0] if c.endswith(", ms")]:
        axes.plot(fired, [row[name] for row in rows], "--", label=name.removesuffix(", ms"))
    flops = 2e-9 * BATCH * N * M
    axes.plot(fired, [1e3 * flops * f / 100 / gemm for f in fired], ":", color="k", label="useful flops at GEMM rate")
    axes.set(xscale="log", yscale="log", xlabel="% fired", ylabel="ms a step")
    axes.set_xticks(fired, [f"{f:.0f}" for f in fired])
    axes.minorticks_off()
    axes.legend(fontsize=7)
