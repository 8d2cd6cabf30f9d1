"""Entities that are the same to a model: with one in training and its twin in the test, a cold split is not cold."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.kernel_leaves import Kernel
from kronsgd.features.leaf import Leaf

__all__ = ["duplicate_groups"]

Index = NDArray[np.int64]
logger = logging.getLogger("kronsgd")
DIGITS = 9  # to which two entities' kernel values must agree


def duplicate_groups(*tables: Any, notice: bool = True) -> Index:
    """The group of each entity, the same for entities that are equal in all of the `tables`. Shape: (entities,).

    tables: feature tables such as `Dense(array)`, whose entities are compared by their features (a kernel's by their kernel
    values); 2-D arrays, by their rows; or sequences of texts, such as amino acids or SMILES. notice: tell of duplicates by
    logger.warning. Cost: that of comparing the features once each; for a kernel n²·ln n. ValueError where sizes differ.
    """
    if not tables:
        raise ValueError("duplicate_groups needs something to compare entities by; give a table such as Dense(array).")
    keys = [_keys(table) for table in tables]
    sizes = [len(own) for own in keys]
    if len(set(sizes)) > 1:
        raise ValueError(f"the tables have {sizes} entities; give tables of the same entities in the same order.")
    numbers: dict[tuple[Any, ...], int] = {}
    groups = np.array([numbers.setdefault(key, len(numbers)) for key in zip(*keys, strict=True)], dtype=np.int64)
    if notice and len(numbers) < len(groups):
        twins = int((np.bincount(groups)[groups] > 1).sum())
        logger.warning(
            "%d of %d entities equal another one: give these groups to a split as row_groups or column_groups, or its test "
            "entities may have twins in training.", twins, len(groups),
        )  # fmt: skip
    return groups


def _keys(table: Any) -> Sequence[Any]:
    """Something for each entity that is equal for equal ones."""
    if isinstance(table, Kernel):
        values = table.entity_inner(table, slice(None), slice(None))
        return [row.tobytes() for row in np.round(values, DIGITS) + 0.0]  # −0 becomes 0
    if isinstance(table, Leaf):
        return table.entity_keys()
    array = np.asarray(table)
    if array.ndim == 2:
        return [row.tobytes() for row in array + 0.0] if array.dtype.kind in "fc" else [tuple(row) for row in array.tolist()]
    if array.ndim == 1 and array.dtype.kind in "UOSiu":
        return list(array.tolist())
    raise ValueError(
        f"cannot compare entities by an array of shape {array.shape} and type {array.dtype}; give a feature table, a 2-D array "
        "with a row for each entity, or a sequence of texts."
    )
