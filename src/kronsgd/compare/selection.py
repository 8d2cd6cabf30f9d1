"""Choosing a method's setting inside the training rows, and scoring predictions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kronsgd.compare.folds import Fold

__all__ = ["Method", "Prediction", "chosen_setting", "primary", "scores"]

Array = NDArray[Any]
Setting = dict[str, Any]


@dataclass(frozen=True)
class Prediction:
    """Targets (n',), or numbers of classes (n',) and, where a method gives them, probabilities (n', C)."""

    values: Array
    proba: Array | None = None


class Method(Protocol):
    """What is compared. `settings`: the small grid to choose from; `seeded`: whether chance plays a part."""

    @property
    def name(self) -> str: ...

    @property
    def settings(self) -> list[Setting]: ...

    @property
    def seeded(self) -> bool: ...

    def refusal(self, fold: Fold) -> str | None:
        """Why it cannot run on such rows, as a sentence without its full stop; None if it can."""

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        """Fit on the fold's training rows with each setting, and predict its test rows."""


def scores(fold: Fold, prediction: Prediction) -> dict[str, float]:
    """Scores of the fold's test rows; the first is the one that settings are chosen and methods ranked by."""
    y, p = fold.y_test, prediction.values
    if fold.n_classes:
        out = {"accuracy": float(np.mean(p == y))}
        if prediction.proba is not None:
            right = prediction.proba[np.arange(len(y)), y]
            out["log_loss"] = float(-np.log(np.clip(right, 1e-15, 1)).mean())
        return out
    mse, spread = float(np.mean((p - y) ** 2)), float(np.var(y))
    out = {"mse": mse, "r2": 1 - mse / spread if spread > 0 else float("nan")}
    varied = spread > 0 and np.ptp(p) > 0
    out["pearson"] = float(np.corrcoef(y, p)[0, 1]) if varied else float("nan")
    return out


def primary(n_classes: int) -> tuple[str, bool]:
    """(name of the score that decides, whether larger is better)."""
    return ("accuracy", True) if n_classes else ("mse", False)


def chosen_setting(method: Method, fold: Fold) -> Setting:
    """The setting with the best mean score over the inner folds; the first of equals. Test rows are never looked at."""
    if len(method.settings) == 1:
        return method.settings[0]
    name, larger = primary(fold.n_classes)
    table = [
        [scores(part, prediction)[name] for prediction in method.predict(part, method.settings, 0)] for part in fold.inside()
    ]
    mean = np.nan_to_num(np.mean(table, axis=0), nan=-np.inf if larger else np.inf)
    return method.settings[int(mean.argmax() if larger else mean.argmin())]
