"""Davis, setting 1: one `kronsgd train` command beside Kronecker kernel ridge with the same kernels.

    KRONSGD_DATA=... python -m benchmarks.run davis

The command cross-validates output_scale over the five training folds, trains on all five and scores the fixed test list. The
ridge's penalty is chosen on the same folds. RUN=folder takes a finished run of that command instead of training again.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.common import data_folder, report
from kronsgd.compare import folds_of_problem
from kronsgd.compare.kernel_methods import KroneckerRidge
from kronsgd.compare.selection import chosen_setting
from kronsgd.datasets import load_davis
from kronsgd.metrics import aupr_score, concordance_index, rm2_score

PENALTIES = (0.03, 0.1, 0.3, 1.0)


def scores(name: str, y: Any, p: Any, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    return {"model": name, "MSE": float(np.mean((p - y) ** 2)), "CI": concordance_index(y, p),
            "r_m²": rm2_score(y, p, squared=True), "AUPR": aupr_score(y, p), "seconds": round(seconds)}  # fmt: skip


def ridge_row(problem: Any) -> dict[str, Any]:
    """Penalty by five-fold cross-validation on the training rows, then all of them."""
    (fold,) = folds_of_problem(problem, n_inner=len(problem.folds))
    method, started = KroneckerRidge(settings=[{"penalty": penalty} for penalty in PENALTIES]), time.perf_counter()
    best = chosen_setting(method, fold)
    (prediction,) = method.predict(fold, [best], 0)
    name = f"Kronecker kernel ridge, same kernels (penalty {best['penalty']:g}, cross-validated)"
    return scores(name, problem.y_test, prediction.values, time.perf_counter() - started)


def main() -> None:
    """kronsgd and ridge on the test list."""
    folder = data_folder("davis")
    problem = load_davis(folder)
    rows = [ridge_row(problem)]
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(os.environ.get("RUN", Path(scratch) / "davis"))
        if "RUN" not in os.environ:
            config = Path(__file__).with_name("davis.toml")
            command = [sys.executable, "-m", "kronsgd", "train", str(config), "--data", str(folder), "--out", str(run)]
            subprocess.run(command, check=True)
        metrics = json.loads((run / "metrics.json").read_text())
        search = json.loads((run / "search.json").read_text())
        table = np.genfromtxt(run / "predictions.csv", delimiter=",", names=True)
    y, p = table[table.dtype.names[-2]], table[table.dtype.names[-1]]
    np.testing.assert_allclose(y, problem.y_test, rtol=1e-4)
    rows.append(scores("kronsgd train benchmarks/davis.toml (all five folds)", y, p, metrics["seconds"]))
    tried = "; ".join(f"{r['setting']}: {r['mean']:.4f}" for r in search["results"])
    note = f"Seconds: ridge with its search, kronsgd without. MSE on {search['n_folds']} held-out training folds: {tried}."
    report("davis", "Davis setting 1, hyper-parameters chosen on the training folds, fixed test list", rows, note)  # fmt: skip
