"""Five-fold accuracy on scikit-learn's digits with (1 + x) ** 2, beside scikit-learn's own.

    python -m benchmarks.run digits
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from sklearn.datasets import load_digits as sklearn_digits
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedKFold
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler
from sklearn.svm import SVC

import kronsgd as ks
from benchmarks.common import report
from kronsgd.datasets import load_digits


def main() -> None:
    """The same five folds for all."""
    pixels, y = sklearn_digits(return_X_y=True)
    x = load_digits().X
    models: list[tuple[str, Any, Any]] = [
        ("KronClassifier(n_hidden=1024), (1 + x) ** 2", ks.KronClassifier(1024, random_state=0), (1 + x) ** 2),
        ("KronClassifier(n_hidden=4096), (1 + x) ** 2", ks.KronClassifier(4096, random_state=0), (1 + x) ** 2),
        ("KronClassifier(n_hidden=4096), (1 + x) ** 3", ks.KronClassifier(4096, random_state=0), (1 + x) ** 3),
        ("SVC(gamma='scale'), pixels", make_pipeline(MinMaxScaler(), SVC(probability=True, random_state=0)), pixels),
        ("MLPClassifier(1024), pixels", make_pipeline(MinMaxScaler(), MLPClassifier(1024, random_state=0)), pixels),
    ]
    rows = []
    for name, model, X in models:
        right, losses, started = [], [], time.perf_counter()
        for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(pixels, y):
            p = model.fit(X[train], y[train]).predict_proba(X[test])
            right.append(float(np.mean(p.argmax(axis=1) == y[test])))
            losses.append(log_loss(y[test], p))
        rows.append({"model": name, "accuracy": f"{np.mean(right):.4f} ± {np.std(right):.4f}",
                     "log loss": float(np.mean(losses)),
                     "seconds for 5 fits": round(time.perf_counter() - started, 1)})  # fmt: skip
    report("digits", "digits, five folds, defaults", rows,
           "x = Dense(pixels, center=True). SVC's log loss is that of its Platt scaling.")  # fmt: skip
