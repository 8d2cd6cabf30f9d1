"""One method in a process of its own, which reads its job from a file and writes what came of it to another.

A process of its own, because only a process has a peak of memory, and because a method that runs out of it or that never
ends then takes nothing else with it.
"""

from __future__ import annotations

import json
import pickle
import sys
import time
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kronsgd.compare.folds import Fold
from kronsgd.compare.methods import make_method
from kronsgd.compare.selection import Setting, chosen_setting, scores

__all__ = ["Job", "Run", "main", "peak_memory", "run"]


@dataclass(frozen=True)
class Job:
    """What a worker is told."""

    method: str
    folds: list[Fold]
    params: dict[str, Any]
    grid: list[Setting]
    seeds: int


@dataclass
class Run:
    """What a worker says. `scores`: one for each fold and seed; seconds: of a fit and its predictions, and of a search."""

    name: str
    refusal: str | None = None
    scores: list[dict[str, float]] = field(default_factory=list)
    settings: list[Setting] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    search_seconds: list[float] = field(default_factory=list)
    n_settings: int = 1
    peak_bytes: int | None = None
    own_bytes: int | None = None
    notes: list[str] = field(default_factory=list)


def run(job: Job) -> Run:
    """Choose a setting on each fold's training rows, then fit once for each seed."""
    method = make_method(job.method, job.params, job.grid)
    out = Run(method.name, n_settings=len(method.settings))
    out.refusal = next((reason for fold in job.folds if (reason := method.refusal(fold))), None)
    if out.refusal:
        return out
    before = peak_memory()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        for fold in job.folds:
            started = time.perf_counter()
            setting = chosen_setting(method, fold)
            out.search_seconds.append(time.perf_counter() - started)
            out.settings.append(setting)
            for seed in range(job.seeds if method.seeded else 1):
                started = time.perf_counter()
                (prediction,) = method.predict(fold, [setting], seed)
                out.seconds.append(time.perf_counter() - started)
                out.scores.append(scores(fold, prediction))
                if not np.isfinite(prediction.values).all():
                    out.notes.append("a prediction was not finite")
    out.notes = sorted({*out.notes, *(" ".join(str(w.message).split())[:200] for w in caught)})
    out.peak_bytes = peak_memory()
    if out.peak_bytes is not None and before is not None:
        out.own_bytes = out.peak_bytes - before
    return out


def peak_memory() -> int | None:
    """Bytes at this process's peak; None where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():  # getrusage would count what the parent had when it started us
        line = next((line for line in status.read_text().splitlines() if line.startswith("VmHWM")), None)
        return int(line.split()[1]) << 10 if line else None
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def main() -> None:
    """Run the job in the file that the first argument names, and write what came of it, as JSON, to the second."""
    job, result = sys.argv[1:3]
    with open(job, "rb") as stream:  # written by the harness itself, into a folder that only this user can read
        out = run(pickle.load(stream))
    Path(result).write_text(json.dumps(asdict(out)), encoding="utf-8")
