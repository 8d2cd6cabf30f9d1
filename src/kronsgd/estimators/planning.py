"""Plans of estimators: before they are fitted, and with what fitting has measured."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from kronsgd.exchange import Exchange
from kronsgd.features.base import Features
from kronsgd.features.sides import Sides
from kronsgd.network import TwoLayer
from kronsgd.planner import Plan, Schedule, make_plan
from kronsgd.training import rows_per_step
from kronsgd.training.horizon import SAMPLE

__all__ = ["engine_over_ranks", "measured_plan", "plan_to_go_on", "plan_to_train", "planned"]

OVER_RANKS = ("scan", "grid", "torch")  # engines that add up their outputs block by block; torch's bits depend on the ranks


def planned(model: Any, network: TwoLayer, features: Features, stream: bool = False, engine: str | None = None) -> Plan:
    """What fitting `model` on these rows would cost with each engine. ValueError for blocks of what has no pairs.

    stream: they are the first rows of a stream. engine: instead of the model's own.
    """
    n = features.n_rows
    block = rows_per_step(model.batch_size, n, blocks=True)
    blocks = model.batching == "blocks" or (model.batching == "auto" and model.engine == "grid")
    if model.batching == "blocks":
        Sides.of(features)  # ValueError where there are no pairs
    batch = rows_per_step(model.batch_size, n, blocks)
    probe = min(SAMPLE, n) if model.max_iter == "auto" else batch if model.learning_rate_init == "auto" else 0
    share = float(model.validation_fraction) if model.early_stopping else 0.0
    schedule = Schedule(batch, block, blocks, probe, round(n * share / (1 - share)), stream, model.max_iter == 1)
    return make_plan(
        network, features, schedule, normalize=bool(model.normalize), engine=engine or model.engine,
        memory_limit=model.memory_limit,
    )


def plan_to_train(model: Any, network: TwoLayer, features: Features, stream: bool, engine: str | None = None) -> Plan:
    """The plan whose choice to train with. engine: what "auto" became before. ValueError for one that ranks cannot use."""
    if network.exchange.shared and engine not in OVER_RANKS:
        engine = engine_over_ranks(model)
    return planned(model, network, features, stream, engine)


def plan_to_go_on(model: Any) -> Plan:
    """The plan for training a fitted model's state further. What is free comes on top of what that takes already."""
    plan = planned(model, model.state_.network, model.state_.features, engine=model.engine_)
    held = _held(model.state_, set()) if model.memory_limit == "auto" else 0
    return replace(plan, memory_limit=plan.memory_limit + held)


def _held(value: Any, seen: set[int]) -> int:
    """Bytes of the arrays that a state refers to, but for the features themselves, which plans do not count."""
    if id(value) in seen or isinstance(value, (Features, TwoLayer, Exchange)):
        return 0
    seen.add(id(value))
    if isinstance(value, np.ndarray):
        return value.nbytes if value.base is None else _held(value.base, seen)
    inside = value if isinstance(value, dict) else getattr(value, "__dict__", {})
    return sum(_held(part, seen) for part in inside.values())


def engine_over_ranks(model: Any) -> str:
    """The engine that several ranks use: the one asked for, or grid for blocks and scan for all else. ValueError for others."""
    asked = model.engine if model.engine != "auto" else "grid" if model.batching == "blocks" else "scan"
    if asked not in OVER_RANKS:
        raise ValueError(f'engine="{asked}" trains in one process; over ranks use one of {sorted(OVER_RANKS)}, or "auto".')
    return str(asked)


def measured_plan(model: Any) -> Plan:
    """The plan for the rows that a fitted `model` knows, at the densities of its last epoch."""
    state = model.state_
    plan = planned(model, state.network, state.features)
    stored = getattr(state, "coefficients", None)
    cells = state.features.n_rows if model.engine_ != "grid" or plan.problem.sides is None else plan.problem.sides[2]
    return plan.corrected(
        fired=model.history_[-1]["fired"] if model.history_ else None,
        alpha=stored.nnz / (cells * state.network.n_hidden) if stored is not None and model.history_ else None,
    )
