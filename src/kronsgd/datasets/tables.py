"""The user's own tables: entities with features, and pairs of entities with a target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray

from kronsgd.datasets.columns import SUFFIXES, check_column, column_names, numbers_or_text, read_columns
from kronsgd.datasets.files import UnknownNameError, damaged, existing_file, first_line, read_npy, read_npz
from kronsgd.features import RBF, Bag, Categories, Dense, Kernel, Leaf, OneHot, Patches, Sparse, Spectrum, Tanimoto
from kronsgd.validation import as_float_matrix, check_choice, check_finite, did_you_mean

__all__ = ["PairTable", "Pairs", "read_pairs", "read_table"]

Array = NDArray[Any]
PathOrStr = str | PathLike[str]
logger = logging.getLogger(__name__)
KINDS: dict[str, Any] = {
    "dense": Dense, "sparse": Sparse, "onehot": OneHot, "kernel": Kernel, "rbf": RBF, "tanimoto": Tanimoto,
    "spectrum": Spectrum, "categories": Categories, "patches": Patches, "bag": Bag,
}  # fmt: skip
TEXT = ("spectrum", "categories")  # kinds whose columns are read as they are written
MAX_GUESSES = 10_000  # ids among which a misspelt one is looked for; the search is slow


class PairTable:
    """The ids of one table's entities, to turn the ids in a table of pairs into row numbers.

    Parameters: ids (n,): numbers or text, each once; 7, 7.0 and "7" are the same id, "007" is another. name: what to
    call the table in errors. Raises ValueError on an empty list, a missing id, or one that occurs twice.
    """

    def __init__(self, ids: ArrayLike, name: str = "table") -> None:
        self.name = name
        self.ids = np.asarray(ids)
        keys = _keys(f"the ids of {name}", ids)
        if not keys:
            raise ValueError(f"the list of ids of {name} is empty; at least one id is needed.")
        self._number = {key: row for row, key in enumerate(keys)}
        if len(self._number) < len(keys):
            row = next(i for i, key in enumerate(keys) if self._number[key] != i)
            raise ValueError(
                f"the id {keys[row]!r} of {name} occurs at position {row} and again at {self._number[keys[row]]}; give "
                "every entity one row: drop the duplicates or join them."
            )

    def __len__(self) -> int:
        return len(self._number)

    def rows(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Row numbers of `ids`. Shape: (n,). Raises UnknownNameError (a KeyError) on an id that the table lacks."""
        keys = _keys(f"the ids to look up in {self.name}", ids)
        rows = np.array([self._number.get(key, -1) for key in keys], dtype=np.int64)
        if len(rows) and rows.min() < 0:
            where = int(np.argmin(rows))
            near = did_you_mean(keys[where], self._number) if len(self) <= MAX_GUESSES else ""
            raise UnknownNameError(
                f"the id {keys[where]!r} at position {where} is not among the {len(self):,} ids of {self.name} "
                f"({int((rows < 0).sum()):,} such rows in all); add its features to the table or drop these rows.{near}"
            )
        return rows


class Pairs(NamedTuple):
    """A table of pairs: row numbers in each table, targets, and weights (None: all equal). Shape: (n,) each."""

    rows: list[NDArray[np.int64]]
    y: Array
    weights: NDArray[np.float64] | None


