"""Several ranks on this machine: processes forked from one that has imported everything, joined by gloo."""

from __future__ import annotations

import errno
import logging
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from datetime import timedelta
from itertools import pairwise
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.linear_model import Ridge

import kronsgd as ks
from kronsgd.parallel import threads

PATIENCE = timedelta(seconds=90)  # with a rank that says nothing: a test fails where it would hang


def on_ranks(size: int, work: Callable[..., Any], *args: Any, n_threads: int = 1) -> list[Any]:
    """What `work(*args)` returns on each rank; an exception there is returned as it is."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["helpers.ranks", "torch.distributed", "kronsgd.distributed"])
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(size, context) as pool:
        calls = [pool.submit(_rank, rank, size, f"{folder}/store", n_threads, work, args) for rank in range(size)]
        return [call.result(timeout=120) for call in calls]


def _rank(rank: int, size: int, store: str, n_threads: int, work: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=size, timeout=PATIENCE)
    try:
        with threads(n_threads):
            return work(*args)
    except Exception as error:
        return error
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def problem(n: int = 400, n_left: int = 20, n_right: int = 24, dims: tuple[int, int] = (5, 4)) -> tuple[Any, np.ndarray]:
    """Pairs of two tables and a target that both sides make: (X, y)."""
    rng = np.random.default_rng(0)
    left, right = rng.normal(size=(n_left, dims[0])), rng.normal(size=(n_right, dims[1]))
    i, j = rng.integers(n_left, size=n), rng.integers(n_right, size=n)
    X = (1 + ks.Dense(left)[i]) * (1 + ks.Dense(right)[j])
    return X, left[i, 0] * right[j, 0] + 0.1 * rng.normal(size=n)


def estimator(params: dict[str, Any]) -> Any:
    """A small regressor, or classifier where params say so."""
    params = {"n_hidden": 200, "max_iter": 4, "random_state": 0, "engine": "scan", **params}
    return (ks.KronClassifier if params.pop("classes", False) else ks.KronRegressor)(**params)


def targets(y: np.ndarray, params: dict[str, Any]) -> np.ndarray:
    """Numbers, or the classes they fall into."""
    return np.digitize(y, [-0.5, 0.5]) if params.get("classes") else y


def all_trained(cases: dict[str, dict[str, Any]], folder: str) -> dict[str, Any]:
    """Train over the ranks with each of some parameters, save, and say what came out."""
    from kronsgd.distributed import Distributed

    (X, y), out = problem(), {}
    for name, params in cases.items():
        model = Distributed(estimator(params)).fit(X, targets(y, params))
        out[name] = {
            "predicted": model.predict(X[:50]), "score": model.score(X, targets(y, params)),
            "history": model.estimator_.history_, "neurons": len(model.estimator_.output_weights_),
            "whole": model.gather() is not None,
        }  # fmt: skip
        model.save(f"{folder}/{name}.kron")
    return out


PARTS = (0, 40, 41, 42, 180, 181, 400)  # of a stream: passes of several steps, and single ones


def streamed(model: Any, X: Any, y: np.ndarray, **how: Any) -> Any:
    """The model after a stream of rows, some of them of entities that come later."""
    for start, stop in pairwise(PARTS):
        model.partial_fit(X[start:stop], y[start:stop], **how)
        model.predict(X[:3])  # which must not move it
    return model


def streams_trained(cases: dict[str, dict[str, Any]], folder: str) -> list[int]:
    """Train on a stream over the ranks with each of some parameters, and save; the rows that each model knows."""
    from kronsgd.distributed import Distributed

    (X, y), n_rows = problem(), []
    for name, params in cases.items():
        model = streamed(Distributed(estimator(params)), X, y)
        model.save(f"{folder}/{name}.kron")
        n_rows.append(model.estimator_.features_.n_rows)
    return n_rows


def bytes_per_step(params: dict[str, Any], sizes: dict[str, Any]) -> list[int]:
    """The bytes that each of some training steps sends."""
    from kronsgd.distributed import TorchExchange
    from kronsgd.engines import ENGINES
    from kronsgd.losses import LOSSES
    from kronsgd.network import Part, TwoLayer
    from kronsgd.training import train_step

    X, y = problem(**sizes)
    exchange = TorchExchange()
    network = Part.on_rank(TwoLayer(threshold=1.5, **params), exchange)
    engine = ENGINES["scan"]
    state, sent = engine.initialize(network, X), [0]
    for k in range(3):
        rows = np.arange(64 * k, 64 * (k + 1))
        train_step(engine, state, LOSSES["squared"], rows, y[rows, None], np.ones(64), 10.0, 0.0)
        sent.append(exchange.n_sent)
    return np.diff(sent).tolist()


def gathered(n_blocks: int) -> tuple[np.ndarray, list[float], int]:
    """What each rank gets where every block gives its number, and every rank its own and a one; calls made meanwhile."""
    from kronsgd.distributed import TorchExchange

    exchange = TorchExchange()
    own = np.arange(*exchange.share(n_blocks), dtype=np.float32)
    calls: list[None] = []
    blocks, numbers = exchange.gather(np.tile(own[:, None], (2, 1, 3)), 1, [exchange.rank, 1], lambda: calls.append(None))
    return blocks, numbers, len(calls)


def early(folder: str) -> tuple[bool, list[float]]:
    """(whether rank 0 works before rank 1 has sent anything, what is gathered after both have failed meanwhile)."""
    from kronsgd.distributed import TorchExchange

    exchange, sign = TorchExchange(), Path(folder) / "rank 0 works"
    part, own = np.ones((1, 1, 3), dtype=np.float32), [1.0]
    exchange.share(2)
    if exchange.rank == 1:
        until = time.monotonic() + 60
        while not sign.exists() and time.monotonic() < until:
            time.sleep(0.01)
    seen = sign.exists()
    exchange.gather(part, 1, own, sign.touch if exchange.rank == 0 else lambda: None)

    def fail() -> None:
        raise ValueError("meanwhile")

    time.sleep(0.3 * exchange.rank)  # rank 0 has failed before rank 1 is there
    with suppress(ValueError):
        exchange.gather(part, 1, own, fail)
        raise AssertionError("the failure was lost")
    return exchange.rank == 0 or seen, exchange.gather(np.tile(part, 64), 1, [exchange.rank + 1])[1]


def refused(params: dict[str, Any], other: str = "", call: str = "fit") -> Any:
    """Fit what must be refused; on rank 1 "other data" or "other parameters", if asked for."""
    import torch.distributed as dist

    from kronsgd.distributed import Distributed

    X, y = problem()
    if other == "other data" and dist.get_rank() == 1:
        y = y + 1
    if other == "other parameters" and dist.get_rank() == 1:
        params = {**params, "alpha": 0.5}
    return getattr(Distributed(estimator(params)), call)(X, y)


def interrupted(path: str) -> tuple[str, int]:
    """Rank 1 is told to stop by Ctrl-C in the middle of training."""
    import torch.distributed as dist

    from kronsgd.distributed import Distributed

    if dist.get_rank() == 1:
        threading.Thread(target=lambda: (time.sleep(1.0), os.kill(os.getpid(), signal.SIGINT)), daemon=True).start()
    X, y = problem()
    model = Distributed(estimator({"max_iter": 100_000, "n_iter_no_change": 100_000, "learning_rate_init": 10.0})).fit(X, y)
    model.save(path)
    return model.estimator_.stop_reason_.name, model.estimator_._exchange.n_gathers


def outgrown() -> tuple[str, int]:
    """Rank 1 has memory for fewer coefficients than it comes to."""
    import torch.distributed as dist

    from kronsgd.distributed import Distributed
    from kronsgd.planner import Plan

    if dist.get_rank() == 1:
        Plan.most_coefficients = lambda self, engine: 2000.0  # type: ignore[method-assign]
    X, y = problem()
    model = Distributed(estimator({"max_iter": 30, "tol": 0.0, "n_iter_no_change": 30})).fit(X, y)
    return model.estimator_.stop_reason_.name, model.estimator_._exchange.n_gathers


def checkpointed(params: dict[str, Any], folder: str, path: str, n_saves: int = 0) -> Any:
    """Fit with a checkpoint every 7 steps, and end after so many of them (0: never); save at the end."""
    from kronsgd.distributed import Distributed
    from kronsgd.training import Keeper

    save, count = Keeper.save, [0]

    def ending(self: Any, position: Any) -> None:
        save(self, position)
        count[0] += 1
        if count[0] == n_saves:
            raise InterruptedError("the process is gone")

    Keeper.save = ending  # type: ignore[method-assign]
    try:
        X, y = problem()
        Distributed(estimator(params)).fit(X, y, checkpoint=ks.Checkpoint(folder, steps=7)).save(path)
    finally:
        Keeper.save = save  # type: ignore[method-assign]
    return count[0]


def full_disk(folder: str) -> Any:
    """Rank 1 cannot write its shard; every rank must hear of it, and none may wait for another."""
    import torch.distributed as dist

    from kronsgd.training import shardfile

    def full(file: Any, data: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if dist.get_rank() == 1:
        shardfile.write = full
    return checkpointed({}, folder, "never")


LINGERS = 4.0  # seconds that a rank lives on after an error of its own


def failing_alone(kind: type[BaseException]) -> list[tuple[str, float]]:
    """Rank 1 meets an error in the middle of training, catches it and lives on. What a rank hears of two fits, and when."""
    import torch.distributed as dist

    from kronsgd.distributed import Distributed
    from kronsgd.training import loop

    (X, y), rank, step, count = problem(), dist.get_rank(), loop.train_step, [0]

    def failing(*args: Any) -> Any:
        count[0] += 1
        if rank == 1 and count[0] == 5:
            raise kind("of rank 1 alone")
        return step(*args)

    heard, loop.train_step = [], failing
    try:
        for _ in range(2):
            try:
                Distributed(estimator({})).fit(X, y)
            except BaseException as error:
                heard.append((f"{type(error).__name__}: {error}", time.time()))
            time.sleep(LINGERS if rank == 1 and len(heard) == 1 else 0.0)
    finally:
        loop.train_step = step
    return heard


def failing_to_save(subgroup: bool) -> list[tuple[str, float]]:
    """Rank 0 has no memory to write a model, catches it and lives on. What a rank hears of two attempts, and when."""
    import torch.distributed as dist

    from kronsgd.distributed import Distributed
    from kronsgd.estimators import KronEstimator

    def failing(self: Any, path: Any) -> None:
        raise MemoryError("of rank 0 alone")

    rank, group, (X, y), heard = dist.get_rank(), dist.new_group([0, 1]) if subgroup else None, problem(), []
    model, save = Distributed(estimator({"max_iter": 1}), group=group).fit(X, y), KronEstimator.save
    KronEstimator.save = failing  # type: ignore[method-assign]
    try:
        for call in (lambda: model.save("m.kron"), lambda: model.predict(X[:3])):
            try:
                call()
            except Exception as error:
                heard.append((f"{type(error).__name__}: {error}", time.time()))
            time.sleep(LINGERS if rank == 0 and len(heard) == 1 else 0.0)
    finally:
        KronEstimator.save = save  # type: ignore[method-assign]
    return heard


def said(params: dict[str, Any]) -> list[str]:
    """What the library logs while it trains."""
    from kronsgd.distributed import Distributed

    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("kronsgd")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    X, y = problem()
    Distributed(estimator(params)).fit(X, y)
    return lines


def mishandled(path: str) -> list[str]:
    """What goes wrong with a fitted model, and what it says."""
    from kronsgd.distributed import Distributed

    X, y = problem()
    model, said = Distributed(estimator({})), []
    for call in (
        lambda: Distributed(Ridge()).fit(X, y), lambda: model.save(path), lambda: model.fit(X, y).save(f"{path}/none/m.kron"),
        lambda: model.estimator_.save(path), lambda: model.rank, lambda: model.predict(X[:3]),
    ):  # fmt: skip
        try:
            call()
            said.append("")
        except Exception as error:
            said.append(f"{type(error).__name__}: {error}")
    assert len(model.history_) == model.n_iter_ > 0
    return said


def folded() -> float:
    """What ranks add up to that each have two of numbers whose sum depends on the order."""
    from kronsgd.distributed import TorchExchange

    exchange = TorchExchange()
    own = [np.array([1.0, 3.0]), np.array([1e17, -1e17]), np.array([5.0, 7.0])][exchange.rank]
    return float(exchange.fold(own[:, None])[0])
