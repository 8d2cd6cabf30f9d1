"""The two sides of a product: rows as cells of a grid of inner and outer entities.

x = a ⊗ b with a over some factors and b over the others: each side has one entity for every combination of its factors'
entities that occurs, and a row is a pair of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features, Product
from kronsgd.features.grouping import expand_powers, same_index
from kronsgd.features.leaf import Leaf

__all__ = ["Side", "Sides", "side_of"]

Index = NDArray[np.int64]


@dataclass(frozen=True)
class Side:
    """One side of some rows: its entities, and which of them each row has."""

    node: Features  # the side's own expression, one row for each entity
    first: Index  # (entities,) a row of the whole expression that has the entity
    entity: Index  # (n,) entity of each row

    @property
    def n_entities(self) -> int:
        """Number of entities that occur."""
        return len(self.first)


@dataclass(frozen=True)
class Sides:
    """Which factors of a product, its powers written out, are on which side."""

    inner: tuple[int, ...]
    outer: tuple[int, ...]

    @classmethod
    def of(cls, features: Features, flip: bool = False) -> Sides:
        """The fewest cells, the smaller side inside (the larger one with `flip`).

        Raises ValueError unless `features` is a product of at least two factors with different row indices.
        """
        groups = _factor_groups(features)
        choices = []
        for k in range(1 if len(groups) == 2 else len(groups)):
            alone = tuple(groups[k])
            rest = tuple(sorted(c for g in groups if g is not groups[k] for c in g))
            sizes = [side_of(features, factors).n_entities for factors in (alone, rest)]
            choices.append((sizes, (alone, rest)))
        sizes, (a, b) = min(choices, key=lambda choice: choice[0][0] * choice[0][1])
        return cls(a, b) if (sizes[0] <= sizes[1]) != flip else cls(b, a)

    def split(self, features: Features) -> tuple[Side, Side]:
        """(inner, outer) side of any rows of the same space."""
        return side_of(features, self.inner), side_of(features, self.outer)


def side_of(features: Features, factors: tuple[int, ...]) -> Side:
    """The side over some factors, entities in the order of their leaves' table rows. Cost: n·ln n for each leaf."""
    expanded = expand_powers(features).children
    children = [expanded[c] for c in factors]
    node = children[0] if len(children) == 1 else Product(children)
    leaves = list(node.leaves())
    code = _numbers(leaves[0])
    for previous, leaf in pairwise(leaves):
        if not same_index(previous, leaf):
            code = np.unique(code, return_inverse=True)[1] * leaf.n_entities + _numbers(leaf)
    _, first, entity = np.unique(code, return_index=True, return_inverse=True)
    return Side(node[first], first, entity.astype(np.int64))


def _numbers(leaf: Leaf) -> Index:
    return np.arange(leaf.n_rows) if leaf.index is None else leaf.index


def _factor_groups(features: Features) -> list[list[int]]:
    """The factors that share a row index, together; a constant goes with the first."""
    expanded = expand_powers(features)
    groups: list[list[int]] = []
    firsts: list[list[Leaf]] = []
    constants: list[int] = []
    for c, child in enumerate(expanded.children if isinstance(expanded, Product) else ()):
        leaves = list(child.leaves())
        if not leaves:
            constants.append(c)
            continue
        home = next((k for k, mine in enumerate(firsts) if all(same_index(mine[0], leaf) for leaf in [*mine, *leaves])), None)
        if home is None:
            groups.append([c])
            firsts.append(leaves)
        else:
            groups[home].append(c)
    if len(groups) < 2:
        raise ValueError(
            f"{features.expression()} has no grid of pairs: engine=\"grid\" and batching=\"blocks\" need a product of factors "
            'with different row indices, such as A[i] * B[j]; use engine="scan" and batching="random".'
        )
    groups[0] = sorted([*groups[0], *constants])
    return groups
