"""How wide the theory wants the network to be, on digits, against the width that is enough.

    python -m benchmarks.run paper.width

The paper asks for m = poly(n, 1/λ, …), λ the smallest eigenvalue of the tangent kernel H_ij = ⟨x_i, x_j⟩·P(z_i > b, z_j > b).
The form m ≥ n⁴B²/λ⁴ (B: residuals at the start; no constant, no logarithms) is that of the first version as far as we remember
it; it was NOT checked against the text. So it is derived here, with a constant, for gradient flow on ½‖f − y‖² and γ = 1:

1. While λ_min(H(t)) ≥ λ/2, ‖f − y‖ falls as exp(−λt/2), and no w_r moves further than D = (2/λ)·√(n/m)·‖f(0) − y‖.
2. A neuron that has moved by R can fire anew, or no more, on a row only if |z − b| ≤ R at the start: probability ≤ 2Rφ, where
   φ is the normal density's maximum near b. So every entry of H changes by at most 4Rφ, and H by 4nRφ in operator norm.
3. That is below λ/4 for R = λ/(16nφ), which leaves λ/4 for what H(0) differs from its mean (a lower order of m).
4. D ≤ R for √m ≥ 32·n²·φ·B/λ², with ‖f(0) − y‖ = B·√n: m ≥ 1,024·φ²·n⁴·B²/λ⁴.

Here B = 1 (f(0) = 0, targets of norm 1). The threshold helps in φ and hurts in λ ≤ P(z > b); with b = √(0.4 ln m), λ falls as m
grows, and the condition on m is a fixed point: orthogonal rows, the best there are, have λ = Φ(−b) ≈ φ(b)/b, so that even with
φ = φ(b) they need m^0.6 ≥ 1,024·2π·b⁴·n⁴, or m of the order n^6.7; without φ, m^0.2 ≥ n⁴ and more: n^20.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from scipy.optimize import brentq
from scipy.stats import norm

from benchmarks.common import plot, report
from benchmarks.paper.sets import Run, Set, digits
from kronsgd.features.gram import inverse_norms
from kronsgd.network import auto_threshold
from kronsgd.parallel import threads

Array = NDArray[Any]
THRESHOLDS = (0.0, 1.0, 2.0)  # whatever m
NODES = 48  # of the quadrature
WIDTHS = [2**k for k in range(2, 13)]
EPOCHS = 30


def both_fire(correlation: Array, b: float) -> Array:
    """P(u > b, v > b) for standard normal u and v. Φ(−b)² + ∫₀^θ exp(−b²/(1 + sin t)) dt / 2π, with sin θ the correlation."""
    angle = np.arcsin(np.clip(correlation, -1, 1))
    out = np.full_like(correlation, norm.sf(b) ** 2)
    for node, weight in zip(*np.polynomial.legendre.leggauss(NODES), strict=True):
        out += weight * angle / 2 * np.exp(-(b**2) / (1 + np.sin((node + 1) / 2 * angle))) / (2 * np.pi)
    return out


def gram(data: Set) -> Array:
    """⟨x_i, x_j⟩. Shape: (n, n)."""
    norms = inverse_norms(data.X, True)
    return np.asarray(data.X.inner() * norms[:, None] * norms, dtype=np.float64)


def smallest_eigenvalue(K: Array, b: float) -> float:
    """λ of the tangent kernel of infinitely many neurons."""
    return float(eigvalsh(K * both_fire(K, b), subset_by_index=[0, 0])[0])


def fixed_point(needed: Callable[[float], float]) -> float:
    """log₁₀ of the m that is as large as `needed` says (log₁₀ as well) at b = √(0.4 ln m). inf: not below 10^200."""
    excess = lambda x: x - needed(math.sqrt(0.4 * x * math.log(10)))  # noqa: E731
    return float(brentq(excess, 1, 200, xtol=0.05)) if excess(200) > 0 else math.inf


def conditions(K: Array) -> list[dict[str, Any]]:
    """The required widths, by threshold."""
    n = len(K)
    eigenvalue = cache(lambda b: smallest_eigenvalue(K, b))

    def form(b: float) -> float:
        return 4 * math.log10(n / eigenvalue(b))

    def derived(b: float) -> float:
        return math.log10(1024 * norm.pdf(b) ** 2) + form(b)

    rows = [{"rows": f"digits, n = {n:,}", "b": f"{b:g}", "λ": eigenvalue(b), "n⁴/λ⁴": f"10^{form(b):.0f}",
             "1,024 φ(b)² n⁴/λ⁴": f"10^{derived(b):.0f}"} for b in THRESHOLDS]  # fmt: skip
    by_form, by_derived = fixed_point(form), fixed_point(derived)
    b = math.sqrt(0.4 * by_derived * math.log(10))
    rows.append({"rows": f"digits, n = {n:,}", "b": f"√(0.4 ln m): {b:.2f}", "λ": eigenvalue(b), "n⁴/λ⁴": f"10^{by_form:.0f}",
                 "1,024 φ(b)² n⁴/λ⁴": f"10^{by_derived:.0f}"})  # fmt: skip
    best = fixed_point(lambda b: 4 * math.log10(n) - 4 * norm.logsf(b) / math.log(10))
    best_derived = fixed_point(
        lambda b: 4 * math.log10(n) - 4 * norm.logsf(b) / math.log(10) + math.log10(1024) + 2 * norm.logpdf(b) / math.log(10)
    )
    rows.append({"rows": f"orthogonal, n = {n:,}", "b": "√(0.4 ln m)", "λ": "Φ(−b)", "n⁴/λ⁴": f"10^{best:.0f}",
                 "1,024 φ(b)² n⁴/λ⁴": f"10^{best_derived:.0f}"})  # fmt: skip
    return rows


def trained(data: Set) -> list[tuple[int, float, float]]:
    """(m, training accuracy, test accuracy) of the paper's network, γ = 1, at its own threshold."""
    out = []
    for m in WIDTHS:
        run = Run(Set(data.name, data.X, data.targets, data.X_test, data.labels, n_hidden=m), auto_threshold(m), 1.0)
        run.train(0, EPOCHS)
        right = run.engine.outputs(run.state, data.X).argmax(axis=1) == data.targets.argmax(axis=1)
        out.append((m, float(right.mean()), run.score()))
    return out


