"""What a split needs to know of its rows: which pair of entities each one is, and which entities must stay together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.estimators.pairs import two_tables
from kronsgd.features.base import Features
from kronsgd.features.grouping import same_index
from kronsgd.features.leaf import Leaf
from kronsgd.model_selection.duplicates import duplicate_groups

__all__ = ["SETTINGS", "Side", "pair_sides"]

Index = NDArray[np.int64]
SETTINGS = ("pairs", "new rows", "new columns", "both new")


@dataclass(frozen=True)
class Side:
    """One side of the pairs: the entity of each row, and the unit that the split moves as a whole."""

    name: str  # "row" or "column"
    entity: Index  # (n,) from 0 on, without gaps
    unit: Index  # (n,) from 0 on, without gaps
    twins: Index | None  # (n,) equal for rows whose entities have equal features; None where these are not known

    @property
    def sizes(self) -> Index:
        """How many entities each unit has. Shape: (units,)."""
        first = np.unique(self.entity, return_index=True)[1]
        return np.bincount(self.unit[first])


def pair_sides(X: Any, groups: Any, row_groups: Any, column_groups: Any, setting: str) -> tuple[Side, Side]:
    """The row side and the column side of the pairs X, with twins where the setting has new entities of that side.

    X: a feature expression over two tables, the first of which are the rows; or an array of ids or numbers (n, 2); or
    anything with n rows, where `groups` (n, 2) holds the ids. ValueError where the pairs cannot be told from these.
    """
    if groups is not None:
        ids = _two_columns("groups", groups)
    elif isinstance(X, Features):
        return _sides_of(X, row_groups, column_groups, setting)
    else:
        ids = _two_columns("X", X)
    return tuple(  # type: ignore[return-value]
        _side(name, ids[:, k], own, None) for k, (name, own) in enumerate((("row", row_groups), ("column", column_groups)))
    )


def _two_columns(name: str, pairs: Any) -> NDArray[Any]:
    ids = np.asarray(pairs)
    if ids.ndim != 2 or ids.shape[1] != 2 or ids.dtype.kind == "f":
        raise ValueError(
            f"{name} has shape {ids.shape} and type {ids.dtype}; a split of pairs needs a feature expression such as "
            "A[i] * B[j], or the entities of each row as groups=numpy.column_stack([i, j])."
        )
    return ids


def _sides_of(X: Features, row_groups: Any, column_groups: Any, setting: str) -> tuple[Side, Side]:
    tables = two_tables(X)
    sides = []
    for table, name, own in zip(tables, ("row", "column"), (row_groups, column_groups), strict=True):
        leaves = [leaf for leaf in X.leaves() if same_index(leaf, table)]
        cold = setting in (f"new {name}s", "both new")
        twins = duplicate_groups(*leaves, notice=False)[leaves[0].rows] if cold else None
        sides.append(_side(name, _numbers(table), own, twins))
    return sides[0], sides[1]


def _numbers(leaf: Leaf) -> Index:
    return np.arange(leaf.n_rows) if leaf.index is None else leaf.index


def _side(name: str, ids: NDArray[Any], groups: Any, twins: Index | None) -> Side:
    known, entity = np.unique(ids, return_inverse=True)
    if groups is None:
        return Side(name, entity, entity, twins)
    if isinstance(groups, Mapping):
        given = {str(key): value for key, value in groups.items()}
        missing = next((key for key in known.tolist() if str(key) not in given), None)
        if missing is not None:
            raise ValueError(f"{name}_groups has no group for the entity {missing!r}; give one for each entity of the pairs.")
        own = np.array([str(given[str(key)]) for key in known.tolist()])
    else:
        array = np.asarray(groups)
        if known.dtype.kind not in "iu":
            raise ValueError(f"{name}_groups is an array, but the entities are texts such as {known[0]!r}; give a dict.")
        if array.ndim != 1 or int(known.max()) >= len(array) or int(known.min()) < 0:
            raise ValueError(
                f"{name}_groups has shape {array.shape}, but the {name} entities are numbered up to {known.max()}; give one "
                "group for each entity of the table."
            )
        own = array[known]
    return Side(name, entity, np.unique(own, return_inverse=True)[1][entity], twins)