def read_table(
    path: PathOrStr, kind: str = "dense", ids: str | ArrayLike | None = None, *, like: Any = None, **options: Any
) -> tuple[Leaf, Array]:
    """A table of entities as a leaf, and the ids of its rows.

    Parameters: path: .npy; .npz with an array `features` (or just one array, or a CSR matrix written by
    scipy.sparse.save_npz) and maybe `ids`; .csv or .parquet with a row for each entity. kind: "dense", "sparse",
    "onehot" (one column of category numbers), "kernel" (a square table), "rbf", "tanimoto", "spectrum" (one column of
    strings), "categories" (columns of any kind), "patches" (an array of images) or "bag" (a row of numbers for each item, and
    the id of its bag, as often as it has items). ids: the ids themselves,
    or the name of their column or array; by default `ids` of an .npz, the first column of a .csv or .parquet if it
    holds text (beside other columns) or is named id or …_id, and otherwise 0, 1, 2, …; like: a table of the kinds
    "spectrum", "categories", "patches" or "bag" whose space the entities are brought into; options: passed to the leaf, such
    as psd="clip".

    Returns (leaf, ids (n,)), ids as numbers or text. Raises FileNotFoundError, ValueError, UnknownNameError (KeyError)
    on an unknown name, and ModuleNotFoundError where pyarrow is missing.
    """
    check_choice("kind", kind, list(KINDS))
    path = existing_file(path)
    features, own_ids = _contents(path, ids, kind)
    given = own_ids if ids is None or isinstance(ids, str) else ids
    if kind == "bag":
        leaf, given = _bags(path, features, given, like, options)
    elif like is not None:
        leaf = like.like(_column_of_text(path, features) if kind == "spectrum" else features)
    else:
        leaf = _leaf(path, kind, features, options)
    table = PairTable(np.arange(leaf.n_entities) if given is None else given, path.name)
    if len(table) != leaf.n_entities:
        raise ValueError(f"{path} has {leaf.n_entities} rows but there are {len(table)} ids; give one id for each row.")
    logger.info("read %r from %s", leaf, path)
    return leaf, table.ids


def _contents(path: Path, ids: Any, kind: str) -> tuple[Any, Any]:
    """What the file holds of features, and of ids (None: nothing)."""
    suffix = path.suffix.lower()
    if suffix == ".npy":
        if isinstance(ids, str):
            raise ValueError(f"{path} holds just one array, no ids named {ids!r}; pass the ids themselves or use .npz.")
        return read_npy(path, mapped=kind == "dense"), None
    if suffix == ".npz":
        return _from_npz(path, ids if isinstance(ids, str) else None)
    if suffix in SUFFIXES:
        return _from_columns(path, ids, kind)
    raise ValueError(f"{path} has the ending {path.suffix!r}; give a .npy, .npz, .csv or .parquet file.")


def read_pairs(
    path: PathOrStr,
    tables: Sequence[PairTable | ArrayLike],
    columns: Sequence[str],
    target: str,
    weight: str | None = None,
) -> Pairs:
    """A .csv or .parquet file with a row for each pair: the id of an entity from each table, and a target.

    Parameters: tables: the ids of each table, as `read_table` returns them, or as PairTable; columns: the column with
    the ids of each, in the same order; target: its column (text: class labels); weight: the column of sample weights.

    Returns Pairs(rows, y, weights), so that X = `drugs[rows[0]] * proteins[rows[1]]`; y is int64, float64, or an object
    array of str. Raises FileNotFoundError, ValueError on a missing value or a bad number, UnknownNameError (a KeyError)
    on an id or a column that does not exist, and ModuleNotFoundError where pyarrow is missing.
    """
    path = existing_file(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"{path} has the ending {path.suffix!r}; a table of pairs is a .csv or .parquet file.")
    if isinstance(columns, str) or len(columns) != len(tables) or not len(columns):
        raise ValueError(
            f"columns={columns!r} is not allowed; give a list with one column for each of the {len(tables)} tables."
        )
    wanted = [*columns, target, *([] if weight is None else [weight])]
    names = column_names(path)
    for name in wanted:
        check_column(path, name, names)
    data = read_columns(path, list(dict.fromkeys(wanted)), as_text=set(columns) - {target, weight})
    rows = []
    for table, column in zip(tables, columns, strict=True):
        lookup = table if isinstance(table, PairTable) else PairTable(table, column)
        rows.append(lookup.rows(numbers_or_text(path, column, data[column])))
    y = _targets(path, target, data[target])
    weights = None if weight is None else _weights(path, weight, data[weight])
    logger.info("read %d pairs from %s", len(y), path)
    return Pairs(rows, y, weights)


