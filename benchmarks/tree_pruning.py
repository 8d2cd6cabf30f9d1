"""How many (row, neuron) pairs the tree engine evaluates, beside those that fire, while a network trains on digits.

    python -m benchmarks.run tree_pruning
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report, target
from benchmarks.tree_exact import Always
from kronsgd.datasets import load_digits
from kronsgd.engines import ScanEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads
from kronsgd.training import Settings, auto_learning_rate, train

M, EPOCHS, HIGH = 16384, 3, 2.5
AT_MOST = {None: 15.0, HIGH: 7.0}  # % evaluated after the first epoch, by threshold; of the first case below


@dataclass(frozen=True)
class Case:
    """One training."""

    center: bool = False
    gamma: float = 1.0
    batch: int = 32
    threshold: float | None = None

    @property
    def label(self) -> str:
        """For the table and the plot."""
        return f"{'centred' if self.center else 'pixels'}, γ = {self.gamma:g}, batch {self.batch}"


PLACES = (Case(), Case(batch=1), Case(gamma=0.1), Case(center=True), Case(center=True, gamma=0.1))
CASES = [Case(place.center, place.gamma, place.batch, b) for place in PLACES for b in (None, HIGH)]


def digits(center: bool) -> tuple[ks.Features, Any]:
    """x ⊗ x and one-hot labels; pixels as they are, or with their means taken off."""
    problem = load_digits(center=center)
    return problem.X * problem.X, np.eye(10)[problem.y]


class Counting(Always):
    """Keeps what had been counted when each epoch began."""

    def __init__(self) -> None:
        self.counts: list[Any] = []

    def begin_epoch(self, state: Any) -> None:
        self.counts.append(state.counts.copy())
        super().begin_epoch(state)


def measure(case: Case) -> dict[str, Any]:
    """Pairs fired and evaluated in each epoch of a whole training with a cosine schedule."""
    X, y = digits(case.center)
    network = TwoLayer(M, 10, threshold=case.threshold or auto_threshold(M), output_scale=case.gamma)
    engine, scan, loss, weights = Counting(), ScanEngine(), LOSSES["softmax"], np.ones(len(y))
    rate = auto_learning_rate(scan, scan.initialize(network, X), loss, case.batch, weights)
    state = engine.initialize(network, X)
    settings = Settings(rate, "cosine", EPOCHS, case.batch, tol=0.0, n_iter_no_change=10**6)
    train(engine, state, loss, np.arange(len(y)), y, weights, settings)
    _, rows, evaluated, fired, _ = np.diff([*engine.counts, state.counts], axis=0).T
    shares = [100 * part / rows / M for part in (fired, evaluated)]
    limit = AT_MOST[case.threshold] if case == Case(threshold=case.threshold) else None
    return {
        "digits x ⊗ x": case.label, "b": network.threshold,
        **{f"{name} in epochs 1, 2, 3": ", ".join(f"{x:.1f}" for x in s)
           for name, s in zip(("fired %", "evaluated %"), shares, strict=True)},
        "target after epoch 1": target(float(shares[1][1:].max()), at_most=limit) if limit else "",
    }  # fmt: skip


def main() -> None:
    """Each case at the automatic threshold and at a higher one."""
    with threads():
        rows = [measure(case) for case in CASES]
    report("tree_pruning", "The tree engine evaluates little more than what fires, unless rows are centred or features learned",
           rows, f"1,797 rows, m = {M:,}, softmax, the automatic step for each batch size with a cosine schedule over {EPOCHS} "
           "epochs, no giving up. Shares of all (row, neuron) pairs.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for k, row in enumerate(rows):
        fired, evaluated = (
            [float(x) for x in row[f"{name} in epochs 1, 2, 3"].split(", ")] for name in ("fired %", "evaluated %")
        )
        style = ("o-", "s--")[k % 2]
        axes.plot(fired, evaluated, style, color=f"C{k // 2}", label=f"{row['digits x ⊗ x']}, b = {row['b']:.2f}", ms=4)
    ends = np.array([2.0, 60.0])
    axes.plot(ends, ends, color="0.6", lw=1)
    axes.set(xscale="log", yscale="log", xlabel="fired %", ylabel="evaluated %")
    axes.legend(fontsize=5)
