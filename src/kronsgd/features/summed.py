"""Coordinates of items, summed over the bags that they are in."""

from __future__ import annotations

from functools import reduce
from typing import Any

import numpy as np
import scipy.sparse as sp

from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.derived import Derived
from kronsgd.features.grouping import coordinate_dim
from kronsgd.features.leaf import Array, Leaf
from kronsgd.features.leaves import OneHot, Sparse

__all__ = ["expected_entries", "summed_dense", "summed_sparse"]

CHUNK = 1 << 21  # numbers of coordinates at once


def summed_dense(item: Features, items: Features, bags: Any) -> Array:
    """Σ weight · coordinates over the items of each bag, in the basis of `item`. Shape: (bags, d). Cost: items·d.

    bags (bags, items): CSR. A bag's bits do not depend on the other bags.
    """
    d = coordinate_dim(items)
    out = np.zeros((bags.shape[0], d), dtype=np.result_type(*(leaf.dtype for leaf in items.leaves())))
    for first, beyond, part, numbers in _parts(bags, d):
        if len(numbers) == 0:  # empty bags stay zero
            continue
        sums = part @ np.asarray(item.coordinates(items[numbers]), dtype=np.float64)
        out[first:beyond] += sums.astype(out.dtype)
    return out


def summed_sparse(item: Features, items: Features, bags: Any) -> Any:
    """The same as CSR. Cost: the entries of all items."""
    dtype = np.result_type(*(leaf.dtype for leaf in items.leaves()))
    parts = []
    for _, _, part, numbers in _parts(bags, max(1, int(expected_entries(items))), whole=True):
        parts.append(part @ _sparse_coordinates(item, items[numbers]))
    return sp.csr_array(sp.vstack(parts, format="csr"), dtype=dtype)


def _parts(bags: Any, width: int, whole: bool = False) -> Any:
    """(first bag, bag beyond, their weights, items) of so many bags as CHUNK allows; a bag with more items comes in parts.

    whole: never in parts.
    """
    most, starts, first = max(1, CHUNK // width), bags.indptr, 0
    while first < bags.shape[0]:
        beyond = max(first + 1, int(np.searchsorted(starts, starts[first] + most, side="right")) - 1)
        a, b = int(starts[first]), int(starts[beyond])
        step = most if beyond == first + 1 and not whole else max(b - a, 1)
        for low in range(a, max(b, a + 1), step):
            high = min(low + step, b)
            indptr = np.clip(starts[first : beyond + 1], low, high) - low
            columns = np.arange(high - low)
            part = sp.csr_array((bags.data[low:high], columns, indptr), shape=(beyond - first, high - low))
            yield first, beyond, part, bags.indices[low:high].astype(np.int64)
        first = beyond


def expected_entries(node: Features) -> float:
    """Coordinates of an item that are not 0, on average."""
    if isinstance(node, Leaf):
        table = node.storage
        if isinstance(table, OneHot):
            return 1.0
        return table.matrix.nnz / table.n_entities if isinstance(table, Sparse) else float(node.n_coordinates)
    parts = [expected_entries(child) for child in node.children]
    if isinstance(node, Sum):
        return sum(parts)
    return reduce(lambda a, b: a * b, parts * (node.parameter if isinstance(node, Power) else 1), 1.0)


def _sparse_coordinates(basis: Features, rows: Features) -> Any:
    """`basis.coordinates(rows)` as CSR."""
    if isinstance(rows, Leaf):
        return _sparse_entities(basis, rows)
    if isinstance(rows, Constant):
        return sp.csr_array([[rows.parameter]])
    parts = [_sparse_coordinates(mine, its) for mine, its in zip(basis.children, rows.children, strict=True)]
    parts = [part if part.shape[0] == rows.n_rows else sp.csr_array(np.ones((rows.n_rows, 1)) @ part) for part in parts]
    if isinstance(rows, Sum):
        return sp.csr_array(sp.hstack(parts))
    assert isinstance(rows, (Product, Power))
    return reduce(_row_kronecker, parts * (rows.parameter if isinstance(rows, Power) else 1))


def _sparse_entities(basis: Any, rows: Leaf) -> Any:
    if isinstance(rows, Derived):
        return rows.multiplier * _sparse_entities(basis.table, rows.table.with_index(rows.index))
    if type(rows) is OneHot:
        codes = rows.codes[rows.rows]
        return sp.csr_array((np.ones(len(codes)), codes, np.arange(len(codes) + 1)), shape=(len(codes), rows.n_categories))
    if type(rows) is Sparse:
        return sp.csr_array(rows.matrix[rows.rows], dtype=np.float64)
    return sp.csr_array(np.asarray(rows.entity_coordinates(basis, rows.rows), dtype=np.float64))


def _row_kronecker(a: Any, b: Any) -> Any:
    """Row i is a[i] ⊗ b[i]. Shape: (n, d1), (n, d2) -> (n, d1·d2). Cost: the entries that come out."""
    left, right = np.diff(a.indptr).astype(np.int64), np.diff(b.indptr).astype(np.int64)
    per_entry = np.repeat(right, left)  # entries of b that each entry of a meets
    starts = np.repeat(b.indptr[:-1].astype(np.int64), left)
    mine = np.repeat(np.arange(a.nnz), per_entry)
    within = np.arange(len(mine)) - np.repeat(np.cumsum(per_entry) - per_entry, per_entry)
    its = np.repeat(starts, per_entry) + within
    columns = a.indices[mine].astype(np.int64) * b.shape[1] + b.indices[its]
    indptr = np.concatenate([[0], np.cumsum(left * right)])
    return sp.csr_array((a.data[mine] * b.data[its], columns, indptr), shape=(a.shape[0], a.shape[1] * b.shape[1]))
