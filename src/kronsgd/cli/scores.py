"""What a prediction is worth."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import mean_absolute_error, mean_squared_error, r2_score, roc_auc_score

from kronsgd.estimators import KronEstimator
from kronsgd.features import Features
from kronsgd.metrics import (
    aupr_score,
    concordance_index,
    hit_rate_at_k,
    ndcg_at_k,
    per_entity,
    precision_at_k,
    rm2_score,
    spearman_correlation,
)

__all__ = ["Prediction", "at_threshold", "average", "label", "log_loss_of", "predict_rows", "scores"]

Array = NDArray[Any]
MOST_ENTITIES = 20_000  # whose scores are averaged: about two seconds
LABELS = {
    "mse": "mean squared error", "rmse": "root mean squared error", "mae": "mean absolute error", "r2": "R²",
    "pearson": "Pearson correlation", "spearman": "Spearman correlation",
    "concordance_index": "concordance index", "rm2": "r_m²",
    "accuracy": "accuracy", "log_loss": "log loss", "auroc": "area under the ROC curve",
    "aupr": "area under the precision-recall curve",
}  # fmt: skip


@dataclass(frozen=True)
class Prediction:
    """Targets (n,); for a classifier also the classes (C,) and their probabilities (n, C).

    deviation (n,): of a regressor's networks from each other, where there are several. order_only: the values say nothing but
    which row comes before which.
    """

    values: Array
    classes: Array | None = None
    proba: Array | None = None
    deviation: Array | None = None
    order_only: bool = False

    def take(self, rows: Array) -> Prediction:
        """The prediction for some of the rows."""
        proba, deviation = (None if part is None else part[rows] for part in (self.proba, self.deviation))
        return Prediction(self.values[rows], self.classes, proba, deviation, self.order_only)


def predict_rows(model: KronEstimator, X: Features) -> Prediction:
    """What one model says."""
    fitted: Any = model
    if not hasattr(model, "classes_"):
        members = fitted.predict_members(X)
        several = len(members) > 1 and members.ndim == 2
        deviation = members.std(axis=0, ddof=1) if several else None
        return Prediction(members.mean(axis=0), deviation=deviation, order_only=fitted.loss == "ranking")
    proba = fitted.predict_proba(X)
    return Prediction(np.asarray(fitted.predict(X)), fitted.classes_, proba)


def average(predictions: Sequence[Prediction]) -> Prediction:
    """The mean of several models' targets, or of their probabilities."""
    first = predictions[0]
    if len(predictions) == 1:
        return first
    if first.classes is None:
        values = np.array([p.values for p in predictions])
        within = [p.deviation**2 for p in predictions if p.deviation is not None]
        between = values.var(axis=0, ddof=1)
        deviation = np.sqrt(between + (np.mean(within, axis=0) if within else 0))
        return Prediction(values.mean(axis=0), deviation=deviation, order_only=first.order_only)
    proba = np.mean([p.proba for p in predictions if p.proba is not None], axis=0)
    return Prediction(first.classes[proba.argmax(axis=1)], first.classes, proba)


def label(key: str) -> str:
    """A score's name for people."""
    text = key.replace("ci_per_", "concordance index, mean over each ").replace("_per_", ", mean over each ")
    return LABELS.get(key, text.replace("_at_", " at ").replace("hit_rate", "hit rate").replace("ndcg", "NDCG"))


def scores(y: Array, prediction: Prediction, ids: Mapping[str, Array] | None = None) -> dict[str, float]:
    """Scores by their keys; NaN where one is not defined, as for a single row.

    ids: those of the rows by column. For each column, the concordance index is also averaged over its entities: what is left
    when the entities' own levels no longer count.
    """
    if prediction.classes is not None:
        return _classification(y, prediction)
    p = prediction.values
    varied = len(y) > 1 and np.ptp(y) > 0 and np.ptp(p) > 0
    order = {
        "spearman": spearman_correlation(y, p) if varied else math.nan,
        "concordance_index": concordance_index(y, p) if varied else math.nan,
        **{f"ci_per_{column}": _ci_per_entity(y, p, own) for column, own in (ids or {}).items() if column != "row"},
    }
    if prediction.order_only:
        return order
    mse = float(mean_squared_error(y, p))
    return {
        "mse": mse, "rmse": math.sqrt(mse), "mae": float(mean_absolute_error(y, p)),
        "r2": float(r2_score(y, p)) if len(y) > 1 else math.nan,
        "pearson": float(np.corrcoef(y, p)[0, 1]) if varied else math.nan,
        "rm2": rm2_score(y, p) if varied else math.nan, **order,
    }  # fmt: skip


def _ci_per_entity(y: Array, p: Array, ids: Array) -> float:
    """NaN where it is not defined, or takes long."""
    if len(np.unique(ids.astype(str))) > MOST_ENTITIES:
        return math.nan
    try:
        return per_entity(concordance_index, y, p, ids)
    except ValueError:
        return math.nan


def at_threshold(
    y: Array, prediction: Prediction, ids: Mapping[str, Array], threshold: float | None, k: int
) -> dict[str, float]:
    """How well targets above a threshold are found: among all rows, and among the k best of each entity by column of ids."""
    if threshold is None:
        return {}
    if prediction.classes is not None:
        raise ValueError("--threshold turns numbers into hits, but the run predicts classes; leave it out.")
    hits, p = y > threshold, prediction.values
    out = {"aupr": aupr_score(y, p, threshold)}
    for column, own in ids.items():
        for name, score in (("hit_rate", hit_rate_at_k), ("precision", precision_at_k), ("ndcg", ndcg_at_k)):
            out[f"{name}_at_{k}_per_{column}"] = score(hits, p, own, k)
    return out


def _classification(y: Array, prediction: Prediction) -> dict[str, float]:
    assert prediction.classes is not None
    assert prediction.proba is not None
    out = {"accuracy": float(np.mean(prediction.values == y)), "log_loss": log_loss_of(y, prediction)}
    if len(prediction.classes) == 2:
        positive = y == prediction.classes[1]
        both = positive.any() and not positive.all()
        out["auroc"] = float(roc_auc_score(positive, prediction.proba[:, 1])) if both else math.nan
        out["aupr"] = aupr_score(positive, prediction.proba[:, 1], 0.5) if both else math.nan
    return out


def log_loss_of(y: Array, prediction: Prediction, weights: Array | None = None) -> float:
    """Mean −log of the true class's probability, which is 10⁻¹⁵ at least, also for a class never seen in training."""
    assert prediction.classes is not None
    assert prediction.proba is not None
    match = np.asarray(y)[:, None] == prediction.classes[None, :]
    p = np.where(match, prediction.proba, 0).sum(axis=1)
    return float(np.average(-np.log(np.clip(p, 1e-15, 1)), weights=weights))
