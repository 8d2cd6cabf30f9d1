"""kronsgd: wide two-layer networks on products of features, trained exactly and without building the product."""

from kronsgd._version import __version__
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
from kronsgd.training import Checkpoint, StopReason

__all__ = [
    "RBF", "Bag", "Categories", "Checkpoint", "Dense", "Features", "Kernel", "KronClassifier", "KronRegressor", "LowRank",
    "OneHot", "Patches", "Sparse", "Spectrum", "StopReason", "Tanimoto", "__version__", "crosses", "load", "plan",
]  # fmt: skip
