"""The paper's algorithm (arXiv 2305.08001) to read and to compare with: eager updates of stored inner products, in float64.

Everything counts its own operations. To train, take `kronsgd.engines`: the same steps without an (n, m) table.
"""

from kronsgd.reference.correlation_tree import CorrelationTree
from kronsgd.reference.flat_table import FlatTable
from kronsgd.reference.kronecker_sgd import STORES, FiredBatch, KroneckerSGD
from kronsgd.reference.operations import Operations

__all__ = ["STORES", "CorrelationTree", "FiredBatch", "FlatTable", "KroneckerSGD", "Operations"]
