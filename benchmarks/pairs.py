"""Scores for all pairs of a large grid of new entities: `predict_grid` against `predict` row by row.

    python -m benchmarks.run pairs
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report, target

LEFT, RIGHT, SAMPLE = 2500, 4000, 8192  # ten million pairs
TRAIN_LEFT, TRAIN_RIGHT, TRAIN_PAIRS, COLUMNS, M = 68, 442, 25_046, 32, 1024  # Davis's shape
SPEED, ROUNDING, RATE = 20, 1e-4, 2e4  # a step so small that rounding does not grow


def problem() -> tuple[ks.Features, Any, ks.Dense, ks.Dense]:
    """(training pairs, targets, new left entities, new right entities): most of a grid, labelled by a bilinear form."""
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal((n, COLUMNS)) for n in (TRAIN_LEFT, TRAIN_RIGHT))
    cells = rng.permutation(TRAIN_LEFT * TRAIN_RIGHT)[:TRAIN_PAIRS]
    i, j = cells // TRAIN_RIGHT, cells % TRAIN_RIGHT
    y = np.tanh(((a @ rng.standard_normal((COLUMNS, COLUMNS)))[i] * b[j]).sum(axis=1) / COLUMNS)
    left, right = ks.Dense(a), ks.Dense(b)
    new = (leaf.like(rng.standard_normal((n, COLUMNS))) for leaf, n in ((left, LEFT), (right, RIGHT)))
    return left[i] * right[j], y, *new


def fitted(engine: str, X: ks.Features, y: Any) -> Any:
    """Two epochs over the same blocks, so that both engines have the same model."""
    warnings.simplefilter("ignore")
    settings: dict[str, Any] = {"max_iter": 2, "learning_rate_init": RATE, "random_state": 0, "engine": engine,
                                "batching": "blocks"}  # fmt: skip
    return ks.KronRegressor(M, **settings).fit(X, y)


def main() -> None:
    """All pairs at once, and a random sample of them one row at a time."""
    if not hasattr(ks.KronRegressor, "predict_grid"):
        print("pairs: left out, because this version has no predict_grid.")
        return
    X, y, left, right = problem()
    grid, scan = fitted("grid", X, y), fitted("scan", X, y)
    rng, across = np.random.default_rng(1), np.arange(max(LEFT, RIGHT))
    p, q = rng.integers(LEFT, size=SAMPLE), rng.integers(RIGHT, size=SAMPLE)
    everyone = left[across % LEFT] * right[across % RIGHT]  # every entity occurs; the grid is over the entities
    grid.predict_grid(X[:64])  # compiles

    started = time.perf_counter()
    scores = grid.predict_grid(everyone)
    together = time.perf_counter() - started
    one_by_one = left[p] * right[q]
    scan.predict(one_by_one[:256])
    started = time.perf_counter()
    rows_scores = scan.predict(one_by_one)
    alone = (time.perf_counter() - started) * LEFT * RIGHT / SAMPLE
    started = time.perf_counter()
    explicit = grid.predict(one_by_one)
    scattered = (time.perf_counter() - started) * LEFT * RIGHT / SAMPLE

    assert scores.shape == (LEFT, RIGHT)
    difference = float(np.abs(scores[p, q] - rows_scores).max() / rows_scores.std())
    assert difference < ROUNDING, difference
    np.testing.assert_allclose(explicit, scores[p, q], atol=ROUNDING * scores.std())
    pairs = LEFT * RIGHT
    rows = [
        {"how": "predict_grid", "seconds": together, "pairs a second": pairs / together, "measured on": f"{pairs:,} pairs"},
        {"how": "predict, engine='grid', random pairs", "seconds": scattered, "pairs a second": pairs / scattered,
         "measured on": f"{SAMPLE:,} pairs, extrapolated"},
        {"how": "predict, engine='scan'", "seconds": alone, "pairs a second": pairs / alone,
         "measured on": f"{SAMPLE:,} pairs, extrapolated", "predict_grid is faster": alone / together,
         "target": target(alone / together, at_least=SPEED)},
    ]  # fmt: skip
    for row in rows:
        row.setdefault("predict_grid is faster", row["seconds"] / together)
    report("pairs", f"Scores for {pairs:,} pairs of new entities", rows,
           f"{LEFT:,} × {RIGHT:,} new entities; trained on {TRAIN_PAIRS:,} of {TRAIN_LEFT} × {TRAIN_RIGHT} pairs, m = {M:,}. "
           f"The two models' scores differ by {difference:.1g} of their deviation.", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.barh([row["how"] for row in rows], [row["pairs a second"] for row in rows])
    axes.set(xscale="log", xlabel="pairs a second")
