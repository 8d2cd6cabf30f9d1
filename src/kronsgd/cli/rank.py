"""`kronsgd rank`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from kronsgd.cli.expression import build_features
from kronsgd.cli.flags import split_flag
from kronsgd.cli.options import Column, NewTable, RunPath
from kronsgd.cli.predict import changed_tables, check_output
from kronsgd.cli.report import number, say_plain, show_table
from kronsgd.cli.runfolder import Run, open_run, write_predictions
from kronsgd.cli.scores import Prediction, average, predict_rows
from kronsgd.datasets import PairTable
from kronsgd.features.known import known_rows
from kronsgd.validation import check_integer, did_you_mean

__all__ = ["rank"]


def rank(
    run: RunPath,
    entity: Annotated[str, typer.Argument(metavar="TABLE=ID", help="The entity whose partners are ranked, as drug=D5.")],
    k: Annotated[int, typer.Option("--k", help="How many partners.")] = 10,
    all_: Annotated[bool, typer.Option("--known", help="Rank pairs that the run was trained on, too.")] = False,
    out: Annotated[Path | None, typer.Option("--out", show_default=False, help="Also write them to this .csv file.")] = None,
    table: NewTable = None,
    column: Column = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")] = False,
) -> None:
    """Rank the partners of one entity by their predicted targets, best first; the run must have two tables.

    Example: kronsgd rank runs/own drug=D5 --k 20 --out partners.csv
    """
    if out is not None:
        check_output(out, force)
    check_integer("--k", k, 1)
    opened = changed_tables(open_run(run), table or [], column or [])
    name, other, rows = _candidates(opened, entity)
    X = build_features(opened.expression, {n: t.features[rows[n]] for n, t in opened.tables.items()})
    if not all_:
        new = np.flatnonzero(~known_rows(opened.models[0].features_, X))
        if not len(new):
            raise ValueError(f"the run was trained on all partners of {entity}; give --known to rank them.")
        X, rows = X[new], {n: own[new] for n, own in rows.items()}
    prediction, scores = _scored(average([predict_rows(model, X) for model in opened.models]))
    best = np.lexsort((rows[other], -scores))[:k]
    ids = {opened.tables[n].column: opened.tables[n].ids[rows[n][best]] for n in (name, other)}
    header = opened.tables[other].column, "prediction" if prediction.classes is None else f"p_{prediction.classes[1]}"
    lines = [[str(i), number(s)] for i, s in zip(ids[header[0]], scores[best], strict=True)]
    show_table(header, lines, f"{entity}: {len(best)} of {len(X):,} partners")
    if out is not None:
        write_predictions(out, ids, prediction.take(best))
        say_plain(f"{len(best):,} partners written: {out.resolve()}")


def _candidates(run: Run, entity: str) -> tuple[str, str, dict[str, NDArray[np.int64]]]:
    """(the entity's table, the other one, rows of all pairs of the entity by table). ValueError where there are none."""
    if len(run.tables) != 2:
        raise ValueError(f"partners are ranked in runs with two tables, but this one has {sorted(run.tables)}.")
    name, text = split_flag("TABLE=ID", entity)
    if name not in run.tables:
        hint = did_you_mean(name, run.tables)
        raise ValueError(f"TABLE=ID {entity!r} names the table {name!r}; the run's tables are {sorted(run.tables)}.{hint}")
    other = next(n for n in run.tables if n != name)
    (row,) = PairTable(run.tables[name].ids, name).rows(np.array([text]))
    n = len(run.tables[other].ids)
    return name, other, {name: np.full(n, row), other: np.arange(n)}


def _scored(prediction: Prediction) -> tuple[Prediction, Any]:
    """The prediction, and the number to rank by. ValueError for more than two classes."""
    if prediction.proba is None or prediction.classes is None:
        return prediction, prediction.values
    if len(prediction.classes) > 2:
        raise ValueError(f"partners cannot be ranked by {len(prediction.classes)} classes; use kronsgd predict --all.")
    return prediction, prediction.proba[:, 1]
