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
from scipy.sparse.linalg import LinearOperator, cg

from benchmarks.common import data_folder, report
from kronsgd.datasets import load_davis
from kronsgd.metrics import aupr_score, concordance_index, rm2_score

PENALTIES = (0.03, 0.1, 0.3, 1.0)


def scores(name: str, y: Any, p: Any, seconds: float) -> dict[str, Any]:
    """One row of the table."""
    return {"model": name, "MSE": float(np.mean((p - y) ** 2)), "CI": concordance_index(y, p),
            "r_m²": rm2_score(y, p, squared=True), "AUPR": aupr_score(y, p), "seconds": round(seconds)}  # fmt: skip


def ridge(drugs: Any, proteins: Any, train: Any, y: Any, test: Any, penalty: float) -> Any:
    """Kernel ridge on pairs by conjugate gradients: a product with the pair kernel is two small matrix products."""
    (i, j), (u, v) = train, test
    mean = y.mean()

    def product(coefficients: Any) -> Any:
        grid = np.zeros((len(drugs), len(proteins)))
        grid[i, j] = coefficients
        return (drugs @ grid @ proteins)[i, j] + penalty * coefficients

    a, _ = cg(LinearOperator((len(y), len(y)), matvec=product), y - mean, rtol=1e-6, maxiter=2000)
    grid = np.zeros((len(drugs), len(proteins)))
    grid[i, j] = a
    return (drugs @ grid @ proteins)[u, v] + mean


def ridge_row(problem: Any) -> dict[str, Any]:
    """Penalty by five-fold cross-validation on the training rows, then all of them."""
    drug, protein = problem.X.leaves()
    test_drug, test_protein = problem.X_test.leaves()
    started, y = time.perf_counter(), problem.y
    errors = []
    for penalty in PENALTIES:
        error = []
        for held in problem.folds:
            kept = np.setdiff1d(np.arange(len(y)), held)
            train, test = (drug.index[kept], protein.index[kept]), (drug.index[held], protein.index[held])
            error.append(np.mean((ridge(drug.gram, protein.gram, train, y[kept], test, penalty) - y[held]) ** 2))
        errors.append(np.mean(error))
    best = PENALTIES[int(np.argmin(errors))]
    pairs, new = (drug.index, protein.index), (test_drug.index, test_protein.index)
    p = ridge(drug.gram, protein.gram, pairs, y, new, best)
    name = f"Kronecker kernel ridge, same kernels (penalty {best:g}, cross-validated)"
    return scores(name, problem.y_test, p, time.perf_counter() - started)


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
