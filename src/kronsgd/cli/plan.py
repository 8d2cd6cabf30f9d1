"""`kronsgd plan`."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

import kronsgd
from kronsgd.cli.config import build_config
from kronsgd.cli.data import load_data
from kronsgd.cli.errors import say
from kronsgd.cli.flags import Flags, merge, read_toml
from kronsgd.cli.options import (
    BatchSize,
    Calibrate,
    Column,
    ConfigFile,
    DataFolder,
    Dataset,
    Expression,
    Hidden,
    Json,
    LoaderOption,
    MemoryLimit,
    PairsFile,
    Parameter,
    TableFile,
    Target,
    Task,
    TestFraction,
    Weight,
)
from kronsgd.cli.report import say_plain
from kronsgd.datasets import Problem
from kronsgd.planner import Plan
from kronsgd.planner.calibration import calibrate as measure

__all__ = ["plan", "plan_problem"]


def plan(
    config: ConfigFile = None, dataset: Dataset = None, data: DataFolder = None, option: LoaderOption = None,
    task: Task = None, table: TableFile = None, pairs: PairsFile = None, target: Target = None, weight: Weight = None,
    column: Column = None, test_fraction: TestFraction = None, features: Expression = None, set_: Parameter = None,
    n_hidden: Hidden = None, batch_size: BatchSize = None, memory_limit: MemoryLimit = None,
    json_: Json = False, calibrate: Calibrate = False,
) -> None:  # fmt: skip
    """Show what training would take with each engine, and which one fits and is fastest; nothing is trained.

    Example: kronsgd plan --dataset digits --n-hidden 8192 --memory-limit "4 GiB"
    """
    model = Flags(set_=set_ or [], n_hidden=n_hidden, batch_size=batch_size, memory_limit=memory_limit)
    flags = replace(
        model, dataset=dataset, data=data, option=option or [], task=task, table=table or [], pairs=pairs, target=target,
        weight=weight, column=column or [], features=features, test_fraction=test_fraction,
    )  # fmt: skip
    if calibrate:
        _calibrate(quiet=json_)
        if config is None and flags == model:
            return
    checked = build_config(merge(read_toml(config), flags))
    planned = plan_problem(load_data(checked).problem, checked.model)
    if json_:
        print(json.dumps(planned.as_dict(), indent=1))
    else:
        for line in str(planned).splitlines():
            say_plain(line)
    if planned.engine is None:
        planned.choose()  # says what would fit


def plan_problem(problem: Problem, params: dict[str, Any]) -> Plan:
    """The plan of a fit on a problem's training rows."""
    if problem.task == "classification":
        n_classes = len(np.unique(problem.y.astype(str) if problem.y.dtype == object else problem.y))
        n_outputs = 1 if n_classes <= 2 else n_classes
    else:
        n_outputs = 1 if problem.y.ndim == 1 else problem.y.shape[1]
    return kronsgd.plan(problem.X, **params, n_outputs=n_outputs)


def _calibrate(*, quiet: bool) -> None:
    path = measure()
    if path is None:
        say("warning", "the measured rates could not be kept: set XDG_CACHE_HOME to a folder that can be written.")
    elif not quiet:
        say_plain(f"measured rates: {path}")
