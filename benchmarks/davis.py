"""Davis, setting 1: kronsgd beside Kronecker kernel ridge with the same kernels, both tuned on the training folds.

    KRONSGD_DATA=... python -m benchmarks.run davis

Similarities are added up one kind after the other, each kept where ridge's error on held-out training folds falls. `kronsgd
train benchmarks/davis.toml` then cross-validates its step, trains on all five folds and scores the fixed test list. The
five-fold rows train on four folds each and score the same test list: mean (standard deviation). RUN=folder takes a finished
run of that command instead of training again; SEEDS is the number of networks in the averaged rows.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import data_folder, report
from kronsgd.datasets import load_davis
from kronsgd.metrics import aupr_score, concordance_index, rm2_score
from kronsgd.ridge import pair_ridge
from kronsgd.tuning import compare_features

PENALTIES = (0.05, 0.1, 0.2)
TOML = Path(__file__).with_name("davis.toml")
KINDS = {"fingerprints": (0.5, 1.0, 2.0), "names": (0.1, 0.2, 0.4)}
SEEDS = int(os.environ.get("SEEDS", "3"))


def scores(y: Any, p: Any) -> dict[str, float]:
    """What is reported of one prediction."""
    return {"MSE": float(np.mean((p - y) ** 2)), "CI": concordance_index(y, p), "r_m²": rm2_score(y, p, squared=True),
            "AUPR": aupr_score(y, p)}  # fmt: skip


def row(name: str, trained_on: str, each: list[dict[str, float]], seconds: float) -> dict[str, Any]:
    """One row of the table: mean (standard deviation) where there are several predictions."""
    out: dict[str, Any] = {"model": name, "trained on": trained_on}
    for key in each[0]:
        values = [one[key] for one in each]
        out[key] = values[0] if len(values) == 1 else f"{np.mean(values):.4f} ({np.std(values):.4f})"
    return out | {"seconds": round(seconds)}


def choose(folder: Path, folds: Any) -> tuple[dict[str, float], str]:
    """(loader options, the way there): each kind of similarity in turn, at the weight with the least error."""
    chosen: dict[str, float] = {}
    base = load_davis(folder)
    best = compare_features({0.0: base.X}, base.y, folds, PENALTIES)[0.0]
    way = [f"similarities alone {best.error:.4f}"]
    for kind, weights in KINDS.items():
        candidates = {weight: load_davis(folder, **chosen, **{kind: weight}).X for weight in weights}
        weight, score = next(iter(compare_features(candidates, base.y, folds, PENALTIES).items()))
        way.append(f"+ {weight:g} {kind} {score.error:.4f}")
        if score.error < best.error:
            chosen[kind], best = float(weight), score
    return chosen, ", ".join(way)


def ridge_rows(name: str, problem: Any, penalty: float) -> list[dict[str, Any]]:
    """Four folds at a time, and all five."""
    started, each = time.perf_counter(), []
    for train in [*map(problem.training_rows, range(len(problem.folds))), np.arange(len(problem.y))]:
        seconds = time.perf_counter() - started  # in the end: of all but the last fit
        (p,) = pair_ridge(problem.X[train], problem.y[train, None], problem.X_test, [penalty])
        each.append(scores(problem.y_test, p[:, 0]))
    *each, all_rows = each
    return [row(name, "4 folds, five times", each, seconds), row(name, "5 folds", [all_rows], seconds / 5)]


def network(problem: Any, train: Any, seed: int, params: dict[str, Any]) -> Any:
    """Predictions of the test list by one network."""
    model = ks.KronRegressor(**{**params, "random_state": seed}).fit(problem.X[train], problem.y[train])
    return model.predict(problem.X_test)


def network_rows(problem: Any, params: dict[str, Any], first: Any) -> list[dict[str, Any]]:
    """Four folds at a time, and averages over seeds; `first`: predictions of the network on all folds."""
    started = time.perf_counter()
    y, n_folds = problem.y_test, len(problem.folds)
    several = [[network(problem, problem.training_rows(k), seed, params) for seed in range(SEEDS)] for k in range(n_folds)]
    seconds = time.perf_counter() - started
    started, whole = time.perf_counter(), [first]
    whole += [network(problem, np.arange(len(problem.y)), seed, params) for seed in range(1, SEEDS)]
    name = f"kronsgd, mean of {SEEDS} networks"
    return [
        row("kronsgd", "4 folds, five times", [scores(y, each[0]) for each in several], seconds / SEEDS),
        row(name, "4 folds, five times", [scores(y, np.mean(each, axis=0)) for each in several], seconds),
        row("kronsgd, each of these networks", "5 folds", [scores(y, p) for p in whole], time.perf_counter() - started),
        row(name, "5 folds", [scores(y, np.mean(whole, axis=0))], time.perf_counter() - started),
    ]


def command(folder: Path) -> tuple[dict[str, Any], Any, Any, Any]:
    """(configuration, search, metrics, predictions) of `kronsgd train benchmarks/davis.toml`."""
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(os.environ.get("RUN", Path(scratch) / "davis"))
        if "RUN" not in os.environ:
            line = [sys.executable, "-m", "kronsgd", "train", str(TOML), "--data", str(folder), "--out", str(run)]
            subprocess.run(line, check=True)
        texts = [(run / name).read_text() for name in ("search.json", "metrics.json")]
        table = np.genfromtxt(run / "predictions.csv", delimiter=",", names=True)
        config = tomllib.loads((run / "config.toml").read_text())
    return config, *map(json.loads, texts), table


def main() -> None:
    """kronsgd and ridge on the test list."""
    folder = data_folder("davis")
    plain = load_davis(folder)
    before = compare_features({"": plain.X}, plain.y, plain.folds, PENALTIES)[""]
    rows = ridge_rows(f"Kronecker ridge, similarities alone (penalty {before.penalty:g})", plain, before.penalty)
    options, way = choose(folder, plain.folds)
    written = {key: value for key, value in tomllib.loads(TOML.read_text())["data"].items() if key in KINDS}
    if options != written:
        print(f"ridge chooses {options}, but {TOML.name} has {written}: keep what it has.")
    problem = load_davis(folder, **written)
    ridge = compare_features({"": problem.X}, problem.y, problem.folds, PENALTIES)[""]
    rows += ridge_rows(f"Kronecker ridge, kronsgd's kernels (penalty {ridge.penalty:g})", problem, ridge.penalty)
    config, search, metrics, table = command(folder)
    y, p = table[table.dtype.names[-2]], table[table.dtype.names[-1]]
    np.testing.assert_allclose(y, problem.y_test, rtol=1e-4)
    rows.append(row("kronsgd train benchmarks/davis.toml", "5 folds", [scores(problem.y_test, p)], metrics["seconds"]))
    rows += network_rows(problem, config["model"], p)
    tried = "; ".join(f"{r['setting']}: {r['mean']:.4f}" for r in search["results"])
    note = (
        f"Mean (standard deviation). Ridge's MSE on held-out training folds: {way}. kronsgd's on {search['n_folds']} of them: "
        f"{tried}. Ridge's penalties are cross-validated on the training folds, too. Seconds: without the search."
    )
    report("davis", "Davis setting 1, hyper-parameters chosen on the training folds, fixed test list", rows, note)
