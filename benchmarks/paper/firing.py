"""How many neurons fire at the start: the paper's bound m^(4/5), the exact Gaussian tail, and digits x ⊗ x.

    python -m benchmarks.run paper.firing
"""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.integrate import quad
from scipy.special import k0
from scipy.stats import norm

from benchmarks.common import plot, report
from kronsgd import Features
from kronsgd.datasets import load_digits
from kronsgd.features.serialize import compress
from kronsgd.initial import InitialWeights
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads

NEURONS = [2**k for k in range(10, 21, 2)]
LARGEST_STORED = 2**16  # w(0) of true Gaussians has 4,096 numbers a neuron: the library allows 2 GiB of them
INITS = ("gaussian %", "structured, Q = 4 %", "structured, Q = 1 %")
ROWS = 64


def product_tail(b: float) -> float:
    """P(uv > b) for independent standard normal u and v: what a neuron of rank 1 fires with. Density K₀(|t|)/π."""
    return float(quad(k0, b, np.inf)[0] / np.pi)


def share(rows: Features, m: int, **init: Any) -> tuple[float, float]:
    """(mean, largest) share of neurons that fire on a row. Cost: m·ROWS starting values, a few at a time."""
    network = TwoLayer(m, threshold=auto_threshold(m), antisymmetric=False, **init)
    values = InitialWeights(network, rows).values(rows, True, np.float32)
    fired = np.concatenate([(values(part) > network.threshold).mean(axis=1) for part in np.array_split(np.arange(ROWS), 4)])
    return float(fired.mean()), float(fired.max())


def measure(rows: Features, m: int) -> dict[str, Any]:
    """One width."""
    b = auto_threshold(m)
    measured = {"structured, Q = 1 %": share(rows, m)}
    if m <= LARGEST_STORED:
        measured["structured, Q = 4 %"] = share(rows, m, init_rank=4)
        measured["gaussian %"] = share(rows, m, init="gaussian")
    largest = max(worst for _, worst in measured.values())
    return {
        "neurons m": m, "b": b, "bound m^(−1/5) %": 100 * m**-0.2, "Φ(−b) %": 100 * float(norm.sf(b)),
        **{name: 100 * measured[name][0] if name in measured else "" for name in INITS}, "P(uv > b) %": 100 * product_tail(b),
        "bound / Φ(−b)": m**-0.2 / float(norm.sf(b)), "worst row of any %": 100 * largest,
        "bound holds": "yes" if largest <= m**-0.2 else "no",
    }  # fmt: skip


def crossing() -> float:
    """The width from which on rank-1 neurons fire more often than the bound says."""
    b = np.linspace(2, 6, 4001)
    above = next(x for x in b if product_tail(x) > np.exp(-(x**2) / 2))
    return float(np.exp(above**2 / 0.4))


def main() -> None:
    """Every width on the same rows."""
    x = load_digits().X
    chosen = np.random.default_rng(0).choice(x.n_rows, ROWS, replace=False)
    rows = compress((x * x)[chosen])
    with threads():
        table = [measure(rows, m) for m in NEURONS]
    plot("paper.firing", lambda axes: _draw(axes, table))
    report("paper.firing", "Neurons that fire at the start stay below the paper's m^(4/5)",
           table,
           f"Digits x ⊗ x, centred, {ROWS} random rows, b = √(0.4 ln m); shares of m. The bound is P(z > b) ≤ exp(−b²/2) = "
           "m^(−1/5) for a standard normal z. Structured weights of rank Q = 1 are products of two normals, with a heavier "
           f"tail: by P(uv > b) they pass the bound from m ≈ {crossing():.1g} on, and not before.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for name, style in (("bound m^(−1/5) %", "k-"), ("Φ(−b) %", "k:"), ("gaussian %", "o"), ("structured, Q = 4 %", "s"),
                        ("P(uv > b) %", "C2:"), ("structured, Q = 1 %", "C2^")):  # fmt: skip
        there = [row for row in rows if row[name] != ""]
        axes.plot([row["neurons m"] for row in there], [row[name] for row in there], style, label=name.removesuffix(" %"))
    axes.set(xscale="log", xlabel="neurons m", ylabel="% of neurons that fire on a row", ylim=(0, None))
    axes.legend(fontsize=8)
