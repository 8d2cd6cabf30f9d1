"""Feature spaces: what a row is, known by its inner products with other rows."""

from kronsgd.features.bag import Bag
from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.categories import Categories, crosses
from kronsgd.features.derived import Derived
from kronsgd.features.item_sums import ItemSums
from kronsgd.features.kernel_leaves import Kernel
from kronsgd.features.leaf import Leaf
from kronsgd.features.leaves import Dense, OneHot, Sparse
from kronsgd.features.low_rank import LowRank
from kronsgd.features.patches import Patches
from kronsgd.features.spectrum import Spectrum
from kronsgd.features.vector_kernels import RBF, Tanimoto
from kronsgd.features.weighted import Weighted

__all__ = [
    "RBF", "Bag", "Categories", "Constant", "Dense", "Derived", "Features", "ItemSums", "Kernel", "Leaf", "LowRank", "OneHot",
    "Patches", "Power", "Product", "Sparse", "Spectrum", "Sum", "Tanimoto", "Weighted", "crosses",
]  # fmt: skip
