"""Batches of one row and of four: the tree engine beside the scan and eager engines and the paper's updates, in one run.

    KRONSGD_DATA=... python -m benchmarks.run tree_speed
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import data_folder, report, target
from benchmarks.eager import EagerTwin
from benchmarks.problems import Training, automatic, cycle
from kronsgd.datasets import load_davis, load_mnist
from kronsgd.engines import ScanEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.parallel import threads
from kronsgd.training import auto_learning_rate

N, M = 12288, 16384
STEPS, ROUNDS = 60, 5  # of each engine, before the next has its turn: caches hold one engine's data at a time, as in a training
USUAL = 64  # rows of the batch whose automatic step is taken, shared out over its rows
CASES = ((1, None, 0.1), (1, None, 1.0), (1, 2.5, 0.1), (4, None, 0.1))  # batch, threshold, share of that step
LEAST = {1: 10.0, 4: 3.0}  # times as fast as the scan engine, by batch


def teacher() -> tuple[ks.Features, Any]:
    """Pairs of 256 entities each, with 64 columns, labelled by four products of linear functions."""
    rng = np.random.default_rng(0)
    tables = [rng.standard_normal((256, 64)).astype(np.float32) for _ in range(2)]
    i, j = rng.integers(256, size=(2, N))
    u, v = (table @ rng.standard_normal((64, 4)) for table in tables)
    return ks.Dense(tables[0])[i] * ks.Dense(tables[1])[j], (u[i] * v[j]).sum(axis=1)


def davis() -> tuple[ks.Features, Any]:
    """The first training pairs of Davis."""
    problem = load_davis(data_folder("davis"))
    return problem.X[np.arange(N)], problem.y[:N]


def mnist() -> tuple[ks.Features, Any]:
    """Centred digits x ⊗ x; even against odd."""
    problem = load_mnist(data_folder("mnist"), N)
    return problem.X, problem.y % 2


PROBLEMS: dict[str, Callable[[], tuple[ks.Features, Any]]] = {"planted pairs": teacher, "Davis": davis, "MNIST": mnist}


def rate_of(X: ks.Features, network: TwoLayer) -> float:
    """The automatic step of usual batches, for each row."""
    engine = ScanEngine()
    return auto_learning_rate(engine, engine.initialize(network, X), LOSSES["squared"], USUAL, np.ones(N)) / USUAL


def in_turns(contestants: dict[str, Callable[[Any], Any]], batches: Iterator[Any]) -> dict[str, float]:
    """Median seconds of a step; every engine takes the same STEPS batches before it is the next one's turn."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(ROUNDS):
        chosen = [next(batches) for _ in range(STEPS)]
        for name, step in contestants.items():
            for k, rows in enumerate(chosen):
                started = time.perf_counter()
                step(rows)
                times[name] += [time.perf_counter() - started] if k >= STEPS // 4 else []  # the first ones fill the caches
    return {name: float(np.median(seconds)) for name, seconds in times.items()}


def measure(name: str, batch: int, threshold: float | None, share: float) -> dict[str, Any]:
    """A first epoch by the tree engine, whose state the others then take over, and by the eager twin; then steps in turns."""
    X, y = PROBLEMS[name]()
    y = ((y - y.mean()) / y.std())[:, None]
    network = automatic(M) if threshold is None else TwoLayer(M, threshold=threshold)
    rate = share * batch * rate_of(X, network)
    tree, twin = Training(X, y, network, batch, rate, "tree"), EagerTwin(X, y, network, batch, rate)
    for rows in islice(cycle(N, batch), N // batch):
        tree.step(rows)
        twin.step(rows)
    tree.engine.begin_epoch(tree.state)
    scan, eager = (Training(X, y, network, batch, rate, engine) for engine in ("scan", "eager"))
    for other in (scan, eager):
        other.engine.restore(other.state, tree.engine.arrays(tree.state))
    tree.n_fired = tree.n_seen = 0
    contestants = {"tree": tree.step, "scan": scan.step, "eager": eager.step, "eager twin": twin.step}
    seconds = in_turns(contestants, cycle(N, batch, seed=1))
    mine, its = (t.engine.arrays(t.state) for t in (tree, scan))
    assert all(np.array_equal(mine[key], its[key]) for key in its if key != "slice_bits"), "the engines disagree"
    ratio = seconds["scan"] / seconds["tree"]
    return {
        "problem": name, "batch": batch, "b": network.threshold, "step": f"{share:g} × auto", "fired %": 100 * tree.fired,
        "evaluated %": evaluated(tree), **{f"{key}, ms": 1e3 * s for key, s in seconds.items()},
        "scan / tree": ratio, "target": target(ratio, at_least=LEAST[batch]) if share < 1 else "",
        "eager / tree": seconds["eager"] / seconds["tree"],
        "eager twin / tree": seconds["eager twin"] / seconds["tree"], "tree, MiB": sum(a.nbytes for a in mine.values()) / 2**20,
        "eager, MiB": twin.bytes / 2**20,
    }  # fmt: skip


def evaluated(tree: Training) -> float | str:
    """Percent of the pairs that were evaluated since the last look; all of them once the engine has given up pruning."""
    if tree.state.movement is None:
        return "all"
    _, rows, pairs, _, _ = tree.state.counts
    return 100 * float(pairs) / max(float(rows), 1.0) / M


def main() -> None:
    """Each problem at the automatic threshold and at a higher one, with small steps and with the automatic one."""
    with threads():
        rows = [measure(name, *case) for name in PROBLEMS for case in CASES]
    report("tree_speed", "Small batches: evaluating only what can fire", rows,
           f"n = {N:,}, m = {M:,}, γ = 1, squared loss, whole steps after a first epoch; auto: a row's share of the automatic "
           f"step of batches of {USUAL}. Each engine takes {STEPS} steps before the next has its turn. Tree and scan end with "
           "the same bits; the eager twin, which does nothing but update stored inner products, is checked against scan by "
           "`paper.eager`. Memory: what training has changed, and stored inner products.")  # fmt: skip
