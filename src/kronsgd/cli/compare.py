"""`kronsgd compare`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from kronsgd.cli.config import Config, build_config
from kronsgd.cli.data import Data, load_data, pair_splits, parted
from kronsgd.cli.errors import say
from kronsgd.cli.flags import Flags, merge, read_toml
from kronsgd.cli.options import (
    RUN,
    BatchSize,
    Column,
    ConfigFile,
    DataFolder,
    Dataset,
    Expression,
    Hidden,
    LoaderOption,
    MemoryLimit,
    PairsFile,
    Parameter,
    Quiet,
    SearchList,
    TableFile,
    Target,
    Task,
    TestFile,
    TestFraction,
)
from kronsgd.cli.report import say_plain, show_table
from kronsgd.cli.search import read_search
from kronsgd.compare import METHODS, Comparison, Fold, Row, folds_of_problem
from kronsgd.compare import compare as run_comparison
from kronsgd.datasets import Problem
from kronsgd.model_selection import PairKFold

__all__ = ["compare"]


def compare(
    config: ConfigFile = None, dataset: Dataset = None, data: DataFolder = None, option: LoaderOption = None,
    task: Task = None, table: TableFile = None, pairs: PairsFile = None, target: Target = None, column: Column = None,
    test: TestFile = None, test_fraction: TestFraction = None, features: Expression = None, set_: Parameter = None,
    search: SearchList = None, n_hidden: Hidden = None, batch_size: BatchSize = None, memory_limit: MemoryLimit = None,
    method: Annotated[list[str] | None, typer.Option(
        help=f"Only this method; repeat it for several: {', '.join(METHODS)}.", show_default=False,
        rich_help_panel=RUN)] = None,
    folds: Annotated[int, typer.Option(help="Folds, where the data has no test rows of its own.", rich_help_panel=RUN)] = 5,
    inner_folds: Annotated[int, typer.Option(help="Folds of training rows to choose settings on.", rich_help_panel=RUN)] = 3,
    seeds: Annotated[int, typer.Option(help="Fits of each method that is random.", rich_help_panel=RUN)] = 3,
    timeout: Annotated[float | None, typer.Option(
        help="Seconds that one method may take in all.", show_default=False, rich_help_panel=RUN)] = None,
    out: Annotated[Path | None, typer.Option(
        help="Folder for comparison.json and comparison.md.", show_default=False, rich_help_panel=RUN)] = None,
    quiet: Quiet = False,
) -> None:  # fmt: skip
    """Score kronsgd beside ridges, boosting, SVM and MLP on the same folds: accuracy, time and memory.

    Example: kronsgd compare --dataset digits --seeds 1 --method kronsgd --method svm

    Example: kronsgd compare config.toml --out comparisons/first
    """
    flags = Flags(
        dataset=dataset, data=data, option=option or [], task=task, table=table or [], pairs=pairs, target=target,
        column=column or [], features=features, test=test, test_fraction=test_fraction, set_=set_ or [],
        search=search or [], n_hidden=n_hidden, batch_size=batch_size, memory_limit=memory_limit,
    )  # fmt: skip
    checked = build_config(merge(read_toml(config), flags))
    grid = _grid(checked)
    if out is not None and out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give --out the name of a folder.")
    loaded, seed = load_data(checked), checked.model["random_state"]
    compared = run_comparison(
        _folds(loaded, folds, inner_folds, seed), params=checked.model, grid=grid, methods=method or METHODS, n_folds=folds,
        n_inner=inner_folds, seeds=seeds, random_state=seed, timeout=timeout,
        done=None if quiet else _say_done,
    )  # fmt: skip
    if loaded.setting is not None:
        compared = replace(compared, name=f"{loaded.problem.name}, {loaded.setting}")
    if not quiet:
        _show(compared)
    if out is not None:
        for path in compared.save(out):
            say_plain(str(path))


def _folds(data: Data, n_folds: int, n_inner: int, seed: int) -> Problem | list[Fold]:
    """The problem; or, where something is to be new in its test, folds in which it is, inside the training rows too."""
    if data.setting in (None, "pairs"):
        return data.problem
    if data.setting == "both new":
        raise ValueError(
            'setting="both new" leaves pairs out of training and test alike, which a comparison does not; compare with '
            '"new TABLE", or pass folds of your own to kronsgd.compare.compare.'
        )
    parts = [data]
    if data.problem.X_test is None:
        parts = [parted(data, *split) for split in pair_splits(data, PairKFold(n_folds, random_state=seed))]
    out: list[Fold] = []
    for part in parts:
        inner = [held for _, held in pair_splits(part, PairKFold(n_inner, random_state=seed + 1))]
        out += folds_of_problem(replace(part.problem, folds=inner), n_inner=n_inner)
    return out


def _grid(config: Config) -> list[dict[str, Any]] | None:
    """The settings of [search], or None for the default ones. ValueError on what a comparison does not know."""
    if config.pairs is not None and config.pairs.weight is not None:
        raise ValueError(
            f"weight={config.pairs.weight!r} is set, but not every method takes sample weights; leave it out to compare."
        )
    if config.model.get("loss") == "ranking":
        raise ValueError('loss="ranking" predicts an order, but a comparison scores squared errors; compare another loss.')
    search = read_search(config)
    if search is None:
        return None
    loader = next((name for name in search.settings[0] if name.startswith("data.")), None)
    if loader is not None:
        raise ValueError(f"{loader} in [search] changes the data of all methods; compare at one value of it at a time.")
    return search.settings


def _say_done(row: Row) -> None:
    say("done", row.name if row.refusal is None else f"{row.name} (left out)")


def _show(compared: Comparison) -> None:
    header, rows = compared.cells()
    show_table(header, rows, f"{compared.name}: {compared.n_rows:,} rows")
    say_plain(compared.how)
    for sentence in compared.left_out:
        say_plain(f"left out: {sentence}")
