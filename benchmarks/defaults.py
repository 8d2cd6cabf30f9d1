"""Defaults against tuning: step, output scale and epochs chosen by cross-validation on the training rows only.

    python -m benchmarks.run defaults         # Davis too where KRONSGD_DATA is set
"""

from __future__ import annotations

import itertools
import os
import warnings
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.datasets import load_diabetes, make_friedman1, make_friedman2
from sklearn.metrics import log_loss
from sklearn.model_selection import KFold

import kronsgd as ks
from benchmarks.common import data_folder, report
from kronsgd.datasets import load_davis, load_digits

STEPS, SCALES, EPOCHS = (0.5, 1.0, 2.0), (0.03, 0.1, 0.3), (8, 25, 80)
N_HIDDEN = 1024


def loss_of(model: Any, X: Any, y: Any) -> float:
    """Mean squared error, or log loss of a classifier."""
    if isinstance(model, ks.KronClassifier):
        return float(log_loss(y, model.predict_proba(X), labels=model.classes_))
    return float(np.mean((model.predict(X) - y) ** 2))


def fitted(X: Any, y: Any, classify: bool, step: float = 1.0, **settings: Any) -> Any:
    """A model with `step` times the automatic learning rate."""
    warnings.simplefilter("ignore")
    make = ks.KronClassifier if classify else ks.KronRegressor
    model = make(N_HIDDEN, random_state=0, **settings)
    if step != 1:
        rate = make(N_HIDDEN, random_state=0, **{**settings, "max_iter": 0}).fit(X, y).learning_rate_
        model.set_params(learning_rate_init=step * rate)
    return model.fit(X, y)


def tuned(X: Any, y: Any, classify: bool, folds: int, grid: list[tuple[float, float, int]]) -> tuple[float, float, int]:
    """The setting with the least mean loss over inner folds."""

    def score(setting: tuple[float, float, int], train: Any, test: Any) -> float:
        step, scale, epochs = setting
        model = fitted(X[train], y[train], classify, step, output_scale=scale, max_iter=epochs, n_jobs=1)
        value = loss_of(model, X[test], y[test])
        return value if np.isfinite(value) else np.inf

    splits = list(KFold(3, shuffle=True, random_state=2).split(y))[:folds]
    jobs = [(setting, train, test) for setting in grid for train, test in splits]
    scores = Parallel(n_jobs=2)(delayed(score)(*job) for job in jobs)
    return grid[int(np.reshape(scores, (len(grid), folds)).mean(axis=1).argmin())]


def row(name: str, X: Any, y: Any, classify: bool, outer: int, inner: int) -> dict[str, Any]:
    """Mean test losses over `outer` of five folds, of the defaults and of what inner folds chose."""
    default, best, chosen = [], [], []
    grid = list(itertools.product(STEPS, SCALES, EPOCHS))
    for train, test in list(KFold(5, shuffle=True, random_state=1).split(y))[:outer]:
        default.append(loss_of(fitted(X[train], y[train], classify), X[test], y[test]))
        setting = tuned(X[train], y[train], classify, inner, grid)
        chosen.append(setting)
        model = fitted(X[train], y[train], classify, setting[0], output_scale=setting[1], max_iter=setting[2])
        best.append(loss_of(model, X[test], y[test]))
    return summary(name, float(np.mean(default)), float(np.mean(best)), chosen)


def summary(name: str, default: float, best: float, chosen: list[Any]) -> dict[str, Any]:
    """One row of the table."""
    return {"set": name, "defaults": default, "tuned": best, "defaults / tuned": round(default / best, 3),
            "chosen (step ×, output_scale, epochs)": "; ".join(map(str, chosen))}  # fmt: skip


def davis_row() -> dict[str, Any]:
    """Tuned on fold 4 after training on folds 0 to 3; both fitted on all five folds and scored on the test list."""
    problem = load_davis(data_folder("davis"))
    held = problem.folds[4]
    kept = np.setdiff1d(np.arange(len(problem.y)), held)
    grid = list(itertools.product((0.1, 0.2), (10, 20)))
    scores = []
    for scale, epochs in grid:
        model = fitted(problem.X[kept], problem.y[kept], False, output_scale=scale, max_iter=epochs)
        scores.append(loss_of(model, problem.X[held], problem.y[held]))
    scale, epochs = grid[int(np.argmin(scores))]
    best = fitted(problem.X, problem.y, False, output_scale=scale, max_iter=epochs)
    default = fitted(problem.X, problem.y, False)
    return summary("Davis, given kernels", loss_of(default, problem.X_test, problem.y_test),
                   loss_of(best, problem.X_test, problem.y_test), [(1.0, scale, epochs)])  # fmt: skip


def main() -> None:
    """Digits, three regression sets, Davis."""
    digits = load_digits()
    rows = [
        row("diabetes", *load_diabetes(return_X_y=True), False, 3, 3),
        row("friedman1, 500 rows", *make_friedman1(500, noise=1.0, random_state=0), False, 2, 3),
        row("friedman2, 500 rows", *make_friedman2(500, noise=100.0, random_state=0), False, 2, 3),
        row("digits, (1 + x) ** 2", (1 + digits.X) ** 2, digits.y, True, 1, 1),
    ]
    if os.environ.get("KRONSGD_DATA"):
        rows.append(davis_row())
    report("defaults", "Defaults are close to what tuning reaches", rows,
           "Mean squared error, log loss for digits. Tuned: step × output scale × epochs, chosen on inner folds of the "
           "training rows (27 settings; 4 for Davis).")  # fmt: skip
