"""Kronecker SGD as the paper has it (arXiv 2305.08001): all inner products stored, and moved eagerly after every batch.

Slow, and written to be read beside the paper. `kronsgd.engines` take the same steps without the (n, m) table: lazily, from
coefficients alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.initial import InitialWeights
from kronsgd.network import TwoLayer
from kronsgd.reference.correlation_tree import CorrelationTree
from kronsgd.reference.flat_table import FlatTable
from kronsgd.reference.operations import Operations

__all__ = ["STORES", "FiredBatch", "KroneckerSGD"]

Array = NDArray[Any]


class Store(Protocol):
    """Where inner products are kept: an argument (n, m) makes one, and it counts into the Operations given."""

    def __init__(self, values: Array, operations: Operations | None = None) -> None: ...

    def value(self, row: int, neuron: int) -> float: ...

    def add(self, neuron: int, changes: Array) -> None: ...

    def query(self, row: int, threshold: float) -> NDArray[np.int64]: ...


STORES: dict[str, type[Store]] = {"tree": CorrelationTree, "flat": FlatTable}


@dataclass(frozen=True)
class FiredBatch:
    """The forward pass of one batch."""

    rows: NDArray[np.int64]  # (S,)
    fired: list[NDArray[np.int64]]  # for each row, the neurons that fire on it, ascending
    outputs: Array  # (S, C)


class KroneckerSGD:
    """Steps of SGD on the hidden weights w_r, of which only ⟨w_r, x_i⟩ for the n training rows is ever kept.

    Memory: n·m numbers (twice that and more with trees) + n² inner products between rows. Nothing has the dimension d.
    """

    def __init__(self, network: TwoLayer, features: Features, normalize: bool = True, store: str = "tree") -> None:
        """INIT. features: n training rows; store: a key of STORES. Cost: n²·F multiply-adds for F factors, n·m comparisons."""
        if network.train_output:
            raise ValueError("the paper trains the hidden weights only; set train_output=False, or take an engine.")
        if store not in STORES:
            raise ValueError(f"store={store!r} is not one of {sorted(STORES)}.")
        self.network, self.operations = network, Operations()
        self.output_weights = network.output_weights().astype(np.float64)
        scale = inverse_norms(features, normalize)
        # Inner products of products are products of inner products: the expression multiplies those of its factors.
        self.gram = np.asarray(features.inner(), dtype=np.float64) * scale[:, None] * scale
        self.operations.multiply_adds += self.gram.size * len(list(features.leaves()))
        start = InitialWeights(network, features).values(features, normalize, np.float64)
        self.store = STORES[store](start(np.arange(features.n_rows)), self.operations)
        self.alpha = np.zeros((features.n_rows, network.n_hidden))  # w_r = w_r(0) + Σ_j alpha_jr x_j; steps do not read it

    def forward(self, rows: NDArray[np.int64]) -> FiredBatch:
        """FORWARD: ask each row's tree which neurons fire; sum those up. Shape: rows (S,). Cost: S queries, 2·fired·C."""
        network = self.network
        fired = [self.store.query(int(i), network.threshold) for i in rows]
        outputs = np.zeros((len(rows), network.n_outputs))
        for s, (i, neurons) in enumerate(zip(rows, fired, strict=True)):
            for r in neurons:
                excess = self.store.value(int(i), int(r)) - network.threshold
                outputs[s] += network.scale * excess * self.output_weights[r]
            self.operations.multiply_adds += 2 * len(neurons) * network.n_outputs
        return FiredBatch(rows, fired, outputs)

    def backward(self, batch: FiredBatch, slopes: Array, step: float) -> dict[int, dict[int, float]]:
        """BACKWARD: the step's coefficients, neuron -> batch row -> c_ir = −step·(γ/√m)·Σ_c slopes_ic·a_rc.

        Only fired pairs have any. Shape: slopes (S, C). Cost: C multiply-adds for each fired pair.
        """
        coefficients: dict[int, dict[int, float]] = {}
        for i, neurons, slope in zip(batch.rows, batch.fired, slopes, strict=True):
            for r in neurons:
                c = -step * self.network.scale * float(slope @ self.output_weights[r])
                of_row = coefficients.setdefault(int(r), {})
                of_row[int(i)] = of_row.get(int(i), 0.0) + c  # a batch may hold a row twice
            self.operations.multiply_adds += len(neurons) * self.network.n_outputs
        return coefficients

    def update(self, coefficients: dict[int, dict[int, float]]) -> None:
        """UPDATE, eagerly: w_r has moved by Σ_j c_jr x_j, so its inner product with every row i moves by Σ_j c_jr K_ij.

        Cost: n multiply-adds for each fired pair, and n leaf updates for each neuron that fires on the batch.
        """
        for r, of_row in coefficients.items():
            rows, c = list(of_row), np.array(list(of_row.values()))
            self.alpha[rows, r] += c
            self.store.add(r, self.gram[:, rows] @ c)
            self.operations.multiply_adds += len(self.gram) * len(rows)
