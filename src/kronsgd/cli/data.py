"""The data of a run: a problem to train on, and the tables and ids behind it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.cli.config import Config, DataSection, PairsSection
from kronsgd.cli.expression import build_features
from kronsgd.cli.tables import Table, read_user_table
from kronsgd.datasets import PairTable, Problem, load_davis, load_digits, load_mnist, load_sick, read_pairs
from kronsgd.datasets.tables import KINDS
from kronsgd.features import Features
from kronsgd.features.serialize import map_leaves
from kronsgd.model_selection import PairKFold, PairShuffleSplit, duplicate_groups

__all__ = ["Data", "load_data", "pair_splits", "parted"]

Array = NDArray[Any]
Index = NDArray[np.int64]
KIND_OF = {leaf: kind for kind, leaf in KINDS.items()}


@dataclass(frozen=True)
class Data:
    """A problem, its tables by name, the weights of its training rows, and the ids of its rows by column.

    setting: what is to be new in rows that are held out: None or "pairs", "new TABLE", "both new". group_table: the table
    whose entities are the training rows' groups.
    """

    problem: Problem
    tables: dict[str, Table]
    target: str
    weights: Array | None
    train_ids: dict[str, Array]
    test_ids: dict[str, Array]
    setting: str | None = None
    group_table: str | None = None

    @property
    def groups(self) -> Array | None:
        """The group of each training row, where there are groups."""
        return None if self.group_table is None else self.train_ids[self.tables[self.group_table].column].astype(str)


def load_data(config: Config) -> Data:
    """Read what the settings name. Errors as those of the readers in kronsgd.datasets."""
    data = _own(config) if config.data.dataset is None else _published(config, config.data)
    if config.data.task is not None:
        data = replace(data, problem=replace(data.problem, task=config.data.task))
    problem, data = data.problem, replace(data, setting=config.validation.setting)
    if problem.task == "regression" and problem.y.dtype.kind not in "fiu":
        raise ValueError(
            f"the target {data.target!r} holds text such as {str(problem.y[0])!r}; text is learned with --task "
            "classification, and regression needs numbers."
        )
    return data if config.validation.fraction is None else _split(data, config)


def _own(config: Config) -> Data:
    pairs = config.pairs
    assert pairs is not None  # build_config has seen to it
    tables = {name: read_user_table(table, pairs.columns.get(name, name)) for name, table in config.tables.items()}
    rows, y, weights = _read(pairs.file, tables, pairs)
    X = build_features(config.expression, _at(tables, rows))
    task = "classification" if y.dtype == object else "regression"
    problem = Problem(X, y, name=Path(pairs.file).stem, task=task)
    test_ids: dict[str, Array] = {}
    if config.validation.file is not None:
        test_rows, y_test, _ = _read(config.validation.file, tables, pairs)
        problem = replace(problem, X_test=build_features(config.expression, _at(tables, test_rows)), y_test=y_test)
        test_ids = _ids(tables, test_rows)
    return Data(problem, tables, pairs.target, weights, _ids(tables, rows), test_ids, group_table=pairs.groups)


def _read(
    path: str, tables: Mapping[str, Table], pairs: PairsSection
) -> tuple[dict[str, NDArray[np.int64]], Array, Array | None]:
    lookups = [PairTable(table.ids, name) for name, table in tables.items()]
    read = read_pairs(path, lookups, [table.column for table in tables.values()], pairs.target, pairs.weight)
    return dict(zip(tables, read.rows, strict=True)), read.y, read.weights


def _at(tables: Mapping[str, Table], rows: Mapping[str, NDArray[np.int64]]) -> dict[str, Features]:
    return {name: table.features[rows[name]] for name, table in tables.items()}


def _ids(tables: Mapping[str, Table], rows: Mapping[str, NDArray[np.int64]]) -> dict[str, Array]:
    return {table.column: table.ids[rows[name]] for name, table in tables.items()}


def _published(config: Config, section: DataSection) -> Data:
    text, options, path = config.expression, section.options(), section.path or ""
    parts: list[dict[str, Features]] = []  # the named rows of the training and of the test part
    if section.dataset == "davis":

        def expression(drug: Features, protein: Features) -> Features:
            parts.append({"drug": drug, "protein": protein})
            return build_features(text, parts[-1])

        problem = load_davis(path, expression=expression, **options)
    elif section.dataset == "sick":
        sentences = load_sick(path)
        named = dict(zip(("first", "second"), sentences.X.children, strict=True))
        problem = sentences.problem(X=build_features(text, named), **options)
        n, n_test = len(problem.X), len(problem.y_test) if problem.y_test is not None else 0
        slices = (slice(0, n), slice(n, n + n_test))
        parts = [{name: rows[part] for name, rows in named.items()} for part in slices]
    else:
        problem = load_digits() if section.dataset == "digits" else load_mnist(path, **options)
        parts = [{"x": part} for part in (problem.X, problem.X_test) if part is not None]
        test = None if problem.X_test is None else build_features(text, parts[1])
        problem = replace(problem, X=build_features(text, parts[0]), X_test=test)
    tables = {name: _table(name, rows) for name, rows in parts[0].items() if name in config.used}
    train_ids, test_ids = (_published_ids(part) if problem.X_test is not None else {} for part in (parts[0], parts[-1]))
    return Data(problem, tables, "y", None, train_ids, test_ids)


def _table(name: str, rows: Features) -> Table:
    """The whole table behind some of its rows, its entities numbered from 0."""
    features = map_leaves(rows, lambda leaf: leaf.with_index(None))
    return Table(features, np.arange(features.n_rows), name, KIND_OF.get(type(features), "dense"))


def _published_ids(rows: Mapping[str, Features]) -> dict[str, Array]:
    """The number of each row's entity in its table, by table."""
    leaves = {name: next(part.leaves()) for name, part in rows.items()}
    return {name: np.arange(leaf.n_entities)[leaf.rows] for name, leaf in leaves.items()}


