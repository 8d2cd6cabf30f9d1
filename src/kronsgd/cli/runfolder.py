"""The run folder: written aside and moved into place, so that no half-written one is ever seen."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from kronsgd import __version__, load
from kronsgd.cli.scores import Prediction
from kronsgd.cli.tables import Table
from kronsgd.datasets.files import first_line, read_json, read_npz
from kronsgd.estimators import KronEstimator
from kronsgd.features.serialize import features_from_state, features_state

__all__ = [
    "CHECKPOINTS",
    "Run",
    "check_target",
    "check_writable",
    "is_finished",
    "open_models",
    "open_run",
    "staged",
    "write_json",
    "write_predictions",
    "write_tables",
]

CHECKPOINTS = "checkpoints"
KNOWN = ("model.kron", "model-*.kron", "config.toml", "history.jsonl", "metrics.json", "predictions.csv", "search.json",
         "loss.png", "fired.png", "predictions.png", "tables.json", "tables")  # fmt: skip


def check_target(out: Path, force: bool, resume: bool = False) -> None:
    """Raise ValueError unless a run may be written to `out`. resume: where checkpoints are it may go on."""
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the run with --out.")
    kept = (out / CHECKPOINTS).is_dir()
    if kept and not force and not resume:
        raise ValueError(
            f"the folder {out} holds checkpoints of a run; go on with --resume, or give --force to start anew or another --out."
        )
    if out.is_dir() and any(out.iterdir()) and not force and not (kept and resume):
        raise ValueError(f"the folder {out} is not empty; give another --out, or --force to replace the run in it.")
    if out.is_dir() and not (out / "tables.json").exists():  # what stands there is the user's own
        own = sorted(path.name for pattern in KNOWN for path in out.glob(pattern))
        if own:
            raise ValueError(f"{out} holds no run, but files that --force would replace: {own}; give another --out.")


def check_writable(out: Path) -> None:
    """Raise OSError where nothing can be written beside `out`: before training, not after it."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}."):
        pass


