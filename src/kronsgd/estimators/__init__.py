"""scikit-learn estimators."""

from kronsgd.estimators.base import KronEstimator
from kronsgd.estimators.classifier import KronClassifier
from kronsgd.estimators.preview import plan
from kronsgd.estimators.regressor import KronRegressor

__all__ = ["KronClassifier", "KronEstimator", "KronRegressor", "load", "plan"]

load = KronEstimator.load
