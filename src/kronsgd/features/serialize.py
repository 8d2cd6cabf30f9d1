"""Feature expressions as named arrays and JSON."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Constant, Features, Power, Product, Sum, written_out
from kronsgd.features.leaf import Leaf
from kronsgd.validation import check_array

__all__ = ["compress", "features_from_state", "features_state", "map_leaves", "prototype"]

Array = NDArray[Any]
MAX_DEPTH = 400  # of the JSON, two for each level of an expression; Python itself would give up at some more
MOST_FACTORS = 1 << 14  # with all powers written out: a file of some kilobytes could otherwise take minutes to look at
NODES: dict[str, type[Any]] = {"Product": Product, "Sum": Sum}


def features_state(features: Features, prefix: str = "features") -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays under names that start with `prefix`, JSON tree)."""
    kind = type(features).__name__
    if isinstance(features, Leaf):
        arrays, options = features.state()
        if features.index is not None:
            arrays = {**arrays, "index": features.index}
        return {f"{prefix}.{k}": v for k, v in arrays.items()}, {"kind": kind, "options": options}
    parts = [features_state(child, f"{prefix}.{i}") for i, child in enumerate(features.children)]
    tree: dict[str, Any] = {"kind": kind, "children": [part[1] for part in parts]}
    if isinstance(features, (Power, Constant)):
        tree["parameter"] = features.parameter
    return {k: v for part in parts for k, v in part[0].items()}, tree


def features_from_state(arrays: Mapping[str, Array], tree: Mapping[str, Any], prefix: str = "features") -> Features:
    """Inverse of `features_state`. Raises ValueError for an unknown kind, KeyError for a missing array."""
    if _depth(tree) > MAX_DEPTH:
        raise ValueError(f"the features are nested deeper than {MAX_DEPTH // 2} levels")
    features = _from_state(arrays, tree, prefix)
    if written_out(features) > MOST_FACTORS:  # a short file may have many powers
        raise ValueError(f"the features have {written_out(features):,} factors, more than {MOST_FACTORS:,}")
    return features


def _from_state(arrays: Mapping[str, Array], tree: Mapping[str, Any], prefix: str) -> Features:
    kind = tree["kind"]
    if kind == "Constant":
        return Constant(tree["parameter"])
    if kind in Leaf.registry and not inspect.isabstract(Leaf.registry[kind]):
        own = {k[len(prefix) + 1 :]: v for k, v in arrays.items() if k.startswith(prefix + ".")}
        leaf = Leaf.registry[kind].from_state(own, tree["options"])
        if "index" not in own:
            return leaf
        index = check_array("index", own, (None,), "i").astype(np.int64, copy=False)
        if len(index) and not 0 <= index.min() <= index.max() < leaf.n_entities:
            raise ValueError(f"the row index of {leaf.expression()} points outside its {leaf.n_entities} entities")
        return leaf.with_index(index)
    if kind not in (*NODES, "Power"):
        raise ValueError(f"unknown feature kind {kind!r}")
    children = [_from_state(arrays, c, f"{prefix}.{i}") for i, c in enumerate(tree["children"])]
    if kind == "Power":
        return Power(children[0], tree["parameter"])
    return NODES[kind](children)


def _depth(tree: Any) -> int:
    """Levels of lists and mappings in each other."""
    depth, level = 0, [tree]
    while level:
        depth += 1
        inner = (node.values() if isinstance(node, Mapping) else node for node in level)
        level = [child for children in inner for child in children if isinstance(child, (Mapping, list))]
    return depth


def map_leaves(features: Features, function: Any) -> Features:
    """The same expression over `function(leaf)`."""
    if isinstance(features, Leaf):
        return function(features)
    return features.rebuild([map_leaves(child, function) for child in features.children])


def prototype(features: Features) -> Features:
    """One row of the same space with all that new rows' coordinates need, and nothing else of the data."""
    return map_leaves(features, lambda leaf: leaf.prototype())


def compress(features: Features) -> Features:
    """The same rows over tables without unused entities."""

    def used(leaf: Leaf) -> Leaf:
        if leaf.index is None:
            return leaf
        entities, index = np.unique(leaf.index, return_inverse=True)
        if len(entities) == leaf.n_entities:
            return leaf
        return leaf.select_entities(entities).with_index(index.astype(np.int64))

    return map_leaves(features, used)