def _split(data: Data, config: Config) -> Data:
    """A part of the rows, drawn at random by the model's seed, as the test rows."""
    problem = data.problem
    if problem.X_test is not None:
        raise ValueError(f"{problem.name} has its own {len(problem.X_test):,} test rows; leave --test-fraction out.")
    n, fraction, seed = len(problem.y), float(config.validation.fraction or 0), config.model["random_state"]
    if data.setting in (None, "pairs"):
        n_test = round(fraction * n)
        order = np.random.default_rng(seed).permutation(n)
        test, train = np.sort(order[:n_test]), np.sort(order[n_test:])
    else:
        ((train, test),) = pair_splits(data, PairShuffleSplit(1, train_size=1 - fraction, random_state=seed))
    if len(test) < 1 or len(train) < 2:
        raise ValueError(f"a fraction of {fraction:g} of {n} rows leaves too few to test or train on.")
    return parted(data, train, test)


def parted(data: Data, train: Index, test: Index) -> Data:
    """Some rows to train on, others to test."""
    problem = data.problem
    split = replace(
        problem, X=problem.X[train], y=problem.y[train], X_test=problem.X[test], y_test=problem.y[test], folds=[]
    )
    test_ids = {column: values[test] for column, values in data.train_ids.items()} or {"row": test}
    train_ids = {column: values[train] for column, values in data.train_ids.items()}
    weights = None if data.weights is None else data.weights[train]
    return replace(data, problem=split, train_ids=train_ids, test_ids=test_ids, weights=weights)


def pair_splits(data: Data, splitter: PairKFold | PairShuffleSplit) -> list[tuple[Index, Index]]:
    """(training rows, test rows) by the setting of `data`, its equal entities kept together."""
    assert data.setting is not None
    alone = data.setting.removeprefix("new ")
    names = list(data.tables) if data.setting == "both new" else [alone, alone]
    groups = [
        dict(zip(data.tables[name].ids.tolist(), duplicate_groups(data.tables[name].features, notice=False), strict=True))
        for name in names
    ]
    setting = "both new" if data.setting == "both new" else "new rows"
    own = replace(splitter, setting=setting, row_groups=groups[0], column_groups=groups[1])
    ids = [data.train_ids[data.tables[name].column].astype(str) for name in names]
    return list(own.split(np.column_stack(ids)))
