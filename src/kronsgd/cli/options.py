"""The flags that commands share, each with its help text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BatchSize", "Calibrate", "Column", "ConfigFile", "DataFolder", "Dataset", "Expression", "Folds", "Force", "Hidden", "Json",
    "LoaderOption", "MemoryLimit", "NewTable", "Out", "PairsFile", "Parameter", "Quiet", "RunPath", "SearchList", "Seeds",
    "TableFile", "Target", "Task", "TestFile", "TestFraction", "Weight",
]  # fmt: skip

DATA, MODEL, RUN = "Data", "Model", "Run"

ConfigFile = Annotated[
    Path | None,
    typer.Argument(
        metavar="CONFIG.toml",
        show_default=False,
        help="Settings; flags win over it. Relative paths in it start from its own folder.",
    ),
]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="The folder that kronsgd train wrote, or a model file in it.")
]
Out = Annotated[Path, typer.Option("--out", help="New folder for the run, such as runs/first.", rich_help_panel=RUN)]
Force = Annotated[
    bool, typer.Option("--force", help="Replace the run in a folder that is not empty.", rich_help_panel=RUN)
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No summary, progress bar or tables.", rich_help_panel=RUN)]

Dataset = Annotated[
    str | None,
    typer.Option(help="A published set: digits, davis, mnist or sick.", rich_help_panel=DATA, show_default=False),
]
DataFolder = Annotated[
    Path | None, typer.Option("--data", help="Folder of the published set (digits needs none).", rich_help_panel=DATA)
]
LoaderOption = Annotated[
    list[str] | None,
    typer.Option(
        "--option",
        metavar="NAME=VALUE",
        rich_help_panel=DATA,
        help="Option of the published set: drug_power, protein_power, drugs (davis), n_train (mnist), "
        "center (digits, mnist), target (sick).",
    ),
]
TableFile = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME=FILE[:KIND]",
        rich_help_panel=DATA,
        help="Your own table of entities, .npy, .npz, .csv or .parquet; KIND is dense (default), sparse, onehot, "
        "kernel, "
        "rbf or tanimoto, with options as in drug=d.npz:kernel,psd=clip,ids=name. Repeat it for every table.",
    ),
]
NewTable = Annotated[
    list[str] | None,
    typer.Option(
        "--table",
        metavar="NAME=FILE",
        help="Entities that the run does not know, of the same kind and with ids of their own; for a kernel table, "
        "their "
        "kernel values with the known entities (new × known).",
    ),
]
PairsFile = Annotated[
    Path | None,
    typer.Option(
        "--pairs", help="Table of pairs, .csv or .parquet: a column of ids for each table.", rich_help_panel=DATA
    ),
]
Target = Annotated[
    str | None,
    typer.Option(
        help="Column of the target in the pairs (default: that of the run, or y).", rich_help_panel=DATA, show_default=False
    ),
]
Weight = Annotated[
    str | None, typer.Option(help="Column of sample weights in the pairs.", rich_help_panel=DATA, show_default=False)
]
Column = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        rich_help_panel=DATA,
        help="Column with the ids of a table, where it is not named like the table: drug=drug_id.",
    ),
]
TestFile = Annotated[
    Path | None,
    typer.Option("--test", help="Pairs to evaluate after training, never to choose by.", rich_help_panel=DATA),
]
TestFraction = Annotated[
    float | None,
    typer.Option(
        help="Or: this share of the rows, drawn at random, such as 0.2.", rich_help_panel=DATA, show_default=False
    ),
]
Task = Annotated[
    str | None,
    typer.Option(
        help="regression or classification (default: by the target; text means classes).",
        rich_help_panel=DATA,
        show_default=False,
    ),
]
Expression = Annotated[
    str | None,
    typer.Option(
        "--features",
        rich_help_panel=MODEL,
        show_default=False,
        help="Expression of table names, numbers, +, * and **, such as '(1 + drug) * (1 + protein)'.",
    ),
]
Parameter = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        rich_help_panel=MODEL,
        help="A model parameter, such as n_hidden=4096. Repeatable.",
    ),
]
SearchList = Annotated[
    list[str] | None,
    typer.Option(
        "--search",
        metavar="NAME=V1,V2,…",
        rich_help_panel=MODEL,
        help="Try these values by cross-validation on the training rows and keep the best; data.NAME for a loader "
        "option. "
        "Repeatable: all combinations are tried.",
    ),
]
Folds = Annotated[
    int | None, typer.Option(help="Use only this many folds in a search.", rich_help_panel=MODEL, show_default=False)
]
Seeds = Annotated[
    int | None,
    typer.Option(
        help="Train this many networks and average them (default 1).", rich_help_panel=MODEL, show_default=False
    ),
]
Hidden = Annotated[
    int | None, typer.Option("--n-hidden", help="Number of neurons (default 1024).", rich_help_panel=MODEL, show_default=False)
]
BatchSize = Annotated[
    int | None, typer.Option(help="Rows per step (default 64).", rich_help_panel=MODEL, show_default=False)
]
MemoryLimit = Annotated[
    str | None,
    typer.Option(
        help='Memory that training may take, such as "8 GiB" (default: 0.9 of what is free).',
        rich_help_panel=RUN,
        show_default=False,
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
