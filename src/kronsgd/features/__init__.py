"""Feature spaces: what a row is, known by its inner products with other rows."""

from kronsgd.features.bag import Bag
from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.derived import Derived
from kronsgd.features.item_sums import ItemSums
from kronsgd.features.kernel_leaves import RBF, Kernel, Tanimoto
from kronsgd.features.leaf import Leaf
from kronsgd.features.leaves import Dense, OneHot, Sparse
from kronsgd.features.weighted import Weighted

__all__ = [
    "RBF", "Bag", "Constant", "Dense", "Derived", "Features", "ItemSums", "Kernel", "Leaf", "OneHot", "Power", "Product",
    "Sparse", "Sum", "Tanimoto", "Weighted",
]  # fmt: skip
