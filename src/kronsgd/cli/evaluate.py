"""`kronsgd evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from numpy.typing import NDArray

from kronsgd.cli.config import build_config
from kronsgd.cli.data import load_data
from kronsgd.cli.flags import Flags, merge, read_toml
from kronsgd.cli.options import Column, DataFolder, Dataset, NewTable, PairsFile, RunPath, Target
from kronsgd.cli.predict import changed_tables, rows_of_pairs
from kronsgd.cli.report import number, score_table
from kronsgd.cli.runfolder import Run, open_run, write_json
from kronsgd.cli.scores import at_threshold, average, predict_rows, scores
from kronsgd.datasets import read_pairs
from kronsgd.features import Features

__all__ = ["evaluate"]


def evaluate(
    run: RunPath, pairs: PairsFile = None, target: Target = None, table: NewTable = None, column: Column = None,
    dataset: Dataset = None, data: DataFolder = None,
    threshold: Annotated[
        float | None, typer.Option(show_default=False, help="Also score how targets above this number are found.")
    ] = None,
    k: Annotated[int, typer.Option("--k", help="With --threshold: partners of each entity that are looked at.")] = 10,
    json_: Annotated[Path | None, typer.Option("--json", help="Also write the scores to this file.")] = None,
) -> None:  # fmt: skip
    """Score a run on labelled pairs, or on the test rows of a published set (default: of the run's own data).

    Correlations and the concordance index count all pairs of rows; the "mean over each" only rows of the same entity.

    Example: kronsgd evaluate runs/own --pairs labelled.csv --json scores.json
    """
    if pairs is not None and (dataset is not None or data is not None):
        raise ValueError("there are both --pairs and a published set; give one of them.")
    opened = changed_tables(open_run(run), table or [], column or [])
    if pairs is None:
        if target is not None or table or column:
            raise ValueError("--target, --table and --column belong to labelled pairs; give --pairs FILE too.")
        X, y, ids, name = _test_rows(opened, dataset, data)
    else:
        (X, ids), y, name = rows_of_pairs(opened, pairs), _targets(opened, pairs, target), str(pairs)
    prediction = average([predict_rows(model, X) for model in opened.models])
    values = scores(y, prediction, ids) | at_threshold(y, prediction, ids, threshold, k)
    score_table({"score": {k: number(v) for k, v in values.items()}}, f"{name}: {len(y):,} rows")
    if json_ is not None:
        write_json(json_, {"rows": len(y), **values})


def _targets(run: Run, pairs: Path, target: str | None) -> NDArray[Any]:
    tables = list(run.tables.values())
    name = run.target if target is None else target
    y = read_pairs(pairs, [table.ids for table in tables], [table.column for table in tables], name).y
    if run.task == "regression" and y.dtype.kind not in "fiu":
        raise ValueError(f"{pairs} holds text such as {str(y[0])!r} in column {name!r}, but the run predicts numbers.")
    return y


def _test_rows(
    run: Run, dataset: str | None, data: Path | None
) -> tuple[Features, NDArray[Any], dict[str, NDArray[Any]], str]:
    """The test rows of the run's own settings, with the set or its folder changed as flags say."""
    raw = merge(read_toml(run.folder / "config.toml"), Flags(dataset=dataset, data=data))
    loaded = load_data(build_config(raw))
    problem = loaded.problem
    if problem.X_test is None or problem.y_test is None:
        raise ValueError(
            f"the data of {run.folder} ({problem.name}) has no test rows; give labelled pairs with --pairs FILE."
        )
    return problem.X_test, problem.y_test, loaded.test_ids, f"{problem.name}, test rows"
