"""kronsgd itself, and scikit-learn's models on the columns side by side."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC, SVR

from kronsgd.compare.columns import without_columns
from kronsgd.compare.folds import Fold
from kronsgd.compare.selection import Prediction, Setting
from kronsgd.estimators import KronClassifier, KronRegressor
from kronsgd.features import Features

__all__ = ["ColumnModel", "Kron", "boosting", "linear", "perceptron", "support_vectors"]

Array = NDArray[Any]
SVM_ROWS = 12_000  # its cost grows with the square of the rows
TREE_NUMBERS = 50_000_000  # rows × columns that are made dense for trees
MLP_COLUMNS = 100_000


@dataclass
class Kron:
    """The estimator with the given parameters; `settings` are changes to them."""

    params: dict[str, Any]
    settings: list[Setting]
    name: str = "kronsgd"
    seeded: bool = True

    def refusal(self, fold: Fold) -> str | None:
        return None

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        kind = KronClassifier if fold.n_classes else KronRegressor
        first = self.params.get("random_state") or 0
        made = [kind(**{**self.params, **setting, "random_state": first + seed}) for setting in settings]
        return [_predicted(model.fit(fold.X, fold.y), fold, fold.X_test) for model in made]


@dataclass
class ColumnModel:
    """A scikit-learn model on standardised columns. `make(classify, seed, **setting)` gives a fresh one."""

    name: str
    make: Callable[..., Any]
    settings: list[Setting]
    seeded: bool
    dense: bool = False  # whether it needs dense columns
    most_rows: int | None = None

    def refusal(self, fold: Fold) -> str | None:
        reason = without_columns(fold.X) if isinstance(fold.X, Features) else None
        if reason is not None:
            return reason
        n, (_, columns) = len(fold.y), fold.columns[0].shape
        if self.most_rows is not None and n > self.most_rows:
            return f"its cost grows with the square of the rows, and {n:,} are more than {self.most_rows:,}"
        if self.dense and n * columns > TREE_NUMBERS:
            return f"{n:,} rows × {columns:,} columns are too many to hold densely"
        return f"{columns:,} columns are too many" if columns > MLP_COLUMNS else None

    def predict(self, fold: Fold, settings: list[Setting], seed: int) -> list[Prediction]:
        X, X_test = fold.columns
        if sp.issparse(X):
            X, X_test = (part.toarray() if self.dense else sp.csr_matrix(part) for part in (X, X_test))
        scaler = StandardScaler(with_mean=not sp.issparse(X))
        out = []
        for setting in settings:
            model = make_pipeline(scaler, self.make(bool(fold.n_classes), seed, **setting))
            if not fold.n_classes:
                model = TransformedTargetRegressor(model, transformer=StandardScaler())
            out.append(_predicted(model.fit(X, fold.y), fold, X_test))
        return out


def _predicted(model: Any, fold: Fold, X_test: Any) -> Prediction:
    """Probabilities get a column for every class, also for those that these training rows lack."""
    values = np.asarray(model.predict(X_test))
    if not fold.n_classes or not hasattr(model, "predict_proba"):
        return Prediction(values)
    proba = np.zeros((len(values), fold.n_classes))
    proba[:, model.classes_] = model.predict_proba(X_test)
    return Prediction(values, proba)


def perceptron() -> ColumnModel:
    """scikit-learn's MLP with its own defaults but for size and weight decay."""

    def make(classify: bool, seed: int, **setting: Any) -> Any:
        return (MLPClassifier if classify else MLPRegressor)(random_state=seed, max_iter=200, **setting)

    grid = [{"hidden_layer_sizes": size, "alpha": alpha} for size in ((256,), (128, 128)) for alpha in (1e-4, 0.1)]
    return ColumnModel("MLP, columns", make, grid, seeded=True)


def boosting() -> ColumnModel:
    """Histogram gradient boosting."""

    def make(classify: bool, seed: int, **setting: Any) -> Any:
        kind = HistGradientBoostingClassifier if classify else HistGradientBoostingRegressor
        return kind(random_state=seed, early_stopping=False, **setting)

    grid = [{"learning_rate": rate, "max_iter": trees} for rate, trees in ((0.1, 100), (0.05, 100), (0.1, 300))]
    return ColumnModel("HistGradientBoosting, columns", make, grid, seeded=False, dense=True)


def linear() -> ColumnModel:
    """Logistic regression, or ridge regression."""

    def make(classify: bool, seed: int, strength: float) -> Any:
        return LogisticRegression(C=1 / strength, max_iter=1000) if classify else Ridge(alpha=strength)

    grid = [{"strength": strength} for strength in (1.0, 0.1, 10.0, 100.0)]
    return ColumnModel("logistic regression / ridge, columns", make, grid, seeded=False)


def support_vectors() -> ColumnModel:
    """A support vector machine with a Gaussian kernel."""

    def make(classify: bool, seed: int, **setting: Any) -> Any:
        return (SVC if classify else SVR)(cache_size=500, **setting)

    grid = [{"C": c, "gamma": gamma} for c in (0.3, 3, 30) for gamma in ("scale", "auto")]
    return ColumnModel("SVM (RBF), columns", make, grid, seeded=False, most_rows=SVM_ROWS)
