"""kronsgd: wide two-layer networks on products of features, trained exactly and without building the product."""

from kronsgd.estimators import KronClassifier, KronRegressor, load, plan
from kronsgd.features import RBF, Bag, Dense, Features, Kernel, OneHot, Sparse, Tanimoto
from kronsgd.training import StopReason

__all__ = [
    "RBF", "Bag", "Dense", "Features", "Kernel", "KronClassifier", "KronRegressor", "OneHot", "Sparse", "StopReason",
    "Tanimoto", "load", "plan",
]  # fmt: skip

__version__ = "0.1.0"