def main() -> None:
    """The bounds, then the trainings."""
    data = digits()
    with threads():
        K = gram(data)
        error = np.abs(both_fire(K[:1], 0.0) - (np.pi / 2 + np.arcsin(np.clip(K[:1], -1, 1))) / (2 * np.pi)).max()
        assert error < 1e-12, error  # the closed form at b = 0
        assert abs(both_fire(np.ones(1), 9.0)[0] / norm.sf(9) - 1) < 1e-6  # a row and itself
        rows, curve = conditions(K), trained(data)
    enough = next((m for m, right, _ in curve if right == 1), None)
    plot("paper.width", lambda axes: _draw(axes, curve))
    reached = "; ".join(f"{m:,}: {100 * right:.1f} / {100 * test:.1f}" for m, right, test in curve)
    report("paper.width", "The width that the theory asks for is out of reach, and not needed",
           rows,
           f"m must exceed the number in the last two columns. n⁴/λ⁴: the form of the paper's first version from memory, not "
           f"verified, without constants and logarithms; last column: derived in the script "
           f"for squared loss; b and λ in the fourth row are those of its last column. φ(b) is the density at b, the "
           f"kindest reading. Digits x ⊗ x, {len(K):,} rows. Training / test accuracy in % after {EPOCHS} epochs of softmax at "
           f"γ = 1, by m: {reached}. All training rows are right from m = {enough} on.")  # fmt: skip


def _draw(axes: Any, curve: list[tuple[int, float, float]]) -> None:
    m, right, test = zip(*curve, strict=True)
    axes.plot(m, 100 * np.array(right), "o-", label="training rows")
    axes.plot(m, 100 * np.array(test), "s--", label="test rows")
    axes.set(xscale="log", xlabel="neurons m", ylabel="% classified right, digits x ⊗ x")
    axes.legend(fontsize=8)
