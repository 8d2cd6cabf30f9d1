"""Davis, all five folds: blocks of pairs beside random rows, and the time to a mean squared error of 0.215.

    KRONSGD_DATA=... python -m benchmarks.run davis_speed

Step sizes, scales and epochs were chosen on fold 4 of the training folds, trained on the other four (see LOG.md).
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.neural_network import MLPRegressor

import kronsgd as ks
from benchmarks.common import data_folder, report, target
from kronsgd.datasets import load_davis

GOAL = 0.215
TUNED: dict[str, dict[str, Any]] = {
    "grid": {"output_scale": 0.2, "learning_rate_init": 140_000.0, "max_iter": 80},
    "scan": {"output_scale": 0.1, "learning_rate_init": 100_000.0, "max_iter": 20},
}
QUICK: dict[str, dict[str, Any]] = {
    "grid": {"output_scale": 0.2, "learning_rate_init": 100_000.0, "max_iter": 30, "batch_size": 512},
    "scan": {"output_scale": 0.1, "learning_rate_init": 100_000.0, "max_iter": 5},
}
MLP: dict[str, Any] = {"hidden_layer_sizes": (256, 256), "early_stopping": True, "max_iter": 200, "random_state": 0}


def model(engine: str, **options: Any) -> ks.KronRegressor:
    """1,024 neurons."""
    return ks.KronRegressor(1024, engine=engine, random_state=0, **options)


def check_equal(problem: Any) -> float:
    """Both engines over the same blocks: largest relative difference of their predictions. Asserts 1e-3."""
    options = {"max_iter": 2, "output_scale": 0.2, "learning_rate_init": 10_000.0, "batching": "blocks", "batch_size": 1024}
    a, b = (model(engine, **options).fit(problem.X, problem.y).predict(problem.X_test) for engine in ("grid", "scan"))
    difference = float(np.abs(a - b).max() / np.abs(b).max())
    assert difference < 1e-3, difference
    return difference


def row(name: str, fitted: Any, X: Any, y: Any, seconds: float) -> dict[str, Any]:
    """Test error, time of an epoch and of the whole fit."""
    epochs = [record["seconds"] for record in getattr(fitted, "history_", [])]
    error = float(np.mean((fitted.predict(X) - y) ** 2))
    return {"model": name, "epochs": len(epochs) or "", "ms an epoch, median": 1e3 * median(epochs) if epochs else "",
            "seconds in all": round(seconds, 2), "test MSE": error,
            f"MSE ≤ {GOAL}": "yes" if error <= GOAL else "never"}  # fmt: skip


def timed(name: str, estimator: Any, train: tuple[Any, Any], test: tuple[Any, Any]) -> dict[str, Any]:
    """Fit and score."""
    started = time.perf_counter()
    fitted = estimator.fit(*train)
    return row(name, fitted, *test, time.perf_counter() - started)


def beside(X: Any) -> Any:
    """Similarities of the drug and of the protein, side by side."""
    return np.hstack([leaf.gram[leaf.index] for leaf in X.leaves()])


def main() -> None:
    """Equal steps first; then everything in one process, compiled before."""
    problem = load_davis(data_folder("davis"))
    train, test = (problem.X, problem.y), (problem.X_test, problem.y_test)
    plain = (beside(problem.X), problem.y), (beside(problem.X_test), problem.y_test)
    difference = check_equal(problem)
    rows = [timed(f"{engine}, tuned", model(engine, **TUNED[engine]), train, test) for engine in TUNED]
    rows += [timed(f"{engine}, tuned for time", model(engine, **QUICK[engine]), train, test) for engine in QUICK]
    trees = HistGradientBoostingRegressor(max_iter=500, random_state=0)
    rows.append(timed("HistGradientBoostingRegressor, similarities side by side", trees, *plain))
    rows.append(timed("MLPRegressor((256, 256)), similarities side by side", MLPRegressor(**MLP), *plain))
    grid, scan = (r["ms an epoch, median"] for r in rows[:2])
    gap = abs(rows[0]["test MSE"] - rows[1]["test MSE"])
    report("davis_speed", "Davis: an epoch on blocks of pairs, and the time to a good model", rows,
           f"All five training folds, fixed test list, m = 1,024. Over the same blocks the two engines' predictions differ by "
           f"{difference:.1g} of the largest. An epoch of the tuned models, scan / grid: {scan / grid:.1f} "
           f"({target(scan / grid, at_least=20)}); their test errors differ by {gap:.4f} "
           f"({target(gap, at_most=0.003)}).", draw=_draw)  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    for r in rows:
        axes.scatter(r["seconds in all"], r["test MSE"], label=r["model"])
    axes.axhline(GOAL, linestyle=":", color="grey")
    axes.set(xscale="log", xlabel="seconds", ylabel="mean squared error on the test list")
    axes.legend(fontsize="x-small")
