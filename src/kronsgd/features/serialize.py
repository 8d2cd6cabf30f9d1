"""Feature expressions as named arrays and JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Constant, Features, Power, Product, Sum
from kronsgd.features.leaf import Leaf

__all__ = ["compress", "features_from_state", "features_state", "map_leaves", "prototype"]

Array = NDArray[Any]
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
    kind = tree["kind"]
    if kind == "Constant":
        return Constant(tree["parameter"])
    if kind in Leaf.registry:
        own = {k[len(prefix) + 1 :]: v for k, v in arrays.items() if k.startswith(prefix + ".")}
        leaf = Leaf.registry[kind].from_state(own, tree["options"])
        index = own.get("index")
        if index is not None and (index.ndim != 1 or (len(index) and not 0 <= index.min() <= index.max() < leaf.n_entities)):
            raise ValueError(f"the row index of {leaf.expression()} points outside its {leaf.n_entities} entities")
        return leaf.with_index(index)
    children = [features_from_state(arrays, c, f"{prefix}.{i}") for i, c in enumerate(tree["children"])]
    if kind == "Power":
        return Power(children[0], tree["parameter"])
    if kind in NODES:
        return NODES[kind](children)
    raise ValueError(f"unknown feature kind {kind!r}")


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