def _keys(name: str, ids: ArrayLike) -> list[str]:
    """Ids as text, whole numbers without a decimal point."""
    array = np.asarray(ids)
    if array.ndim != 1:
        raise ValueError(f"{name} have shape {array.shape}; give a list of ids.")
    if array.dtype.kind == "f":
        whole = np.isfinite(array) & (array == np.floor(array)) & (np.abs(array) < 2**53)
        if not whole.all():
            where = int(np.argmin(whole))
            raise ValueError(f"{name} contain {array[where]} at position {where}; give whole numbers or text.")
        array = array.astype(np.int64)
    try:
        values = array.tolist()
        keys = [v.decode() if isinstance(v, bytes) else v for v in values] if array.dtype.kind == "S" else values
    except ValueError as error:
        raise ValueError(f"{name} are not valid text; save them again as UTF-8 text or numbers.") from error
    if array.dtype.kind not in "iu":
        for where, key in enumerate(keys):
            if isinstance(key, bool) or not isinstance(key, (str, Integral)) or key == "":
                raise ValueError(f"{name} contain {key!r} at position {where}; give whole numbers or non-empty text.")
    return [str(key) for key in keys]


def _from_npz(path: Path, ids: str | None) -> tuple[Any, Array | None]:
    """(features: array or CSR matrix, ids or None)."""
    arrays = read_npz(path)
    if ids is not None and ids not in arrays:
        raise UnknownNameError(f"{path} has no array {ids!r}; it has {sorted(arrays)}.{did_you_mean(ids, arrays)}")
    own_ids = arrays.pop("ids" if ids is None else ids, None)
    if {"format", "shape", "data"} <= arrays.keys():
        return _sparse_matrix(path, arrays), own_ids
    if "features" not in arrays and len(arrays) != 1:
        raise UnknownNameError(
            f"{path} has no array 'features' and not just one other array; it has {sorted(arrays)}: save it again with "
            f"numpy.savez(path, features=..., ids=...).{did_you_mean('features', arrays)}"
        )
    return arrays.get("features", next(iter(arrays.values()))), own_ids


def _sparse_matrix(path: Path, arrays: dict[str, Array]) -> Any:
    """The matrix of scipy.sparse.save_npz, with its indices checked: compiled code trusts them."""
    kind = arrays["format"].ravel()[0]
    if kind not in (b"csr", "csr"):  # converting another format can take memory for a size that only the file claims
        raise ValueError(f"{path} holds a sparse matrix in the format {kind!r}; save it again after .tocsr().")
    try:
        n_rows, dim = (int(n) for n in arrays["shape"].ravel())
        matrix = sp.csr_array((arrays["data"], arrays["indices"], arrays["indptr"]), shape=(n_rows, dim))
        matrix.check_format(full_check=True)
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        raise damaged(path, f"does not hold a valid sparse matrix ({first_line(error)})") from error
    return matrix


def _from_columns(path: Path, ids: str | ArrayLike | None, kind: str) -> tuple[Array, Array | None]:
    """(features (n, d), ids or None)."""
    names = column_names(path)
    if isinstance(ids, str):
        check_column(path, ids, names)
        id_column: str | None = ids
    else:
        first = names[0] if names else ""
        named = first.lower() == "id" or first.lower().endswith("_id")
        id_column = first if ids is None and named else None
    data = read_columns(path, names, as_text=names if kind in TEXT else () if id_column is None else [id_column])
    arrays = {name: numbers_or_text(path, name, column) for name, column in data.items()}
    if id_column is None and ids is None and arrays[names[0]].dtype == object and kind != "categories" and len(names) > 1:
        id_column = names[0]
    own_ids = None if id_column is None else _plain_ids(arrays.pop(id_column))
    if kind in TEXT and arrays:
        return np.column_stack(list(arrays.values())), own_ids
    text = next((name for name, array in arrays.items() if array.dtype == object), None)
    if text is not None:
        raise ValueError(
            f"{path} holds text in column {text!r}, for example {str(arrays[text][0])[:40]!r}; features are numbers: "
            f"remove the column, turn it into numbers, or pass ids={text!r} if it holds the ids."
        )
    if not arrays:
        raise ValueError(f"{path} has no columns besides the ids {id_column!r}; at least one of numbers is needed.")
    if id_column is None and ids is None and len(arrays) > 1 and _may_be_ids(arrays[names[0]]):
        logger.warning(
            "column %r of %s is taken as a feature, and the ids as 0, 1, 2, …; if it holds the ids, pass ids=%r.",
            names[0], path.name, names[0],
        )  # fmt: skip
    return np.column_stack(list(arrays.values())), own_ids


