"""Tables of categorical columns, and their crosses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp

from kronsgd.features.base import Features
from kronsgd.features.derived import Derived
from kronsgd.features.leaf import Array
from kronsgd.features.leaves import Sparse
from kronsgd.validation import check_integer, did_you_mean

__all__ = ["Categories", "crosses"]


MISSING = ("NAType", "NaTType")  # what pandas has for missing values, which is imported by none but its users


class Categories(Derived):
    """Rows of categories: one-hot columns behind one another, [e(row[0]), e(row[1]), …], scaled to norm 1.

    Parameters: table (entities, columns) of text or whole numbers, or a list of columns' names to columns (a mapping, such as
    a data frame). A missing value (None, NaN, empty text) is no category, and neither is one that `like` meets first: such
    a column adds nothing to the row. Where columns have names, `like` finds them by name, in any order.
    Cost of an inner product: the number of columns.
    """

    table: Sparse

    def __init__(self, table: Any) -> None:
        self.names = [str(name) for name in table.keys()] if hasattr(table, "keys") else None  # noqa: SIM118 (data frames)
        columns = _columns(table)
        self.known: list[list[str]] = [sorted(set(column) - {""}) for column in columns]
        empty = next((c for c, known in enumerate(self.known) if not known), None)
        if empty is not None:
            raise ValueError(f"column {empty} of the table has no category at all; leave it out.")
        self.table = self._encoded(columns)

    def like(self, table: Any) -> Categories:
        """New rows in this space: categories that are not known add nothing. Columns with names are found by name."""
        columns = _columns(table if self.names is None or not hasattr(table, "keys") else _in_order(table, self.names))
        if len(columns) != len(self.known):
            raise ValueError(f"the table has {len(columns)} columns, but the categories of {len(self.known)} are known.")
        return self.holding(self._encoded(columns))

    def _encoded(self, columns: list[list[str]]) -> Sparse:
        start, parts = 0, []
        for column, known in zip(columns, self.known, strict=True):
            number = {category: start + k for k, category in enumerate(known)}
            parts.append([number.get(value, -1) for value in column])
            start += len(known)
        codes = np.array(parts, dtype=np.int64).T
        rows, places = np.nonzero(codes >= 0)
        ones = np.ones(len(rows))
        return Sparse(sp.csr_array((ones, (rows, codes[rows, places])), shape=(len(codes), start)))

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        return {}, {"known": self.known} | ({} if self.names is None else {"names": self.names})

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.known = [[str(category) for category in known] for known in options["known"]]
        self.names = [str(name) for name in options["names"]] if "names" in options else None
        if self.names is not None and len(self.names) != len(self.known):
            raise ValueError("names of columns do not fit the known categories")
        if not isinstance(self.table, Sparse) or self.table.dim != sum(map(len, self.known)):
            raise ValueError("known categories do not fit the table")


def crosses(table: Any, degree: int = 2) -> Features:
    """All crosses of up to `degree` columns of categories: (1 + Categories(table)) ** degree, which never builds them.

    Its inner product is (1 + the share of columns in which two rows agree)^degree. table: as for Categories, or one: then
    `crosses(categories.like(new), degree)` are new rows of the same space.
    """
    if isinstance(table, Features) and not isinstance(table, Categories):
        raise TypeError(f"crosses are of columns of categories, not of {table.expression()}; write (1 + A) ** {degree}.")
    known = table if isinstance(table, Categories) else Categories(table)
    return (1 + known) ** check_integer("degree", degree, 1, 64)


def _in_order(table: Any, names: list[str]) -> dict[str, Any]:
    """The columns called `names`; others are left out."""
    found = {str(name): table[name] for name in table.keys()}  # noqa: SIM118 (data frames)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"the table has no column {missing[0]!r}; it needs {names}.{did_you_mean(missing[0], found)}")
    return {name: found[name] for name in names}


def _columns(table: Any) -> list[list[str]]:
    """Columns as text: whole numbers without a decimal point, missing values as ""."""
    if hasattr(table, "keys"):
        columns = [list(table[name]) for name in table.keys()]  # noqa: SIM118 (a data frame iterates over names too)
    else:
        array = np.asarray(table, dtype=object)
        if array.ndim != 2:
            raise ValueError(f"the table of categories has shape {array.shape}; give a column for each variable.")
        columns = [list(column) for column in array.T]
    sizes = {len(column) for column in columns}
    if not columns or sizes == {0} or len(sizes) > 1:
        raise ValueError(
            f"the table of categories has {len(columns)} columns of {sorted(sizes)} rows; give equally many, at least one."
        )
    return [[_category(value, c) for value in column] for c, column in enumerate(columns)]


def _category(value: Any, column: int) -> str:
    if value is None or type(value).__name__ in MISSING or (isinstance(value, (float, np.floating)) and np.isnan(value)):
        return ""
    if isinstance(value, (float, np.floating)):
        if not value.is_integer():
            raise ValueError(f"column {column} holds {value!r}; categories are text or whole numbers: cut it into ranges.")
        value = int(value)
    return str(value)
