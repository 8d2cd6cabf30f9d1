"""`kronsgd predict`."""

from __future__ import annotations

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from kronsgd.cli.expression import build_features
from kronsgd.cli.flags import split_flag
from kronsgd.cli.options import Column, NewTable, PairsFile, RunPath
from kronsgd.cli.report import say_plain
from kronsgd.cli.runfolder import Run, open_run, write_predictions
from kronsgd.cli.scores import average, predict_rows
from kronsgd.cli.tables import read_rows, with_new_entities
from kronsgd.features import Features
from kronsgd.validation import did_you_mean

__all__ = ["changed_tables", "check_output", "predict", "rows_of_pairs"]

AT_ONCE = 1 << 18  # pairs that are predicted and written together


def predict(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", help="The .csv file to write.")],
    pairs: PairsFile = None,
    all_: Annotated[bool, typer.Option("--all", help="Predict every pair of the run's tables, measured or not.")] = False,
    table: NewTable = None,
    column: Column = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Predict pairs of entities by their ids; a run with one table also predicts that table's rows without --pairs.

    Example: kronsgd predict runs/own --pairs new.csv --out predictions.csv
    """
    if all_ and pairs is not None:
        raise ValueError("there are both --pairs and --all; give one of them.")
    opened = changed_tables(open_run(run), table or [], column or [])
    check_output(out, force)
    if all_:
        n = _predict_all(opened, out)
    else:
        X, ids = rows_of_pairs(opened, pairs)
        write_predictions(out, ids, average([predict_rows(model, X) for model in opened.models]))
        n = len(X)
    say_plain(f"{n:,} predictions written: {out.resolve()}")


def check_output(out: Path, force: bool) -> None:
    """Raise ValueError unless a file may be written to `out`."""
    if out.is_file() and not force:
        raise ValueError(f"the file {out} exists; give another --out, or --force to replace it.")
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ValueError(f"{out} cannot be written; give a file in an existing folder with --out.")


def _predict_all(run: Run, out: Path) -> int:
    """Write the predictions of all pairs, AT_ONCE at a time, aside and then to `out`; returns how many there are."""
    sizes = [len(table.ids) for table in run.tables.values()]
    n, aside = math.prod(sizes), out.with_name(f".{out.name}.part")
    try:
        for start in range(0, n, AT_ONCE):
            chosen = np.unravel_index(np.arange(start, min(start + AT_ONCE, n)), sizes)
            rows = dict(zip(run.tables, chosen, strict=True))
            X = build_features(run.expression, {name: table.features[rows[name]] for name, table in run.tables.items()})
            ids = {table.column: table.ids[rows[name]] for name, table in run.tables.items()}
            write_predictions(aside, ids, average([predict_rows(model, X) for model in run.models]), more=start > 0)
        os.replace(aside, out)
    finally:
        aside.unlink(missing_ok=True)
    return n


def changed_tables(run: Run, new: list[str], columns: list[str]) -> Run:
    """The run with new entities and other columns of ids, as flags say. ValueError on a table that it does not have."""
    tables = dict(run.tables)
    for flag, items in (("--table", new), ("--column", columns)):
        for name, value in (split_flag(flag, item) for item in items):
            if name not in tables:
                raise ValueError(
                    f"{flag} names the table {name!r}; the run's tables are "
                    f"{sorted(tables)}.{did_you_mean(name, tables)}"
                )
            if flag == "--table":
                tables[name] = with_new_entities(name, tables[name], Path(value))
            else:
                tables[name] = replace(tables[name], column=value)
    return replace(run, tables=tables)


def rows_of_pairs(run: Run, pairs: Path | None) -> tuple[Features, dict[str, Any]]:
    """(rows to predict, their ids by column): those of a file, or every entity of a run with one table."""
    if pairs is not None:
        rows, ids = read_rows(pairs, run.tables)
    elif len(run.tables) == 1:
        ((name, table),) = run.tables.items()
        rows, ids = {name: np.arange(len(table.ids))}, {table.column: table.ids}
    else:
        raise ValueError(
            f"give the pairs to predict with --pairs FILE, or --all for every pair of the run's tables {sorted(run.tables)}."
        )
    named = {name: table.features[rows[name]] for name, table in run.tables.items()}
    return build_features(run.expression, named), ids
