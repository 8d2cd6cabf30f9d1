"""Feature spaces: what a row is, known by its inner products with other rows."""

from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.kernel_leaves import RBF, Kernel, Tanimoto
from kronsgd.features.leaf import Leaf
from kronsgd.features.leaves import Dense, OneHot, Sparse

__all__ = [
    "RBF", "Constant", "Dense", "Features", "Kernel", "Leaf", "OneHot", "Power", "Product", "Sparse", "Sum", "Tanimoto",
]  # fmt: skip
