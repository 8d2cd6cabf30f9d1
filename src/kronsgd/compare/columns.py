"""What a model that knows nothing of products is given: the tables' columns side by side, a row for each row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from kronsgd.features import RBF, Constant, Features, Kernel, Leaf, OneHot, Power, Product, Sparse, Tanimoto
from kronsgd.features.derived import Derived
from kronsgd.features.grouping import same_index

__all__ = ["degree", "distinct_leaves", "side_by_side", "without_columns", "without_coordinates"]

Array = NDArray[Any]
MOST_ANCHORS = 2000  # entities of a kernel table whose similarities still make reasonable columns
MOST_COLUMNS = 10_000  # of a table that is held densely


def distinct_leaves(X: Features) -> list[int]:
    """Numbers, from left to right, of the leaves that differ in their table or in their row index."""
    leaves, kept = list(X.leaves()), list[int]()
    for number, leaf in enumerate(leaves):
        if not any(same_index(leaf, leaves[k]) and _same_table(leaf, leaves[k]) for k in kept):
            kept.append(number)
    return kept


def side_by_side(X: Features, leaves: list[int]) -> Any:
    """The columns of these leaves. Shape: (n, columns), CSR where one of them is sparse or one-hot, else dense.

    A kernel table gives each entity's similarities to the table's entities, as is usual for such data.
    """
    every = list(X.leaves())
    parts = [_columns(every[k]) for k in leaves]
    if any(sp.issparse(part) for part in parts):
        return sp.csr_array(sp.hstack([sp.csr_array(part) for part in parts]))
    return np.hstack(parts)


def without_columns(X: Features) -> str | None:
    """Why there are no columns, as part of a sentence; None if there are."""
    for leaf in X.leaves():
        table = leaf.storage
        if isinstance(table, Kernel) and table.n_anchors > MOST_ANCHORS:
            return f"a kernel table has no coordinates, and similarities to {table.n_anchors:,} entities are too many columns"
        if leaf.n_rows != X.n_rows:
            return f"{leaf.expression()} has no row of its own for each row"
        if not isinstance(table, (Kernel, RBF, Tanimoto)) and not table.own_coordinates:
            return f"{leaf.expression()} is known by its inner products only and has no columns"
        if not isinstance(table, (Kernel, Sparse, OneHot, RBF, Tanimoto)) and leaf.dim > MOST_COLUMNS:
            return f"{leaf.expression()} has too many dimensions for columns"
    return None


def without_coordinates(X: Features) -> str | None:
    """Why the product has no explicit coordinates, as part of a sentence; None if it has."""
    kinds = Kernel, Tanimoto
    every = ((leaf, leaf.dim == math.inf or isinstance(leaf.storage, kinds) or not leaf.own_coordinates) for leaf in X.leaves())
    leaf = next((leaf for leaf, spanned in every if spanned), None)
    return None if leaf is None else f"{leaf.expression()} is known by its kernel only and has no coordinates"


def degree(X: Features) -> int:
    """Degree of the expression as a polynomial in its leaves."""
    if isinstance(X, Leaf):
        return 1
    if isinstance(X, Constant):
        return 0
    degrees = [degree(child) for child in X.children]
    if isinstance(X, Power):
        return degrees[0] * X.parameter
    return sum(degrees) if isinstance(X, Product) else max(degrees)


def _columns(leaf: Any) -> Any:
    if isinstance(leaf, Derived):
        return leaf.multiplier * _columns(leaf.table.with_index(leaf.index))
    if isinstance(leaf, Sparse):
        return leaf.matrix[leaf.rows]
    if isinstance(leaf, OneHot):
        codes = leaf.codes[leaf.rows]
        return sp.csr_array((np.ones(len(codes)), (np.arange(len(codes)), codes)), shape=(len(codes), leaf.n_categories))
    if isinstance(leaf, Kernel):
        return np.concatenate([leaf.gram, leaf.cross])[leaf.codes[leaf.rows]]
    if isinstance(leaf, (RBF, Tanimoto)):
        return leaf.array[leaf.rows]
    return leaf.entity_coordinates(leaf, leaf.rows)


def _same_table(one: Leaf, other: Leaf) -> bool:
    if type(one) is not type(other):
        return False
    mine, its = one.state(), other.state()
    return (
        mine[1] == its[1]
        and mine[0].keys() == its[0].keys()
        and all(np.array_equal(mine[0][name], its[0][name]) for name in mine[0])
    )