def is_finished(out: Path, asked: str) -> bool:
    """Whether a whole run is there, and nothing to go on with. ValueError where other things were asked of it."""
    if (out / CHECKPOINTS).is_dir() or not all((out / name).is_file() for name in ("tables.json", "metrics.json")):
        return False
    known = read_json(out / "tables.json")
    if not isinstance(known, dict) or known.get("asked") != asked:
        raise ValueError(
            f"the run in {out} is finished, and its settings or data were others than these; give another --out, or --force in "
            "place of --resume to replace it."
        )
    return True


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A folder beside `out` whose contents move there at the end; on any error it is removed and `out` is untouched.

    Files in `out` that no run writes are left alone.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield aside
        out.mkdir(exist_ok=True)
        for old in [path for pattern in KNOWN for path in out.glob(pattern)]:
            shutil.rmtree(old) if old.is_dir() and not old.is_symlink() else old.unlink()
        for path in aside.iterdir():
            os.replace(path, out / path.name)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """JSON for people and programs; NaN, which JSON does not have, is null."""
    path.write_text(json.dumps(_plain(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_predictions(
    path: Path, ids: Mapping[str, Any], prediction: Prediction, y_true: Any = None, more: bool = False
) -> None:
    """A .csv file: the ids, the true target if known, the prediction, the deviation between several networks, and each
    class's probability as p_CLASS. more: add rows to a file that has been begun.
    """
    import csv

    columns: dict[str, Any] = dict(ids)
    if y_true is not None:
        columns["true"] = y_true
    columns["prediction"] = prediction.values
    if prediction.deviation is not None:
        columns["deviation"] = prediction.deviation
    if prediction.classes is not None and prediction.proba is not None:
        columns |= {f"p_{name}": prediction.proba[:, c] for c, name in enumerate(prediction.classes)}
    with path.open("a" if more else "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        if not more:
            writer.writerow(columns)
        writer.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))


# What `predict` needs -------------------------------------------------------------------------------------------------


class TableEntry(BaseModel):
    """Where a table's features and ids are, and what its column and kind are."""

    file: str
    column: str
    kind: str
    options: dict[str, Any]
    id_column: str | None = None
    tree: dict[str, Any]


class RunFile(BaseModel):
    """tables.json."""

    model_config = ConfigDict(extra="ignore")
    version: str
    expression: str
    task: str
    target: str
    models: list[str]
    tables: dict[str, TableEntry]
    asked: str = ""  # a digest of the settings and files of the run, before a search has chosen any


@dataclass(frozen=True)
class Run:
    """An opened run folder, or one model of it."""

    folder: Path
    models: list[KronEstimator]
    expression: str
    task: str
    target: str
    tables: dict[str, Table]


def write_tables(
    folder: Path, tables: Mapping[str, Table], *, expression: str, task: str, target: str, models: list[str],
    asked: str = "",
) -> None:  # fmt: skip
    """tables.json, and each table's features and ids as an .npz file, so that the folder needs no other file."""
    (folder / "tables").mkdir()
    entries = {}
    for name, table in tables.items():
        arrays, tree = features_state(table.features, "table")
        ids = table.ids.astype(str) if table.ids.dtype == object else table.ids
        np.savez(folder / "tables" / f"{name}.npz", ids=ids, **_no_empty(arrays))
        entries[name] = TableEntry(
            file=f"tables/{name}.npz", column=table.column, kind=table.kind, options=table.options,
            id_column=table.id_column,
            tree={**tree, "empty": {k: [list(a.shape), a.dtype.str] for k, a in arrays.items() if a.size == 0}},
        )  # fmt: skip
    run = RunFile(
        version=__version__, expression=expression, task=task, target=target, models=models, tables=entries, asked=asked
    )  # fmt: skip
    write_json(folder / "tables.json", run.model_dump())


def _no_empty(arrays: Mapping[str, Any]) -> dict[str, Any]:
    """The reader of .npz files refuses arrays of size 0, so tables.json says their shapes instead."""
    return {name: array for name, array in arrays.items() if array.size}


def open_run(path: Path) -> Run:
    """A run folder, or one model file in it. FileNotFoundError, or ValueError where something in it is damaged."""
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; give the folder that kronsgd train wrote, or a model file in it."
        )
    if not (folder / "tables.json").is_file():
        _check_over(folder)
        raise FileNotFoundError(f"{folder} has no tables.json, so ids cannot be looked up; give the folder of a run.")
    try:
        run = RunFile.model_validate(read_json(folder / "tables.json"))
        tables = {name: _open_table(folder, entry) for name, entry in run.tables.items()}
        files = [path] if path.is_file() else [_inside(folder, name) for name in run.models]
    except ValidationError as error:
        raise ValueError(f"{folder / 'tables.json'} is damaged ({error.errors()[0]['msg']}); train the run again.") from None
    except FileNotFoundError:
        raise
    except Exception as error:  # whatever a damaged or hostile file provokes
        raise ValueError(f"{folder / 'tables.json'} is damaged ({first_line(error)}); train the run again.") from None
    return Run(folder, [load(file) for file in files], run.expression, run.task, run.target, tables)


def _check_over(folder: Path) -> None:
    """FileNotFoundError for a run that has checkpoints, but no model yet."""
    if (folder / CHECKPOINTS).is_dir():
        raise FileNotFoundError(f"the run in {folder} is not over; go on with the same kronsgd train and --resume.")


def _inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder of a run, which may come from anyone: ValueError for any other place."""
    path = (folder / name).resolve()
    if not name.isprintable() or not path.is_relative_to(folder.resolve()):
        raise ValueError(f"it names the file {name!r}, which is not in the folder of the run")
    return path


def _open_table(folder: Path, entry: TableEntry) -> Table:
    arrays = {name: array.copy() for name, array in read_npz(_inside(folder, entry.file)).items()}  # they come read-only
    ids = arrays.pop("ids")
    for name, (shape, dtype) in entry.tree.get("empty", {}).items():
        arrays[name] = np.zeros(0, dtype=dtype).reshape(shape)
    features = features_from_state(arrays, entry.tree, "table")
    if features.n_rows != len(ids):
        raise ValueError(f"{folder / entry.file} has {features.n_rows} rows but {len(ids)} ids; train the run again.")
    return Table(features, ids, entry.column, entry.kind, entry.options, entry.id_column)


def open_models(path: Path) -> dict[str, KronEstimator]:
    """The models of a run folder by file name, or the one model of a file."""
    if path.is_dir():
        files = sorted(path.glob("model*.kron"), key=lambda p: (len(p.name), p.name))
        if not files:
            _check_over(path)
            raise FileNotFoundError(
                f"{path} holds no model; give the folder that kronsgd train wrote, or a model file."
            )
        return {file.name: load(file) for file in files}
    return {path.name: load(path)}
