"""How what was made for an expression follows it when it gets more rows, without looking at the old ones again."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.grouping import Combination, Group
from kronsgd.features.leaf import Leaf
from kronsgd.features.serialize import compress, map_leaves
from kronsgd.growing import begins_with

__all__ = ["added_rows", "regrouped", "starts_with"]


def starts_with(features: Features, known: Features) -> bool:
    """Whether rows and tables of `features` start with those of `known`. Cost: none where they have grown in place."""
    pairs = list(zip(features.leaves(), known.leaves(), strict=True))
    return all(new.begins_with(old) and _index_begins_with(new.index, old) for new, old in pairs)


def _index_begins_with(index: NDArray[np.int64] | None, known: Leaf) -> bool:
    if index is None or known.index is None:
        return index is not None and begins_with(index, np.arange(known.n_entities))
    return begins_with(index, known.index)


def added_rows(features: Features, n_known: int) -> Features:
    """The rows from n_known on, over tables of their own entities. Cost: that of these rows."""
    return compress(features._take(np.arange(n_known, features.n_rows)))


def regrouped(
    tree: Group | Combination, leaves: Mapping[int, Leaf], n_rows: tuple[int, int]
) -> Group | Combination | None:
    """The groups of an expression over leaves with more rows: {id(leaf): leaf with more rows}; None if a group has parted.

    n_rows: (before, now). Cost: that of the new rows, for the old ones are in the same groups.
    """
    node = map_leaves(tree.node, lambda leaf: leaves[id(leaf)])
    if isinstance(tree, Combination):
        parts = [regrouped(part, leaves, n_rows) for part in tree.parts]
        whole = tuple(part for part in parts if part is not None)
        return Combination(node, whole) if len(whole) == len(parts) else None
    own = list(node.leaves())
    if not own:
        return Group(node, np.zeros(n_rows[1], dtype=np.int64), 1)
    first = own[0]
    for leaf in own[1:]:
        if leaf.n_entities != first.n_entities or not np.array_equal(leaf.index[n_rows[0] :], first.index[n_rows[0] :]):  # type: ignore[index]
            return None
    return Group(node, first.index, first.n_entities)
