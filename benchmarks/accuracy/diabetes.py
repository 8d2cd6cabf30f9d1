"""python -m benchmarks.run accuracy.diabetes"""

from __future__ import annotations

from sklearn.datasets import load_diabetes

from benchmarks.accuracy.common import record
from kronsgd.compare import random_folds


def main() -> None:
    """scikit-learn's diabetes, five folds; kronsgd is given the plain array."""
    folds = random_folds(*load_diabetes(return_X_y=True), n_folds=5, n_inner=2)
    record("diabetes", "diabetes: the same five folds for all", folds, "442 rows of 10 columns.")
