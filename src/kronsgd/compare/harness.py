"""Every method on the same folds, each in a process of its own, and what came of it as one table."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from kronsgd.compare.folds import Fold, folds_of_problem
from kronsgd.compare.methods import GRID, METHODS, make_method
from kronsgd.compare.selection import Setting, primary
from kronsgd.compare.worker import Job, Run
from kronsgd.datasets import Problem
from kronsgd.estimators import KronClassifier, KronRegressor
from kronsgd.validation import check_choice, check_integer, check_real

__all__ = ["Comparison", "Row", "compare"]

logger = logging.getLogger(__name__)
LABELS = {"accuracy": "accuracy", "log_loss": "log loss", "mse": "mean squared error", "r2": "R²", "pearson": "Pearson"}


@dataclass(frozen=True)
class Row:
    """One method: means and sample deviations of its scores over folds and seeds, or why it did not run."""

    name: str
    refusal: str | None
    mean: dict[str, float] = field(default_factory=dict)
    deviation: dict[str, float] = field(default_factory=dict)
    run: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """The methods from best to worst, those that did not run last."""

    name: str
    n_classes: int
    n_folds: int
    n_inner: int
    seeds: int
    n_rows: int
    features: str
    rows: list[Row]

    def cells(self) -> tuple[list[str], list[list[str]]]:
        """(header, rows) as text."""
        keys = [key for key in LABELS if any(key in row.mean for row in self.rows)]
        header = ["method", *(LABELS[key] for key in keys), "s to choose", "s a fit", "peak MiB", "of it its own"]
        return header, [[row.name, *_cells(row, keys)] for row in self.rows if row.refusal is None]

    @property
    def left_out(self) -> list[str]:
        """A sentence for each method that did not run."""
        return [f"{row.name}: {row.refusal}." for row in self.rows if row.refusal is not None]

    @property
    def how(self) -> str:
        """What was done, in sentences."""
        folds = "the set's own test rows" if self.n_folds == 1 else f"{self.n_folds} folds"
        return (
            f"{self.features}. Mean ± deviation over {folds} and {self.seeds} seeds (methods without chance: one). Every "
            f"setting is chosen on {self.n_inner} inner folds of the training rows, by {LABELS[primary(self.n_classes)[0]]}."
        )

    def markdown(self) -> str:
        """A table with its heading, and what was left out."""
        header, rows = self.cells()
        lines = [f"## {self.name}: {self.n_rows:,} rows", "", "| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
        lines += ["| " + " | ".join(row) + " |" for row in rows]
        lines += ["", self.how, ""]
        lines += [f"- Chosen by {row.name}: {_chosen(row)}" for row in self.rows if row.refusal is None]
        lines += [f"- Left out: {sentence}" for sentence in self.left_out]
        return "\n".join(lines) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """Everything, as JSON holds it."""
        return asdict(self)

    def save(self, folder: str | Path) -> tuple[Path, Path]:
        """Write comparison.json and comparison.md into a folder, which is made if it is not there."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = folder / "comparison.json", folder / "comparison.md"
        paths[0].write_text(json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        paths[1].write_text(self.markdown(), encoding="utf-8")
        return paths


def compare(
    data: Problem | Sequence[Fold], *, params: dict[str, Any] | None = None, grid: Sequence[Setting] | None = None,
    methods: Sequence[str] = METHODS, n_folds: int = 5, n_inner: int = 3, seeds: int = 3, random_state: int = 0,
    timeout: float | None = None, done: Callable[[Row], None] | None = None,
) -> Comparison:  # fmt: skip
    """Score kronsgd and what one would use instead on the same folds.

    Parameters: data: a problem, or folds of one's own (cold splits, say); params: parameters of the estimator; grid:
    settings of the estimator to choose from, the first on a tie (default: three values of output_scale); methods: names in
    METHODS; n_folds, n_inner, random_state: of random folds; seeds: fits of each method that chance plays a part in;
    timeout: seconds that a method may take in all; done: called with each row as it comes.
    Every setting is chosen on inner folds of the training rows. Each method runs in a process of its own, whose peak of
    memory is part of the result. What cannot run is listed with its reason. Raises ValueError or TypeError before any
    work on names and sizes that are wrong.
    """
    for method in methods:
        check_choice("method", method, METHODS)
    if not methods:
        raise ValueError(f"there is no method to compare; name at least one of {list(METHODS)}.")
    check_integer("seeds", seeds, 1)
    if timeout is not None:
        check_real("timeout", timeout, 0, open_low=True)
    name = data.name if isinstance(data, Problem) else "comparison"
    folds = _checked_folds(data, n_folds=n_folds, n_inner=n_inner, random_state=random_state)
    params, grid = params or {}, GRID if grid is None else list(grid)
    _check_params(folds[0], params, grid)
    rows = []
    for method in dict.fromkeys(methods):
        rows.append(_row(_in_own_process(Job(method, folds, params, grid, seeds), timeout)))
        if done is not None:
            done(rows[-1])
    first = folds[0]
    n_rows = len(first.y) + len(first.y_test)
    return Comparison(
        name, first.n_classes, len(folds), len(first.inner), seeds, n_rows, first.features[0].expression(),
        _ranked(rows, first.n_classes),
    )  # fmt: skip


def _checked_folds(data: Problem | Sequence[Fold], **how: int) -> list[Fold]:
    """Those of a problem, or those given. ValueError where there are none, or one is wrong."""
    folds = folds_of_problem(data, **how) if isinstance(data, Problem) else list(data)
    if not folds:
        raise ValueError("there is no fold to score; give at least one.")
    for fold in folds:
        fold.check()
    return folds


def _check_params(fold: Fold, params: dict[str, Any], grid: Sequence[Setting]) -> None:
    """Misspelt parameters are refused before anything is started."""
    kind = KronClassifier if fold.n_classes else KronRegressor
    for setting in [{}, *grid]:
        kind().set_params(**{**params, **setting})


def _in_own_process(job: Job, timeout: float | None) -> Run:
    name = make_method(job.method, job.params, job.grid).name
    with tempfile.TemporaryDirectory(prefix="kronsgd-compare-") as folder:
        files = [str(Path(folder) / part) for part in ("job", "result")]
        with open(files[0], "wb") as stream:
            pickle.dump(job, stream)
        command = [sys.executable, "-c", "from kronsgd.compare.worker import main; main()", *files]
        try:
            ended = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False, env=_environment())
        except subprocess.TimeoutExpired:
            return Run(name, f"it was stopped after {timeout:g} seconds")
        if ended.returncode == 0:
            return Run(**json.loads(Path(files[1]).read_text(encoding="utf-8")))
    last = (ended.stderr.strip().splitlines() or ["no message"])[-1]
    killed = ", perhaps for lack of memory" if ended.returncode < 0 else ""
    logger.warning("%s failed:\n%s", name, ended.stderr.strip())
    return Run(name, f"its process ended with code {ended.returncode}{killed} ({last.rstrip('.')[:200]})")


