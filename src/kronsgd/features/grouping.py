"""Sub-expressions whose leaves share one row index are evaluated once per entity, not once per row."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import reduce
from operator import add, mul
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.leaf import Leaf

__all__ = [
    "Combination", "Group", "coordinate_dim", "expand_powers", "group_by_index", "groups", "product_groups", "same_index",
]  # fmt: skip


@dataclass(frozen=True, eq=False)
class Group:
    """A maximal sub-expression over one row index: its value at a row is its value at the row's entity."""

    node: Features
    index: NDArray[np.int64] | None  # row -> entity; None: the rows are the entities
    n_entities: int

    def entity_rows(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """The entities of the given rows."""
        return rows if self.index is None else self.index[rows]


@dataclass(frozen=True, eq=False)
class Combination:
    """A sum, product or power of groups with different row indices."""

    node: Features
    parts: tuple[Group | Combination, ...]

    def combine(self, values: list[Any]) -> Any:
        """Values of the parts into the value of the whole."""
        if isinstance(self.node, Power):
            return reduce(mul, values * self.node.parameter)
        return reduce(add if isinstance(self.node, Sum) else mul, values)


def group_by_index(node: Features) -> Group | Combination:
    """The expression as a tree over its groups. Leaves keep their identity."""
    leaves = list(node.leaves())
    if all(same_index(leaf, leaves[0]) for leaf in leaves):
        return Group(node, leaves[0].index, leaves[0].n_entities)
    if isinstance(node, Power):
        return Combination(node, (group_by_index(node.children[0]),))
    return Combination(node, tuple(_partition(node)))


def groups(tree: Group | Combination) -> list[Group]:
    """The groups from left to right."""
    return [tree] if isinstance(tree, Group) else [g for part in tree.parts for g in groups(part)]


def product_groups(tree: Group | Combination) -> list[Group]:
    """The groups whose product the tree is; none for any other expression."""
    if isinstance(tree, Group):
        return [tree]
    parts = [part for part in tree.parts if isinstance(part, Group)]
    return parts if isinstance(tree.node, Product) and len(parts) == len(tree.parts) else []


def expand_powers(node: Features) -> Features:
    """The same space with `A ** p` written out as p separate copies, as independent random factors need."""
    if isinstance(node, Power):
        one = expand_powers(node.children[0])
        return Product([one, *(_distinct(one) for _ in range(node.parameter - 1))]) if node.parameter > 1 else one
    return node.rebuild([expand_powers(child) for child in node.children]) if node.children else _distinct(node)


def coordinate_dim(node: Features) -> int:
    """Length of the coordinate vectors of `node.dense()` (kernels count their anchors)."""
    if isinstance(node, Leaf):
        return node.n_coordinates
    parts = [coordinate_dim(child) for child in node.children]
    if isinstance(node, Constant):
        return 1
    if isinstance(node, Power):
        return int(parts[0] ** node.parameter)
    return sum(parts) if isinstance(node, Sum) else reduce(mul, parts)


def _distinct(node: Features) -> Features:
    """The same expression over leaf and constant objects of its own."""
    if isinstance(node, (Leaf, Constant)):
        return copy.copy(node)
    return node.rebuild([_distinct(child) for child in node.children])


def same_index(a: Leaf, b: Leaf) -> bool:
    if a.index is None or b.index is None:
        return a.index is b.index and a.n_entities == b.n_entities
    return a.n_entities == b.n_entities and (a.index is b.index or np.array_equal(a.index, b.index))


def _partition(node: Features) -> list[Group | Combination]:
    """The children of a sum or product, those that share an index merged into one group."""
    merged: list[list[Features]] = []
    others: list[Group | Combination] = []
    constants: list[Features] = []
    for child in node.children:
        leaves = list(child.leaves())
        if not leaves:
            constants.append(child)
        elif not all(same_index(leaf, leaves[0]) for leaf in leaves):
            others.append(group_by_index(child))
        else:
            home = next((m for m in merged if same_index(next(m[0].leaves()), leaves[0])), None)
            home.append(child) if home is not None else merged.append([child])
    if merged:
        merged[0].extend(constants)
        constants = []
    parts = [group_by_index(node.rebuild(m) if len(m) > 1 else m[0]) for m in merged]
    everywhere = np.zeros(node.n_rows, dtype=np.int64)  # a constant is one entity that all rows share
    return [*parts, *others, *(Group(c, everywhere, 1) for c in constants)]
