"""What the torch engine keeps on its device: inner products between rows, starting values, and all of α.

Tables of entities go there once, as far as the library keeps them at all; what it makes anew for every batch is made by numpy
and moved. How an expression is put together from its groups is the same code for tensors as for arrays.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.engines.coefficients import SMALLEST_SCALE, Coefficients
from kronsgd.engines.device import Device
from kronsgd.engines.segments import Segments
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram
from kronsgd.features.grouping import Combination, Group
from kronsgd.initial import StartingValues
from kronsgd.network import TwoLayer

__all__ = ["DenseCoefficients", "Panels", "Starts"]

Array = NDArray[Any]
Rows = NDArray[np.int64]
TILE = 1 << 22  # numbers of α that are looked at together when it is written as lists or counted


@dataclass
class Panels:
    """Inner products of all training rows with those of a batch, from what `gram` keeps."""

    device: Device
    gram: RowGram
    kept: dict[Any, Any] = field(default_factory=dict)  # tensors by what they are

    def __reduce__(self) -> tuple[Any, ...]:
        return Panels, (self.device, self.gram)

    def forget(self) -> None:
        """There are other rows."""
        self.kept.clear()

    def __call__(self, rows: Rows, norms: Array, new: Features | None = None) -> Any:
        """⟨x_j, x'_s⟩ with the given rows of `new` (None: training rows), of these inverse norms. Shape: (n, S).

        Cost: n·S gathers and multiplications for each group of factors, and E·S numbers moved for tables that are not kept.
        """
        out = self._value(self.gram.tree, rows, new)
        scales = self._keep("scales", self.gram.inverse_norms)
        return out.mul_(scales[:, None]).mul_(self.device.tensor(norms.astype(self.gram.dtype))[None, :])

    def _value(self, tree: Group | Combination, rows: Rows, new: Features | None) -> Any:
        if isinstance(tree, Combination):
            return tree.combine([self._value(part, rows, new) for part in tree.parts])
        values = self._entities(tree, rows, new)
        return values if tree.index is None else values.index_select(0, self._keep(("index", id(tree)), tree.index))

    def _entities(self, group: Group, rows: Rows, new: Features | None) -> Any:
        """Inner products of the group's entities with those of the batch. Shape: (E, S)."""
        gram = self.gram.kept(group) if new is None else None
        if gram is None:
            return self.device.tensor(self.gram.entity_values(group, rows, new).astype(self.gram.dtype))
        chosen = self.device.tensor(group.entity_rows(rows))
        return self._keep(("gram", id(group)), gram).index_select(0, chosen).T.contiguous()

    def _keep(self, key: Any, array: Array) -> Any:
        if key not in self.kept:
            kind = np.int32 if array.dtype.kind == "i" else self.gram.dtype
            self.kept[key] = self.device.tensor(array.astype(kind, copy=False))
        return self.kept[key]


@dataclass
class Starts:
    """Starting values of the rows of one expression, from the tables that `start` keeps."""

    device: Device
    network: TwoLayer
    start: StartingValues
    kept: dict[int, Any] = field(default_factory=dict)  # each group's values

    def __reduce__(self) -> tuple[Any, ...]:
        return Starts, (self.device, self.network, self.start)

    def forget(self) -> None:
        """There are other rows."""
        self.kept.clear()

    def __call__(self, rows: Rows, norms: Array) -> Any:
        """⟨w_r(0), x_i⟩ at the given rows, of these inverse norms; the caller may write to it. Shape: (S, m).

        Cost: S·m·Q for each group of factors; where tables are not kept, or rows come once, numpy's, and S·m numbers moved.
        """
        tables = self.start.tables() if self.start.caching else None
        if tables is None:
            return self.device.copy(np.ascontiguousarray(self.start(rows)))
        tree, arrays = tables
        if not self.kept:
            self.kept.update({key: self.device.tensor(array) for key, array in arrays.items()})
        values, rank = self._value(tree, rows), self.network.init_rank
        if rank > 1 and isinstance(tree, Combination):
            values = values.unflatten(2, (-1, rank)).sum(dim=3)
        scale = (norms / math.sqrt(rank)).astype(self.network.dtype)
        values = (values * self.device.tensor(scale)[None, :, None]).transpose(0, 1)
        return values.reshape(len(rows), -1)[:, : self.network.n_hidden].contiguous()

    def _value(self, tree: Group | Combination, rows: Rows) -> Any:
        """Shape: (blocks, S, neurons of a block · Q), or without the Q for a single group."""
        if isinstance(tree, Combination):
            return tree.combine([self._value(part, rows) for part in tree.parts])
        return self.kept[id(tree)].index_select(1, self.device.tensor(tree.entity_rows(rows)))


