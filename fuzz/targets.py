"""Harnesses: each takes bytes as a file's content, and raises only where kronsgd broke its promise.

The promise: whatever a file holds, reading it gives a value that can be used, or one of the documented errors with a message
of one line. Never another exception, never memory beyond what the file can fill, never a file outside its folder.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fuzz.checkpoints import checkpoint
from fuzz.promise import Broken, promise
from kronsgd import Dense, Kernel, KronRegressor, OneHot, load
from kronsgd.cli.config import build_config
from kronsgd.cli.expression import build_features
from kronsgd.cli.flags import read_toml
from kronsgd.cli.runfolder import open_run
from kronsgd.datasets import PairTable, UnknownNameError, read_pairs, read_table
from kronsgd.datasets.files import read_idx, read_matrix
from kronsgd.features import Features, Leaf
from kronsgd.features.serialize import features_from_state, features_state

__all__ = ["TARGETS", "Broken"]

ROWS = 5  # of a model's or a table's rows that are used
OUTSIDE = b"@OUTSIDE@"  # in a run folder: stands for the path of a file beside it
IDS = ["a", "b", "7"]
OUTSIDE_VALUE = 123456.5


def model(data: bytes) -> None:
    """A model file: it loads, predicts, goes on training, and is saved and loaded again alike, or it is refused."""
    with promise(ValueError, FileNotFoundError) as folder:
        path = folder / "model.kron"
        path.write_bytes(data)
        _use_model(load(path), folder)


def _use_model(found: Any, folder: Path) -> None:
    rows: Any = found.features_[: min(ROWS, found.features_.n_rows)]
    if found._array_map is not None:
        rows = np.ones((ROWS, len(found._array_map.mean)))
    answers = found.predict(rows)
    found.fired(rows)
    if hasattr(found, "predict_proba"):
        found.predict_proba(rows)
    found.save(folder / "again.kron")
    again = load(folder / "again.kron")
    if not np.array_equal(again.predict(rows), answers, equal_nan=np.asarray(answers).dtype.kind == "f"):
        raise Broken("the model predicts something else after it was saved and loaded")
    if np.isfinite(np.asarray(found._outputs(rows))).all():
        found.partial_fit(rows, answers)


def run_folder(data: bytes) -> None:
    """A zip of the files of a run's folder: its tables open, are looked up and used, or the run is refused."""
    with promise(ValueError, FileNotFoundError, UnknownNameError) as folder:
        outside = folder / "outside.npz"
        np.savez(outside, ids=np.array(IDS), **{"table.array": np.full((3, 2), OUTSIDE_VALUE)})
        run = folder / "run"
        _unpack(data, run, str(outside).encode())
        opened = open_run(run)
        for table in opened.tables.values():
            if isinstance(table.features, Dense) and (table.features.array == OUTSIDE_VALUE).any():
                raise Broken("a table was read from outside the folder")
            PairTable(table.ids)
            _use_rows(table.features)
        X = build_features(opened.expression, {name: table.features for name, table in opened.tables.items()})
        for found in opened.models:
            found.predict(X[: min(ROWS, X.n_rows)])


def _unpack(data: bytes, run: Path, outside: bytes) -> None:
    """The known files of a run: no other name is written."""
    (run / "tables").mkdir(parents=True)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            for name in ("tables.json", "tables/a.npz", "tables/b.npz", "model.kron"):
                if name in archive.namelist() and archive.getinfo(name).file_size < 1 << 20:
                    (run / name).write_bytes(archive.read(name).replace(OUTSIDE, outside))
            if "link" in archive.namelist():  # a table that is a link to a file outside
                (run / "tables" / "link.npz").symlink_to(outside.decode())
    except Exception as error:  # the harness's own container
        raise FileNotFoundError("the input is no zip of a run's files") from error


def _use_rows(rows: Features) -> None:
    """Norms, inner products and a round trip through arrays and JSON."""
    some = rows[np.arange(rows.n_rows)[:ROWS]]
    some.squared_norms()
    inner, text = np.asarray(some.inner()), repr(some)
    arrays, tree = features_state(some)
    again = features_from_state(arrays, tree)
    if not np.array_equal(np.asarray(again.inner()), inner, equal_nan=True) or repr(again) != text:
        raise Broken("rows differ after a round trip through arrays and JSON")


def table(data: bytes) -> None:
    """First line: ending and kind, such as `npz sparse`; then the content of a file of entities."""
    head, _, content = data.partition(b"\n")
    suffix, _, kind = head.decode("latin1").partition(" ")
    if suffix not in ("npy", "npz", "csv", "txt", "gz"):
        return
    with promise(ValueError, UnknownNameError, TypeError) as folder:
        path = folder / f"table.{suffix}"
        path.write_bytes(content)
        if suffix == "txt":
            read_matrix(path)
        elif suffix == "gz":
            read_idx(path, 1)
        else:
            leaf, ids = read_table(path, kind)
            PairTable(ids).rows(ids)
            assert isinstance(leaf, Leaf)
            _use_rows(leaf)


def pairs(data: bytes) -> None:
    """A .csv file of pairs with the columns a, b, y and w."""
    with promise(ValueError, UnknownNameError) as folder:
        path = folder / "pairs.csv"
        path.write_bytes(data)
        read = read_pairs(path, [PairTable(IDS), PairTable(np.arange(9))], ["a", "b"], "y", "w")
        if not all(len(rows) == len(read.y) and 0 <= rows.min() <= rows.max() < 9 for rows in read.rows):
            raise Broken("pairs point outside their tables")


def config(data: bytes) -> None:
    """A TOML file: the settings of a run, or a refusal."""
    with promise(ValueError, FileNotFoundError) as folder:
        path = folder / "config.toml"
        path.write_bytes(data)
        found = build_config(read_toml(path))
        found.resolved()
        if not set(found.used) <= set(found.names):
            raise Broken("a run uses tables that it does not have")


def expression(data: bytes) -> None:
    """The text of a feature expression over three tables: rows that can be used and trained on."""
    tables: dict[str, Features] = {
        "a": Dense(np.arange(12.0).reshape(4, 3)), "b": OneHot([0, 1, 1, 0]), "c": Kernel(np.eye(4) + 1)
    }  # fmt: skip
    with promise(ValueError):
        X = build_features(data.decode("utf-8", "replace"), tables)
        _use_rows(X)
        KronRegressor(4, max_iter=1, learning_rate_init=0.1, engine="scan", random_state=0).fit(X, np.arange(4.0)).predict(X)


TARGETS: dict[str, Callable[[bytes], None]] = {
    "model": model, "run_folder": run_folder, "table": table, "pairs": pairs, "config": config, "expression": expression,
    "checkpoint": checkpoint,
}  # fmt: skip
