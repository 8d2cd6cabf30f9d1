"""`kronsgd predict`."""

from __future__ import annotations

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

__all__ = ["changed_tables", "predict", "rows_of_pairs"]


def predict(
    run: RunPath,
    out: Annotated[Path, typer.Option("--out", help="The .csv file to write.")],
    pairs: PairsFile = None,
    table: NewTable = None,
    column: Column = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Predict pairs of entities by their ids; a run with one table also predicts that table's rows without --pairs.

    Example: kronsgd predict runs/own --pairs new.csv --out predictions.csv
    """
    if out.is_file() and not force:
        raise ValueError(f"the file {out} exists; give another --out, or --force to replace it.")
    opened = changed_tables(open_run(run), table or [], column or [])
    if out.is_dir() or not out.resolve().parent.is_dir():
        raise ValueError(f"{out} cannot be written; give a file in an existing folder with --out.")
    X, ids = rows_of_pairs(opened, pairs)
    prediction = average([predict_rows(model, X) for model in opened.models])
    write_predictions(out, ids, prediction)
    say_plain(f"{len(prediction.values):,} predictions written: {out.resolve()}")


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
        raise ValueError(f"give the pairs to predict with --pairs FILE; the run has the tables {sorted(run.tables)}.")
    named = {name: table.features[rows[name]] for name, table in run.tables.items()}
    return build_features(run.expression, named), ids