def _may_be_ids(column: Array) -> bool:
    """Whether these are different whole numbers, in rising order as ids often are."""
    return len(column) > 2 and bool((column == np.floor(column)).all() and (np.diff(column) > 0).all())


def _plain_ids(ids: Array) -> Array:
    """Ids that were read as text, as int64 where all are plain whole numbers."""
    if ids.dtype != object or not all(key.isascii() and key.isdigit() and len(key) < 19 for key in ids):
        return ids
    numbers = ids.astype(np.int64)
    return numbers if all(str(number) == key for number, key in zip(numbers.tolist(), ids, strict=True)) else ids


def _leaf(path: Path, kind: str, features: Any, options: dict[str, Any]) -> Leaf:
    """The leaf of this kind over an array or CSR matrix."""
    if sp.issparse(features):
        if kind != "sparse":
            raise ValueError(f'{path} holds a sparse matrix; read it with kind="sparse", or save it again as an array.')
        return Sparse(features, **options)
    if kind == "onehot":
        return OneHot(features[:, 0] if features.ndim == 2 and features.shape[1] == 1 else features, **options)
    if kind == "spectrum":
        return Spectrum(_column_of_text(path, features), **options)
    if kind in ("categories", "patches"):
        return KINDS[kind](features, **options)
    array = as_float_matrix(str(path), features)
    leaf: Leaf = KINDS[kind](sp.csr_array(array) if kind == "sparse" else array, **options)
    return leaf


def _column_of_text(path: Path, features: Any) -> list[Any]:
    """The strings of a table with just one column of them."""
    array = np.asarray(features)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1 or array.dtype.kind not in "OU":
        raise ValueError(
            f"{path} holds {array.dtype} of shape {array.shape} beside the ids; a spectrum is made from one column of strings: "
            "remove the other columns."
        )
    return array.tolist()


def _bags(path: Path, features: Any, owners: Any, like: Any, options: dict[str, Any]) -> tuple[Leaf, Array]:
    """(bags of the table's rows, the id of each): rows with the same id are in one bag."""
    if owners is None:
        raise ValueError(f'{path} does not say which bag a row is in; give the bags\' ids in a first column such as "bag_id".')
    ids, owner = np.unique(np.asarray(owners), return_inverse=True)
    items = Dense(as_float_matrix(str(path), features))
    if len(owner) != items.n_rows:
        raise ValueError(f"{path} has {items.n_rows} rows but there are {len(owner)} ids; give the bag of each row.")
    return (Bag(items, owner, **options) if like is None else like.like(items, owner)), ids


def _targets(path: Path, name: str, column: Any) -> Array:
    """Targets as whole numbers, finite numbers, or non-empty text."""
    y = numbers_or_text(path, name, column)
    if y.dtype == object and (y == "").any():
        where = int(np.argmax(y == ""))
        raise ValueError(f"{path} has no value in column {name!r} at position {where}; drop these rows or label them.")
    if y.dtype == object or y.dtype.kind in "iu":
        return y
    y = y.astype(np.float64)
    check_finite(f"{path}, column {name!r},", y)
    return y


def _weights(path: Path, name: str, column: Any) -> NDArray[np.float64]:
    """Sample weights as finite numbers of at least 0."""
    weights = numbers_or_text(path, name, column)
    if weights.dtype == object:
        raise ValueError(f"{path} holds text in the weight column {name!r}; weights are numbers of at least 0.")
    weights = weights.astype(np.float64)
    check_finite(f"{path}, column {name!r},", weights)
    if weights.min() < 0:
        raise ValueError(f"{path} holds the weight {weights.min():g} in column {name!r}; weights are at least 0.")
    return weights
