"""What the threshold costs in accuracy: the same training at thresholds from 0, the plain dense network, to 3.

    KRONSGD_DATA=... python -m benchmarks.run paper.accuracy    # without it: digits only
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.common import plot, report
from benchmarks.paper.sets import Run, Set, sets
from kronsgd.network import auto_threshold
from kronsgd.parallel import threads

THRESHOLDS = (0.0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
SCALES = (1.0, 0.1)  # γ: the paper's, and the library's default
SAMPLE = 512  # rows on which firing is looked at
DENSE_LIMIT = 10_000  # dimensions of a product that the dense engine is asked to build


@dataclass
class Curve:
    """One set and output scale: score and fired shares (start, end) for each threshold."""

    data: Set
    scale: float
    scores: list[float] = field(default_factory=list)
    fired: list[tuple[float, float]] = field(default_factory=list)
    dense: str = ""  # the dense engine's score at threshold 0

    def measure(self) -> Curve:
        """A training for each threshold, all of equal steps."""
        for b in THRESHOLDS:
            run = Run(self.data, b, self.scale)
            start = float(run.fired(SAMPLE).mean())
            run.train(0, self.data.epochs)
            self.scores.append(run.score())
            self.fired.append((start, float(run.fired(SAMPLE).mean())))
        if self.data.X.dim <= DENSE_LIMIT:
            oracle = Run(self.data, 0.0, self.scale, "dense")
            oracle.train(0, self.data.epochs)
            self.dense = f"{oracle.score():.4f}"
        return self

    def row(self) -> dict[str, Any]:
        """Of the table."""
        cells = {
            f"b = {b:g}": f"{score:.4f} ({100 * start:.2g} → {100 * end:.2g} %)"
            for b, score, (start, end) in zip(THRESHOLDS, self.scores, self.fired, strict=True)
        }
        kind = "accuracy" if self.data.loss == "softmax" else "MSE"
        return {"set": f"{self.data.name}, {kind}", "γ": self.scale, "dense engine, b = 0": self.dense, **cells}


def main() -> None:
    """Every set with both output scales."""
    with threads():
        curves = [Curve(data, scale).measure() for data in sets() for scale in SCALES]
    plot("paper.accuracy", lambda axes: _draw(axes, curves))
    sizes = "; ".join(
        f"{c.data.name}: {c.data.X.n_rows:,} rows, m = {c.data.n_hidden:,} (b = {auto_threshold(c.data.n_hidden):.2f} is "
        f"the paper's), {c.data.epochs} epochs"
        for c in curves[:: len(SCALES)]
    )
    report("paper.accuracy", "A threshold near the paper's costs little or no accuracy, but firing grows in training",
           [curve.row() for curve in curves],
           f"Test score (share of pairs that fire at the start → at the end, on {SAMPLE} training rows). {sizes}. Batches of "
           "64, constant automatic step of each network; one seed. Equal rows take equal steps; scan and dense engine take the "
           "same ones up to rounding.")  # fmt: skip


def _draw(axes: Any, curves: list[Curve]) -> None:
    for number, curve in enumerate(curves):
        scores = np.array(curve.scores)
        relative = scores / scores[0] if curve.data.loss == "softmax" else scores[0] / scores
        style = "o-" if curve.scale == 1 else "s--"
        label = f"{curve.data.name}, γ = {curve.scale:g}"
        axes.plot(THRESHOLDS, relative, style, color=f"C{number // len(SCALES)}", label=label)
    axes.set(xlabel="threshold b", ylabel="accuracy (or 1 / MSE), b = 0 being 1")
    axes.legend(fontsize=7)
