"""kronsgd: wide two-layer networks on products of features, trained exactly and without building the product."""

from kronsgd.estimators import KronClassifier, KronRegressor, load, plan
from kronsgd.features import (
    RBF,
    Bag,
    Categories,
    Dense,
    Features,
    Kernel,
    LowRank,
    OneHot,
    Patches,
    Sparse,
    Spectrum,
    Tanimoto,
    crosses,
)
from kronsgd.training import StopReason

__all__ = [
    "RBF", "Bag", "Categories", "Dense", "Features", "Kernel", "KronClassifier", "KronRegressor", "LowRank", "OneHot",
    "Patches", "Sparse", "Spectrum", "StopReason", "Tanimoto", "crosses", "load", "plan",
]  # fmt: skip

__version__ = "0.1.0"
