"""The same training step written in PyTorch as well as we can: float32, buffers allocated once, no autograd, all cores.

Each takes our state's w(0), output weights and threshold, and takes the same steps to rounding, so that only time and
memory differ. What else was tried is in LOG.md. Squared loss, one output.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.problems import Pairs, starting_weights

Array = NDArray[Any]


def use_all_cores() -> None:
    """As many PyTorch threads as there are cores this process may use, which was the fastest setting everywhere."""
    torch.set_num_threads(len(os.sched_getaffinity(0)))


class TorchTwin:
    """What all have in common: from inner products z to the coefficients of a step."""

    def __init__(self, pairs: Pairs, state: Any, batch: int, rate: float) -> None:
        use_all_cores()
        network = state.network
        self.scale, self.threshold, self.rate = network.scale, network.threshold, rate
        self.a = torch.from_numpy(state.output_weights[:, 0].copy())
        self.y = torch.from_numpy(pairs.y[:, 0].astype(np.float32))
        self.z = torch.empty((batch, network.n_hidden))

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        """⟨w_r, x_i⟩. Shape: (S, m), which the step overwrites."""
        raise NotImplementedError

    def add(self, rows: torch.Tensor, coefficients: torch.Tensor) -> None:
        """The update. Shape: coefficients (S, m)."""
        raise NotImplementedError

    @torch.inference_mode()
    def step(self, rows: NDArray[np.int64]) -> float:
        """One step of SGD. Returns the summed loss before it."""
        index = torch.from_numpy(rows).to(self.y.device)
        hidden = self.values(index).sub_(self.threshold).clamp_min_(0)
        residual = (hidden @ self.a).mul_(self.scale).sub_(self.y[index])
        slopes = residual * (-self.rate * self.scale / len(rows))
        self.add(index, hidden.sign_().mul_(self.a).mul_(slopes[:, None]))
        return float(0.5 * (residual**2).sum())


class TorchDense(TorchTwin):
    """Explicit rows X (n, d) and weights W (m, d). Memory: (n + m)·d numbers. Two matrix products of 2·S·m·d flops."""

    def __init__(self, pairs: Pairs, state: Any, batch: int, rate: float) -> None:
        super().__init__(pairs, state, batch, rate)
        d = int(np.prod([table.shape[1] for table in pairs.tables]))
        self.W = torch.empty((state.network.n_hidden, d))
        starting_weights(state, self.W.numpy())
        self.x = torch.empty((batch, d))
        self.prepare(pairs, d)

    def prepare(self, pairs: Pairs, d: int) -> None:
        """Build all rows of the product."""
        self.X = torch.empty((len(pairs.y), d))
        for first in range(0, len(pairs.y), 256):
            self.X[first : first + 256] = product_rows(pairs, slice(first, first + 256))

    def batch_rows(self, rows: torch.Tensor) -> torch.Tensor:
        """x_i of the batch. Shape: (S, d)."""
        return torch.index_select(self.X, 0, rows, out=self.x)

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.mm(self.batch_rows(rows), self.W.T, out=self.z)

    def add(self, rows: torch.Tensor, coefficients: torch.Tensor) -> None:
        self.W.addmm_(coefficients.T, self.x)


class TorchFactored(TorchDense):
    """Explicit weights, seen as one bilinear form per neuron; the product's rows are built for one batch at a time."""

    def prepare(self, pairs: Pairs, d: int) -> None:
        self.tables = [torch.from_numpy(table) for table in pairs.tables]
        self.index = [torch.from_numpy(index) for index in pairs.index]

    def batch_rows(self, rows: torch.Tensor) -> torch.Tensor:
        a, b = (table[index[rows]] for table, index in zip(self.tables, self.index, strict=True))
        torch.mul(a[:, :, None], b[:, None, :], out=self.x.view(len(rows), a.shape[1], b.shape[1]))
        return self.x


class TorchDual(TorchTwin):
    """Our own dual form with dense α (n, m): z = z(0) + K[S, :] @ α, α[S] += coefficients. One product of 2·S·n·m flops.

    Inner products of entities are laid out as (entities, n), so that a panel is gathered in whole rows of n numbers.
    """

    def __init__(self, pairs: Pairs, state: Any, batch: int, rate: float) -> None:
        super().__init__(pairs, state, batch, rate)
        n, m = len(pairs.y), state.network.n_hidden
        self.index = [torch.from_numpy(index) for index in pairs.index]
        tables = [torch.from_numpy(table) for table in pairs.tables]
        self.grams = [(t @ t.T)[:, i].contiguous() for t, i in zip(tables, self.index, strict=True)]
        self.alpha = torch.zeros((n, m))
        self.z0 = torch.empty((n, m))
        for first in range(0, n, 256):
            self.z0[first : first + 256] = torch.from_numpy(state.start(np.arange(first, min(first + 256, n))))
        self.panel, self.part = torch.empty((batch, n)), torch.empty((batch, n))

    def values(self, rows: torch.Tensor) -> torch.Tensor:
        torch.index_select(self.grams[0], 0, self.index[0][rows], out=self.panel)
        for gram, index in zip(self.grams[1:], self.index[1:], strict=True):
            self.panel.mul_(torch.index_select(gram, 0, index[rows], out=self.part))
        torch.index_select(self.z0, 0, rows, out=self.z)
        return self.z.addmm_(self.panel, self.alpha)

    def add(self, rows: torch.Tensor, coefficients: torch.Tensor) -> None:
        self.alpha.index_add_(0, rows, coefficients)


class TorchDualColumns(TorchDual):
    """The same with α laid out as (m, n): sometimes a faster product, always a slower update."""

    def __init__(self, pairs: Pairs, state: Any, batch: int, rate: float) -> None:
        super().__init__(pairs, state, batch, rate)
        self.alpha = torch.zeros((state.network.n_hidden, len(pairs.y))).T

    def add(self, rows: torch.Tensor, coefficients: torch.Tensor) -> None:
        self.alpha.T.index_add_(1, rows, coefficients.T)


class SparseProduct:
    """Only α @ K[:, S] with α in MKL's CSR, neither gathers nor activation nor update: a floor for any sparse version."""

    def __init__(self, state: Any, rows: NDArray[np.int64]) -> None:
        use_all_cores()
        warnings.filterwarnings("ignore", message=".*[Ss]parse")  # PyTorch calls its CSR tensors a beta
        n = state.features.n_rows
        alpha = state.coefficients.matrix(n)
        parts = (torch.from_numpy(part) for part in (alpha.indptr.astype(np.int32), alpha.indices.astype(np.int32)))
        self.alpha = torch.sparse_csr_tensor(*parts, torch.from_numpy(alpha.data.astype(np.float32)), alpha.shape)
        panel = state.gram.panel(rows, len(rows))[0]
        self.panel = torch.from_numpy(panel.copy())

    @torch.inference_mode()
    def step(self) -> torch.Tensor:
        """z − z(0), apart from the scale of α. Shape: (m, S)."""
        return self.alpha @ self.panel


def product_rows(pairs: Pairs, rows: Any) -> torch.Tensor:
    """x_i = a_i ⊗ b_i ⊗ …. Shape: (S, d)."""
    out = torch.ones((len(pairs.y[rows]), 1))
    for table, index in zip(pairs.tables, pairs.index, strict=True):
        out = (out[:, :, None] * torch.from_numpy(table[index[rows]])[:, None, :]).flatten(1)
    return out