@dataclass
class DenseCoefficients:
    """All of α, n × m, zeros and all: α = scale · values. Its arrays are those of `Coefficients`, so that engines can swap."""

    device: Device
    network: TwoLayer
    n_rows: int
    values: Any  # (≥ n, m)
    scale: float = 1.0

    @classmethod
    def empty(cls, device: Device, network: TwoLayer, n_rows: int) -> DenseCoefficients:
        """Zeros. MemoryError where they do not fit."""
        return cls(device, network, n_rows, device.zeros((n_rows, network.n_hidden), network.dtype))

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_arrays, (self.arrays(), self.network, self.n_rows)

    @property
    def used(self) -> Any:
        """The values of the rows that there are. Shape: (n, m)."""
        return self.values[: self.n_rows]

    @property
    def nnz(self) -> int:
        """Number of coefficients that are not 0. Cost: n·m."""
        return sum(int(part.count_nonzero()) for part in self.used.split(max(1, TILE // self.network.n_hidden)))

    def add_products(self, start: Any, panel: Any) -> Any:
        """start + αᵀ K, in the memory of `start`. Shape: start (S, m), panel (n, S). Cost: 2·S·n·m flops."""
        scale = float(np.dtype(self.network.dtype).type(self.scale))  # infinite, where PyTorch would refuse it as too large
        return start.addmm_(panel.T, self.used, alpha=scale)

    def add(self, rows: Rows, change: Any) -> None:
        """α[rows] += change, a row that occurs several times taking all of them, in an order that never varies.

        Shape: change (S, m). Cost: S·m, and S²·m where rows repeat.
        """
        if self.scale != 1:
            change = change / self.scale
        different, place = np.unique(rows, return_inverse=True)
        if len(different) == len(rows):
            different = rows
        else:
            whose = np.arange(len(different))[:, None] == place
            change = self.device.tensor(whose.astype(self.network.dtype)) @ change
        self.values.index_add_(0, self.device.tensor(different), change)

    def decay(self, factor: float) -> None:
        """α ← factor · α, lazily: only `scale` changes, until it has become small."""
        self.scale *= factor
        if abs(self.scale) < SMALLEST_SCALE:
            self.values.mul_(self.scale)
            self.scale = 1.0

    def extend(self, n_rows: int) -> None:
        """Room for more rows: at first as much as they need, later twice that."""
        if n_rows > len(self.values):
            room = n_rows if self.n_rows == len(self.values) else 2 * n_rows
            values = self.device.zeros((room, self.network.n_hidden), self.network.dtype)
            values[: self.n_rows] = self.used
            self.values = values
        self.n_rows = n_rows

    def lists(self) -> tuple[Array, Array, Array]:
        """Those that are not 0 as CSR by neuron: (indptr, rows, values), without `scale`. Cost: n·m."""
        counts, rows, values = [np.zeros(1, dtype=np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, self.network.dtype)]
        for part in self.used.split(max(1, TILE // max(self.n_rows, 1)), dim=1):
            own = part.T.contiguous()
            neurons, columns = own.nonzero().unbind(dim=1)
            counts.append(np.bincount(self.device.numpy(neurons), minlength=len(own)))
            rows.append(self.device.numpy(columns).astype(np.int32))
            values.append(self.device.numpy(own[neurons, columns]))
        return np.cumsum(np.concatenate(counts)), np.concatenate(rows), np.concatenate(values)

    def matrix(self) -> sp.csr_array:
        """α as a CSR matrix (m, n), float64."""
        indptr, rows, values = self.lists()
        return sp.csr_array((values.astype(np.float64) * self.scale, rows, indptr), (self.network.n_hidden, self.n_rows))

    def arrays(self) -> dict[str, Array]:
        """All of it under plain names, as the scan engine has it."""
        lists = Coefficients.empty(Segments.of(self.network.blocks, self.n_rows), self.network)
        lists.set_lists(*self.lists())
        lists.scale = self.scale
        return lists.arrays()

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """What `arrays` gave, or the scan engine's. ValueError, and nothing changed, where it does not fit."""
        segments = Segments.of(self.network.blocks, self.n_rows)
        lists = Coefficients.from_arrays(arrays, segments, self.n_rows, self.network)
        if lists.tail_len.any():
            lists.compact()
        indptr, rows, values = lists.by_neuron()
        self.values.zero_()
        flat, m = self.values.view(-1), self.network.n_hidden
        neurons = np.repeat(np.arange(m), np.diff(indptr))
        for start in range(0, len(rows), TILE):
            part = slice(start, start + TILE)
            flat[self.device.tensor(rows[part].astype(np.int64) * m + neurons[part])] = self.device.tensor(values[part])
        self.scale = lists.scale


def _from_arrays(arrays: dict[str, Array], network: TwoLayer, n_rows: int) -> DenseCoefficients:
    """A pickled copy, on the device that is there."""
    out = DenseCoefficients.empty(Device.current(), network, n_rows)
    out.restore(arrays)
    return out
