"""Stored inner products without trees: what is left of the paper's structure when a query compares all m neurons."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.reference.operations import Operations

__all__ = ["FlatTable"]

Array = NDArray[Any]


class FlatTable:
    """The methods of `CorrelationTree` over a plain table. Memory: n·m numbers.

    values (m, n): a neuron's inner products with all rows lie side by side, because an update changes them together.
    """

    def __init__(self, values: Array, operations: Operations | None = None) -> None:
        """From inner products that are known. Shape: values (n, m)."""
        self.operations = Operations() if operations is None else operations
        self.values = np.array(values.T, dtype=np.float64, order="C")
        self.operations.nodes_written += values.size

    def value(self, row: int, neuron: int) -> float:
        """⟨w_r, x_i⟩ as it is stored."""
        return float(self.values[neuron, row])

    def update(self, row: int, neuron: int, value: float) -> None:
        """A new value for one neuron and row. Cost: one number written."""
        self.values[neuron, row] = value
        self.operations.nodes_written += 1

    def add(self, neuron: int, changes: Array) -> None:
        """Changes of one neuron's inner products with all rows. Shape: changes (n,). Cost: n numbers written."""
        self.values[neuron] += changes
        self.operations.multiply_adds += len(changes)
        self.operations.nodes_written += len(changes)

    def query(self, row: int, threshold: float) -> NDArray[np.int64]:
        """The neurons with ⟨w_r, x_i⟩ > b, ascending. Shape: (fired,). Cost: m comparisons."""
        self.operations.comparisons += len(self.values)
        return np.flatnonzero(self.values[:, row] > threshold)
