"""The asynchronous correlation tree of arXiv 2305.08001: one binary max-tree over the m neurons for each of n rows.

A leaf holds ⟨w_r, x_i⟩ and an inner node the larger of its two children, so that a query need not look below a node that
is not above the threshold. The paper's names for the methods are INIT, UPDATE and QUERY.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.reference.operations import Operations

__all__ = ["CorrelationTree"]

Array = NDArray[Any]


class CorrelationTree:
    """n max-trees over m leaves. Memory: 2·n·2^⌈log₂ m⌉ numbers.

    nodes (2M, n), M = 2^⌈log₂ m⌉: column i is row i's tree, as a heap. Node 1 is the root, the children of node k are 2k and
    2k + 1, and neuron r's leaf is node M + r. Leaves past the last neuron are −∞ and never fire.
    """

    def __init__(self, values: Array, operations: Operations | None = None) -> None:
        """INIT from inner products that are known. Shape: values (n, m). Cost: n·m comparisons."""
        self.operations = Operations() if operations is None else operations
        self.n_rows, self.n_neurons = values.shape
        self.depth = (self.n_neurons - 1).bit_length()
        self.n_leaves = 1 << self.depth
        self.nodes = np.full((2 * self.n_leaves, self.n_rows), -np.inf)
        self.nodes[self.n_leaves : self.n_leaves + self.n_neurons] = _finite(values).T
        for level in range(self.depth - 1, -1, -1):
            first = 1 << level
            children = self.nodes[2 * first : 4 * first].reshape(first, 2, self.n_rows)
            self.nodes[first : 2 * first] = children.max(axis=1)
        self.operations.comparisons += (self.n_leaves - 1) * self.n_rows
        self.operations.nodes_written += (2 * self.n_leaves - 1) * self.n_rows

    @classmethod
    def initialize(cls, weights: Array, rows: Array) -> CorrelationTree:
        """INIT(W, X). Shape: weights (m, d), rows (n, d). Cost: n·m·d multiply-adds, n·m comparisons."""
        operations = Operations(multiply_adds=weights.size * len(rows))
        return cls(rows @ weights.T, operations)

    def value(self, row: int, neuron: int) -> float:
        """⟨w_r, x_i⟩ as it is stored."""
        return float(self.nodes[self.n_leaves + neuron, row])

    def update(self, row: int, neuron: int, value: float) -> None:
        """UPDATE: a new value for one leaf of one row's tree. Cost: ⌈log₂ m⌉ comparisons, ⌈log₂ m⌉ + 1 nodes written."""
        self._write(neuron, slice(row, row + 1), np.array([value]))

    def add(self, neuron: int, changes: Array) -> None:
        """UPDATE of one neuron's leaf in every row's tree, by so much. Shape: changes (n,). Cost: n times that of `update`."""
        self._write(neuron, slice(None), self.nodes[self.n_leaves + neuron] + changes)
        self.operations.multiply_adds += self.n_rows

    def _write(self, neuron: int, rows: slice, values: Array) -> None:
        """The leaf, then every node above it. Several rows' trees are walked together, for all have the same shape."""
        node = self.n_leaves + neuron
        self.nodes[node, rows] = _finite(values)
        self.operations.nodes_written += len(values) * (self.depth + 1)
        self.operations.comparisons += len(values) * self.depth
        while node > 1:
            node //= 2
            self.nodes[node, rows] = np.maximum(self.nodes[2 * node, rows], self.nodes[2 * node + 1, rows])

    def query(self, row: int, threshold: float) -> NDArray[np.int64]:
        """QUERY(i, b): the neurons with ⟨w_r, x_i⟩ > b, ascending. Shape: (fired,).

        Cost: at most 1 + 2·|fired|·⌈log₂ m⌉ comparisons, for a node is looked at only if its parent leads to a fired leaf.
        """
        above = np.array([1])
        for _ in range(self.depth):
            above = self._above(above, row, threshold)
            above = np.stack([2 * above, 2 * above + 1], axis=1).ravel()
        return np.asarray(self._above(above, row, threshold) - self.n_leaves, dtype=np.int64)

    def _above(self, nodes: Array, row: int, threshold: float) -> Array:
        """Those nodes of one row's tree whose maximum is above the threshold."""
        self.operations.comparisons += len(nodes)
        return np.asarray(nodes[self.nodes[nodes, row] > threshold])


def _finite(values: Array) -> Array:
    """A NaN in a leaf would hide every neuron beside it from queries."""
    if not np.isfinite(values).all():
        raise ValueError("inner products must be finite; a training that has diverged needs a smaller step.")
    return values
