"""A million pairs on one machine: seconds and peak memory of the grid and of the scan engine, beside what the planner counts.

    python -m benchmarks.million grid       # one engine in this process, as the benchmark runs it in one of its own
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest.mock
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import commit, report
from kronsgd.estimators.planning import planned
from kronsgd.planner.memory import peak_bytes
from kronsgd.training import loop, train_step

ENTITIES, COLUMNS, PAIRS, NEURONS = 2000, 128, 1_000_000, 1024
TEST, SECONDS = 20_000, 150.0  # rows held back; of steps of the scan engine, whose whole epoch takes longer
DIRECTIONS, NOISE = 4, 0.3  # of the planted interaction


def write_tables(folder: Path, entities: int = ENTITIES) -> None:
    """Two tables of unit-norm Gaussian entities, to be mapped."""
    rng = np.random.default_rng(0)
    for name in ("drugs", "proteins"):
        table = rng.standard_normal((entities, COLUMNS), dtype=np.float32)
        np.save(folder / f"{name}.npy", table / np.linalg.norm(table, axis=1, keepdims=True))


def pairs(folder: Path, n: int, entities: int = ENTITIES) -> tuple[ks.Features, Any]:
    """n different pairs of all, and what a few directions of both tables say about them, with noise. Targets: variance 1."""
    rng = np.random.default_rng(1)
    tables = [np.load(folder / f"{name}.npy", mmap_mode="r") for name in ("drugs", "proteins")]
    cells = rng.permutation(entities**2)[:n]
    i, j = np.divmod(cells, entities)
    a, b = (np.tanh(2 * np.sqrt(COLUMNS) * t[:, :DIRECTIONS].astype(np.float64)) for t in tables)
    y = (a[i] * b[j]).sum(axis=1)
    y = y / y.std() + NOISE * rng.standard_normal(n)
    drugs, proteins = (ks.Dense(table) for table in tables)
    return drugs[i] * proteins[j], y / y.std()


def memory(what: str) -> float:
    """VmRSS: memory that this process has now; VmHWM: the most it has had. In GiB, Linux only."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(what))
    return int(line.split()[1]) / 2**20


def timed(function: Any, *arguments: Any) -> tuple[Any, float]:
    """(what it returns, seconds)."""
    started = time.perf_counter()
    return function(*arguments), time.perf_counter() - started


def run_grid(X: ks.Features, y: Any, n_hidden: int = NEURONS, seconds: float = SECONDS, test: int = TEST) -> dict[str, Any]:
    """One epoch of `fit`, all of it. Memory includes nothing but the fit."""
    model, base = ks.KronRegressor(n_hidden, engine="grid", max_iter=1, random_state=0), memory("VmRSS")
    train = X[test:]
    plan, planning = timed(lambda: ks.plan(train, n_hidden, engine="grid", max_iter=1))
    _, fitting = timed(model.fit, train, y[test:])
    used = memory("VmHWM") - base
    steps = next(cost.steps for cost in [model.plan_.costs["grid"]])
    score, scoring = timed(model.score, X[:test], y[:test])
    done, planned_gib = model.history_[0], plan.costs["grid"].memory / 2**30
    return {
        "engine": "grid", "steps": steps, "epoch s": done["seconds"], "set-up and diverged steps s": fitting - done["seconds"],
        "planning s": planning, "planned s": plan.costs["grid"].epoch_seconds, "α %": 100 * model.plan_.problem.alpha,
        "fired %": 100 * done["fired"], "memory GiB": used, "planned GiB": planned_gib,
        "planned at the measured density": model.plan_.costs["grid"].memory / 2**30, "test R²": score,
        f"seconds to predict {test:,}": scoring,
    }  # fmt: skip


def run_scan(X: ks.Features, y: Any, n_hidden: int = NEURONS, seconds: float = SECONDS, test: int = TEST) -> dict[str, Any]:
    """`fit`, with the automatic step size, interrupted after some seconds of its steps."""
    model, base = ks.KronRegressor(n_hidden, engine="scan", max_iter=1, random_state=0), memory("VmRSS")
    train = X[test:]
    plan, planning = timed(lambda: ks.plan(train, n_hidden, engine="scan", max_iter=1))
    ends: list[float] = []
    losses, fired = [], 0

    def step(*arguments: Any) -> tuple[float, int]:
        nonlocal fired
        if not ends:
            ends.append(time.perf_counter())
        loss, n_fired = train_step(*arguments)
        ends.append(time.perf_counter())
        losses.append(loss / 64)
        fired += n_fired
        if ends[-1] - ends[0] > seconds:
            os.kill(os.getpid(), signal.SIGINT)
        return loss, n_fired

    with unittest.mock.patch.object(loop, "train_step", step):
        started = time.perf_counter()
        model.fit(train, y[test:])
    used, times = memory("VmHWM") - base, np.diff(ends)
    density = model.state_.coefficients.nnz / (train.n_rows * n_hidden)
    problem = replace(planned(model, model.state_.network, train).problem, alpha=density, alpha_last=density)
    tenth, n_steps = max(len(times) // 10, 1), -(-train.n_rows // 64)
    return {
        "engine": "scan", "steps": len(times), "epoch s": float(np.mean(times)) * n_steps, "set-up s": ends[0] - started,
        "planning s": planning, "planned s": plan.costs["scan"].epoch_seconds,
        "first steps ms": 1e3 * float(np.median(times[:tenth])), "last steps ms": 1e3 * float(np.median(times[-tenth:])),
        "α %": 100 * density, "share of the epoch": len(times) / n_steps,
        "fired %": 100 * fired / (len(times) * 64 * n_hidden), "loss, first to last tenth":
        f"{np.mean(losses[:tenth]):.3f} → {np.mean(losses[-tenth:]):.3f}", "memory GiB": used,
        "planned GiB": plan.costs["scan"].memory / 2**30,
        "planned at the measured density": peak_bytes("scan", problem)[0] / 2**30,
    }  # fmt: skip


ENGINES = {"grid": run_grid, "scan": run_scan}


def alone(engine: str, n: int = PAIRS, entities: int = ENTITIES, n_hidden: int = NEURONS, seconds: float = SECONDS) -> Any:
    """One engine's measurement. A small problem comes first, so that code is loaded and threads are started."""
    with tempfile.TemporaryDirectory() as name:
        small, large = Path(name, "small"), Path(name, "large")
        for folder, size in ((small, 60), (large, entities)):
            folder.mkdir()
            write_tables(folder, size)
        ENGINES[engine](*pairs(small, 2000, 60), 64, 1.0, 100)
        return ENGINES[engine](*pairs(large, n + TEST, entities), n_hidden, seconds)


def main() -> None:
    """Each engine in a process of its own."""
    rows = []
    for engine in ENGINES:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.million", engine], capture_output=True, text=True, check=True
        )
        rows.append(json.loads(done.stdout.splitlines()[-1]))
    report(
        "million", f"A million pairs of {ENTITIES:,} × {ENTITIES:,} entities, {NEURONS:,} neurons, one machine ({commit()})",
        [{"what": w, **{row["engine"]: row.get(w, "") for row in rows}} for w in dict.fromkeys(w for row in rows for w in row)],
        f"The scan engine is timed on its first {SECONDS:.0f} seconds of steps: its whole epoch would be longer than the mean "
        "of them says, for α grows until every row was seen.",
    )  # fmt: skip


if __name__ == "__main__":
    print(json.dumps(alone(sys.argv[1], *map(int, sys.argv[2:]))))
