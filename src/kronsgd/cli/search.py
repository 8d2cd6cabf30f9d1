"""Choosing settings by cross-validation on the training rows; test rows are never looked at."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import mean_squared_error
from sklearn.model_selection import KFold, StratifiedKFold

from kronsgd import StopReason
from kronsgd.cli.config import Config, DataSection, build_config, check_section
from kronsgd.cli.data import Data, load_data, pair_splits
from kronsgd.cli.fitting import fit_one
from kronsgd.cli.parameters import typed
from kronsgd.cli.scores import log_loss_of, predict_rows
from kronsgd.metrics import concordance_index
from kronsgd.model_selection import PairKFold

__all__ = ["Result", "Search", "apply_setting", "described", "read_search", "run_search"]

Fold = tuple[NDArray[np.int64], NDArray[np.int64]]
MAX_SETTINGS = 10_000
DEFAULT_FOLDS = 5


@dataclass(frozen=True)
class Search:
    """Every setting to try, and how many of the folds to use (None: all)."""

    settings: list[dict[str, Any]]
    folds: int | None


@dataclass(frozen=True)
class Result:
    """A setting, its loss on each held-out fold, and the seconds it took."""

    setting: dict[str, Any]
    losses: list[float]
    seconds: float

    @property
    def mean(self) -> float:
        """Mean over the folds."""
        return float(np.mean(self.losses))


def read_search(config: Config) -> Search | None:
    """The search of a run, every value checked before any is tried. None: there is none. ValueError on a mistake."""
    lists = {name: values for name, values in config.search.items() if name != "folds"}
    folds = config.search.get("folds")
    if "random_state" in lists:
        raise ValueError("random_state in [search] is not a hyper-parameter; use --seeds to average over several.")
    if folds is not None and (isinstance(folds, bool) or not isinstance(folds, int) or folds < 1):
        raise ValueError(f"folds={folds!r} in [search] is not allowed; give a whole number of at least 1.")
    if not lists:
        if folds is not None:
            raise ValueError("folds is given but nothing to search; add a list, such as --search output_scale=0.2,0.3.")
        return None
    for name, values in lists.items():
        if not isinstance(values, list) or not values:
            raise ValueError(
                f"{name}={values!r} in [search] is not a list of values; write for example {name} = [1, 2]."
            )
    checked = {name: [_value(config, name, value) for value in values] for name, values in lists.items()}
    settings = [dict(zip(checked, chosen, strict=True)) for chosen in itertools.product(*checked.values())]
    if len(settings) > MAX_SETTINGS:
        raise ValueError(f"[search] has {len(settings):,} combinations; at most {MAX_SETTINGS:,} are tried.")
    return Search(settings, folds)


def _value(config: Config, name: str, value: Any) -> Any:
    if not name.startswith("data."):
        return typed(name, value)
    key = name.removeprefix("data.")
    section = check_section(DataSection, {**config.data.model_dump(exclude_none=True), key: value})
    if key not in section.options():
        raise ValueError(f"{name} in [search] cannot be searched; only loader options can, such as data.drug_power.")
    return section.options()[key]


def apply_setting(config: Config, setting: dict[str, Any]) -> Config:
    """The run with one setting in place, and without the search."""
    raw = config.model_dump(exclude_none=True, exclude={"search"})
    for name, value in setting.items():
        if name.startswith("data."):
            raw["data"][name.removeprefix("data.")] = value
        else:
            raw["model"][name] = "none" if value is None else value
    return build_config(raw)


def run_search(config: Config, search: Search, done: Callable[[], None]) -> list[Result]:
    """The results in the order of `search.settings`; `done` is called after every fit. KeyboardInterrupt on Ctrl-C.

    MemoryError where memory_limit ends a fit.
    """
    results: list[Result] = []
    loaded: dict[str, tuple[Data, list[Fold]]] = {}
    for setting in search.settings:
        chosen = apply_setting(config, setting)
        key = str(sorted(item for item in setting.items() if item[0].startswith("data.")))
        if key not in loaded:
            loaded.clear()  # one loaded set at a time
            data = load_data(chosen)
            loaded[key] = data, folds_of(data, config.model["random_state"])[: search.folds]
        data, folds = loaded[key]
        started, losses = time.perf_counter(), []
        for fold in folds:
            losses.append(_loss(data, chosen.model, fold, setting))
            done()
        results.append(Result(setting, losses, time.perf_counter() - started))
    return results


def folds_of(data: Data, seed: int) -> list[Fold]:
    """Rows of each fold, (training, held out): the published folds, or five drawn by the seed (with all classes in each).

    Where the test has new entities, so have the folds; where both are new, three parts of each side make nine of them.
    """
    problem = data.problem
    if problem.folds:
        return [(np.setdiff1d(np.arange(len(problem.y)), held), held) for held in problem.folds]
    if data.setting not in (None, "pairs"):
        return pair_splits(data, PairKFold(3 if data.setting == "both new" else DEFAULT_FOLDS, random_state=seed))
    kind = StratifiedKFold if problem.task == "classification" else KFold
    n = len(problem.y)
    if n < 2 * DEFAULT_FOLDS:
        raise ValueError(f"there are only {n} training rows; a search needs at least {2 * DEFAULT_FOLDS}.")
    return list(kind(DEFAULT_FOLDS, shuffle=True, random_state=seed).split(np.zeros(n), problem.y))


def described(setting: dict[str, Any]) -> str:
    """A setting as text."""
    return ", ".join(f"{name}={value}" for name, value in setting.items())


def _loss(data: Data, params: dict[str, Any], fold: Fold, setting: dict[str, Any]) -> float:
    problem, (rest, held) = data.problem, fold
    weights = None if data.weights is None else data.weights[rest]
    groups = None if data.groups is None else data.groups[rest]
    model = fit_one(problem.task, params, problem.X[rest], problem.y[rest], weights, groups, bar=False)
    if model.stop_reason_ is StopReason.INTERRUPTED:
        raise KeyboardInterrupt
    if model.stop_reason_ is StopReason.MEMORY:
        raise MemoryError(
            f"memory_limit={model.memory_limit!r} ended a fit with {described(setting)} before it was over, and half a fit is "
            "not to be scored; give more memory, or leave such settings out of the search."
        )
    prediction = predict_rows(model, problem.X[held])
    held_weights = None if data.weights is None else data.weights[held]
    if prediction.classes is not None:
        return log_loss_of(problem.y[held], prediction, held_weights)
    if prediction.order_only:
        return 1 - concordance_index(problem.y[held], prediction.values)
    return float(mean_squared_error(problem.y[held], prediction.values, sample_weight=held_weights))