def _environment() -> dict[str, str]:
    """Ours, with OpenMP threads that sleep while they wait: on a busy machine boosting takes a hundred times as long else."""
    return {"OMP_WAIT_POLICY": "passive", **os.environ}


def _row(run: Run) -> Row:
    if run.refusal is not None:
        return Row(run.name, run.refusal)
    keys = [key for key in run.scores[0] if all(key in score for score in run.scores)]
    table = {key: np.array([score[key] for score in run.scores]) for key in keys}
    mean = {key: float(values.mean()) for key, values in table.items()}
    spread = {key: float(values.std(ddof=1)) if len(values) > 1 else 0.0 for key, values in table.items()}
    return Row(run.name, None, mean, spread, asdict(run))


def _ranked(rows: list[Row], n_classes: int) -> list[Row]:
    key, larger = primary(n_classes)

    def place(row: Row) -> tuple[bool, float]:
        value = row.mean.get(key, np.nan)
        worst = row.refusal is not None or not np.isfinite(value)
        return worst, 0.0 if worst else -value if larger else value

    return sorted(rows, key=place)


def _cells(row: Row, keys: list[str]) -> list[str]:
    run = row.run
    scores = [f"{row.mean[key]:.4g} ± {row.deviation[key]:.2g}" if key in row.mean else "–" for key in keys]
    memory = ["–" if run[key] is None else f"{run[key] / 2**20:.0f}" for key in ("peak_bytes", "own_bytes")]
    return [*scores, f"{np.mean(run['search_seconds']):.2f}", f"{np.mean(run['seconds']):.2f}", *memory]


def _chosen(row: Row) -> str:
    """The chosen settings, each with how often it was chosen."""
    texts = [", ".join(f"{k}={v:g}" if isinstance(v, float) else f"{k}={v}" for k, v in s.items()) or "defaults"
             for s in row.run["settings"]]  # fmt: skip
    times = [f"{text} ({texts.count(text)}×)" for text in dict.fromkeys(texts)]
    return f"{'; '.join(times)}, of {row.run['n_settings']}"
