"""Columns of .csv and .parquet files as arrays; pyarrow is imported only when such a file is read."""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.datasets.files import UnknownNameError, damaged, existing_file, first_line
from kronsgd.validation import did_you_mean

__all__ = ["SUFFIXES", "check_column", "column_names", "numbers_or_text", "read_columns"]

Array = NDArray[Any]
SUFFIXES = (".csv", ".parquet")


def column_names(path: Path) -> list[str]:
    """The names in the header of a .csv or .parquet file, each of which must occur once."""
    path = existing_file(path)
    if path.suffix.lower() == ".csv":
        with path.open(newline="", encoding="utf-8-sig") as stream:
            try:
                names = next((row for row in csv.reader(stream) if row), [])
            except (UnicodeDecodeError, csv.Error) as error:
                raise damaged(path, f"has no readable header line ({first_line(error)})") from error
    else:
        with _arrow_errors(path) as arrow, arrow.parquet.ParquetFile(path) as file:
            names = list(file.schema_arrow.names)
    if not names:
        raise ValueError(f"{path} has no columns; its first line must name them.")
    twice = next((name for name in names if names.count(name) > 1), None) if len(set(names)) < len(names) else None
    if twice is not None:
        raise ValueError(f"{path} has two columns named {twice!r}; give every column a name of its own.")
    return names


def check_column(path: Path, name: str, names: Collection[str]) -> None:
    """Raise UnknownNameError unless the file has a column of this name."""
    if name not in names:
        shown = sorted(names)[:20]
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        raise UnknownNameError(f"{path} has no column {name!r}; it has {shown}{more}.{did_you_mean(name, names)}")


def read_columns(path: Path, names: Sequence[str], as_text: Collection[str] = ()) -> dict[str, Any]:
    """Columns of a file as pyarrow arrays by name; a .csv file's `as_text` columns are not turned into numbers."""
    with _arrow_errors(path) as arrow:
        if path.suffix.lower() == ".csv":
            types = dict.fromkeys(as_text, arrow.string())
            options = arrow.csv.ConvertOptions(include_columns=list(names), column_types=types)
            table = arrow.csv.read_csv(path, convert_options=options)
        else:
            with arrow.parquet.ParquetFile(path) as file:
                table = file.read(columns=list(names))
        columns = {name: _plain(arrow, table.column(name)) for name in names}
    if table.num_rows == 0:
        raise ValueError(f"{path} has a header but no rows; at least one row is needed.")
    return columns


def numbers_or_text(path: Path, name: str, column: Any) -> Array:
    """A column as int64 (uint64), float32, float64 or an object array of str, without missing values. Shape: (n,)."""
    import pyarrow as pa

    if column.null_count:
        where = next(i for i, value in enumerate(column) if not value.is_valid)
        raise ValueError(
            f"{path} has no value in column {name!r} at position {where} ({column.null_count} such values in all); "
            "only complete rows are allowed: drop these rows or fill them in."
        )
    kind = column.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        with _arrow_errors(path):  # a damaged .parquet file can hold bytes that are not text
            return np.array(column.to_pylist(), dtype=object)  # not fixed width: one long text would widen every row
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        array = np.asarray(column.to_numpy())
        return array if array.dtype == np.uint64 else array.astype(np.int64)
    if pa.types.is_floating(kind):
        array = np.asarray(column.to_numpy())
        return array.astype(np.float32) if array.dtype == np.float16 else array
    raise ValueError(f"{path} holds {kind} in column {name!r}; only numbers and text are read: convert the column.")


def _plain(arrow: Any, column: Any) -> Any:
    """A column without dictionary encoding (pandas writes categories so)."""
    return column.cast(column.type.value_type) if arrow.types.is_dictionary(column.type) else column


@contextmanager
def _arrow_errors(path: Path) -> Iterator[Any]:
    """pyarrow, with its errors turned into one sentence."""
    try:
        import pyarrow as arrow
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"reading {path.name} needs pyarrow, which is not installed; run pip install kronsgd[tables], or save the "
            "table as .npy or .npz."
        ) from error
    try:
        yield arrow
    except (arrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise damaged(path, f"is not a readable {path.suffix} file ({first_line(error)})") from error
