"""The flags that commands share, each with its help text."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BatchSize", "Calibrate", "CheckpointEvery", "Column", "ConfigFile", "DataFolder", "Dataset", "Expression", "Folds",
    "Force", "Groups", "Hidden", "Json", "LoaderOption", "MemoryLimit", "NewTable", "Out", "PairsFile", "Parameter",
    "Quiet", "Resume", "RunPath", "SearchList", "Seeds", "TableFile", "Target", "Task", "TestFile", "TestFraction",
    "TestSetting", "Weight",
]  # fmt: skip

DATA, MODEL, RUN = "Data", "Model", "Run"

# An option that need not be given: None says no more than its help text does.
data_option, model_option, run_option = (
    partial(typer.Option, rich_help_panel=panel, show_default=False) for panel in (DATA, MODEL, RUN)
)

ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG.toml",
        show_default=False,
        help="Settings; flags win over it. Relative paths in it start from its own folder.",
    ),
]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that kronsgd train wrote, or a model file in it.")]
Out = Annotated[Path, typer.Option("--out", help="New folder for the run, such as runs/first.", rich_help_panel=RUN)]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in a folder that is not empty.", rich_help_panel=RUN)]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No summary, progress bar or tables.", rich_help_panel=RUN)]

Dataset = Annotated[str | None, data_option(help="A published set: digits, davis, mnist or sick.")]
DataFolder = Annotated[Path | None, data_option("--data", help="Folder of the published set (digits needs none).")]
LoaderOption = Annotated[
    list[str] | None,
    data_option(
        "--option",
        metavar="NAME=VALUE",
        help="Option of the published set: drug_power, protein_power, drugs, fingerprints, names, split "
        "(davis), n_train (mnist), center (digits, mnist), target (sick).",
    ),
]
TableFile = Annotated[
    list[str] | None,
    data_option(
        "--table",
        metavar="NAME=FILE[:KIND]",
        help="Your own table of entities, .npy, .npz, .csv or .parquet; KIND is dense (default), sparse, onehot, kernel, "
        "rbf, tanimoto, spectrum, categories, patches or bag, with options as in drug=d.npz:kernel,psd=clip,ids=name. Repeat "
        "it for every table.",
    ),
]
NewTable = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME=FILE",
        help="Entities that the run does not know, of the same kind and with ids of their own; for a kernel table, "
        "their kernel values with the known entities (new × known).",
    ),
]
PairsFile = Annotated[
    Path | None, data_option("--pairs", help="Table of pairs, .csv or .parquet: a column of ids for each table.")
]
Target = Annotated[str | None, data_option(help="Column of the target in the pairs (default: that of the run, or y).")]
Weight = Annotated[str | None, data_option(help="Column of sample weights in the pairs.")]
Column = Annotated[
    list[str] | None,
    data_option(
        "--column",
        metavar="NAME=COLUMN",
        help="Column with the ids of a table, where it is not named like the table: drug=drug_id.",
    ),
]
Groups = Annotated[
    str | None,
    data_option("--groups", metavar="TABLE", help="With --set loss=ranking: compare only rows of one entity of this table."),
]
TestFile = Annotated[Path | None, data_option("--test", help="Pairs to evaluate after training, never to choose by.")]
TestFraction = Annotated[float | None, data_option(help="Or: this share of the rows, drawn at random, such as 0.2.")]
TestSetting = Annotated[
    str | None,
    data_option(
        metavar="SETTING",
        help="What is new in the rows drawn by --test-fraction and in the folds of a search: 'pairs' (default), 'new TABLE' "
        "such as 'new drug', or 'both new'. The share is then one of entities; equal entities stay together.",
    ),
]
Task = Annotated[str | None, data_option(help="regression or classification (default: by the target; text means classes).")]
Expression = Annotated[
    str | None,
    model_option("--features", help="Expression of table names, numbers, +, * and **, such as '(1 + drug) * (1 + protein)'."),
]
Parameter = Annotated[
    list[str] | None, model_option("--set", metavar="NAME=VALUE", help="A model parameter, such as n_hidden=4096. Repeatable.")
]
SearchList = Annotated[
    list[str] | None,
    model_option(
        "--search",
        metavar="NAME=V1,V2,…",
        help="Try these values by cross-validation on the training rows and keep the best; data.NAME for a loader "
        "option. Repeatable: all combinations are tried.",
    ),
]
Folds = Annotated[int | None, model_option(help="Use only this many folds in a search.")]
Seeds = Annotated[int | None, model_option(help="Train this many networks and average them (default 1).")]
Hidden = Annotated[int | None, model_option("--n-hidden", help="Number of neurons (default 1024).")]
BatchSize = Annotated[int | None, model_option(help="Rows per step (default 64).")]
MemoryLimit = Annotated[
    str | None, run_option(help='Memory that training may take, such as "8 GiB" (default: 0.9 of what is free).')
]
CheckpointEvery = Annotated[
    str | None,
    run_option(
        metavar="TIME",
        help='Save the state of training to OUT/checkpoints this often: "10 min", "2 h" or "500 steps". Removed at the end.',
    ),
]
Resume = Annotated[
    bool,
    run_option(
        "--resume",
        help="Go on from OUT/checkpoints to the same result, or start where there are none; a finished run is left as it is. "
        "Saves every 10 min unless --checkpoint-every says otherwise.",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Write JSON instead of a table.", rich_help_panel=RUN)]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate",
        help="First measure how fast this machine is (a second or two) and keep it for later plans and choices.",
        rich_help_panel=RUN,
    ),
]
