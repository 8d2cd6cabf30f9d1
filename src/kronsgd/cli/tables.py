"""The tables of a run: entities with features, found by id, also those that come after training."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.cli.config import TableSection
from kronsgd.datasets import PairTable, read_table
from kronsgd.datasets.columns import SUFFIXES, check_column, column_names, numbers_or_text, read_columns
from kronsgd.datasets.files import existing_file
from kronsgd.features import RBF, Bag, Categories, Dense, Features, Kernel, Leaf, OneHot, Patches, Spectrum

__all__ = ["Table", "read_rows", "read_user_table", "with_new_entities"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Table:
    """One table: features with a row for each entity, their ids (n,), and the column of a table of pairs with them."""

    features: Features
    ids: Array
    column: str
    kind: str = "dense"
    options: dict[str, Any] = field(default_factory=dict)
    id_column: str | None = None  # that of the ids in the table's own file, where it was named


def read_user_table(section: TableSection, column: str) -> Table:
    """The table in a file. Errors as those of kronsgd.datasets.read_table."""
    path = existing_file(section.file)
    id_column = section.ids or _id_column(path, column)
    leaf, ids = read_table(path, section.kind, id_column, **section.options())
    return Table(leaf, ids, column, section.kind, section.options() | _learned(leaf), id_column)


def read_rows(path: Path, tables: dict[str, Table]) -> tuple[dict[str, NDArray[np.int64]], dict[str, Array]]:
    """(row numbers by table, ids by column) of the pairs in a .csv or .parquet file; no target is needed."""
    names = column_names(existing_file(path))
    columns = {name: table.column for name, table in tables.items()}
    for column in columns.values():
        check_column(path, column, names)
    wanted = list(dict.fromkeys(columns.values()))
    data = read_columns(path, wanted, as_text=wanted)
    ids = {column: numbers_or_text(path, column, data[column]) for column in wanted}
    rows = {name: PairTable(table.ids, name).rows(ids[table.column]) for name, table in tables.items()}
    return rows, ids


def with_new_entities(name: str, table: Table, path: Path, ids: str | None = None) -> Table:
    """`table` with the entities in a file: of the same kind, or for a kernel their values with the known entities.

    A kernel whose table does not have 1 on its diagonal needs an array `self_similarity` in an .npz file too.
    An entity of the file replaces the known one of the same id. Where the file has no ids, its rows are 0, 1, 2, …,
    and the known entities can no longer be named. Raises ValueError where the file does not fit the table.
    """
    if not isinstance(table.features, Leaf):
        raise ValueError(f"the table {name!r} is {table.features.expression()}, which takes no new entities.")
    known: Any = table.features
    ids = ids or _id_column(existing_file(path), table.id_column, table.column)
    if isinstance(known, Kernel):
        cross, new_ids = read_table(path, "dense", ids, normalize=False)
        if not isinstance(cross, Dense) or cross.dim != known.n_anchors:
            raise ValueError(
                f"{path} has {cross.dim} columns; for the kernel table {name!r} give one row for each new entity with "
                "its "
                f"kernel values with the {known.n_anchors} known ones."
            )
        new: Any = known.new_entities(cross.array, _self_similarity(path))
    else:
        made = isinstance(known, (Bag, Categories, Patches, Spectrum))  # by what they have learned
        new, new_ids = read_table(path, table.kind, ids, **({"like": known} if made else table.options))
        if new.dim != known.dim or not known._same_structure(new):
            raise ValueError(f"{path} holds {new.expression()}, but the run's table {name!r} is {known.expression()}.")
    if np.array_equal(new_ids, np.arange(len(new_ids))):
        return replace(table, features=new, ids=new_ids)
    replaced = set(_as_text(new_ids))
    kept = np.array([row for row, key in enumerate(_as_text(table.ids)) if key not in replaced], dtype=np.int64)
    both = known.select_entities(kept).append_entities(new) if len(kept) else new
    return replace(table, features=both, ids=np.array([_as_text(table.ids)[k] for k in kept] + _as_text(new_ids)))


def _id_column(path: Path, *columns: str | None) -> str | None:
    """The first of `columns` that a table's file has, such as that of the pairs: a join by name is meant."""
    names = column_names(path) if path.suffix.lower() in SUFFIXES else []
    return next((column for column in columns if column in names), None)


def _self_similarity(path: Path) -> Array | None:
    """The array `self_similarity` of an .npz file, if there is one."""
    if path.suffix != ".npz":
        return None
    with np.load(path, allow_pickle=False) as file:
        return file.get("self_similarity")


def _as_text(ids: Array) -> list[str]:
    """Ids as PairTable compares them: 7.0 and 7 are the same."""
    plain = [int(i) if isinstance(i, float) else i for i in ids.tolist()]
    return [i.decode() if isinstance(i, bytes) else str(i) for i in plain]


def _learned(leaf: Leaf) -> dict[str, Any]:
    """Options that were taken from the data, and that new entities must share."""
    if isinstance(leaf, Dense):
        learned = {"center": leaf.mean, "scale": leaf.scale}
        return {name: value.tolist() for name, value in learned.items() if value is not None}
    if isinstance(leaf, RBF):
        return {"gamma": leaf.gamma}
    return {"n_categories": leaf.n_categories} if isinstance(leaf, OneHot) else {}
