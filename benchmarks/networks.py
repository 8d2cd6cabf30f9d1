"""Several networks trained side by side beside as many trainings one after another: what shared inner products save.

    python -m benchmarks.run networks
"""

from __future__ import annotations

from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import interleaved, report
from benchmarks.problems import random_pairs

N, M, COLUMNS, ENTITIES, NETWORKS, EPOCHS, REPETITIONS = 8192, 512, 64, 512, 5, 2, 3
CASES = (("scan", 64, 64), ("scan", 1024, 64), ("scan", 64, 8), ("grid", "auto", 64))  # engine, batch, rows' columns


def measure(engine: str, batch: Any, columns: int) -> dict[str, Any]:
    """Whole fits in turns, and whether the first of the networks is the one that is trained alone."""
    pairs = random_pairs(N, (columns, columns), ENTITIES)
    X, y = pairs.X, pairs.y[:, 0]
    options = {"engine": engine, "batch_size": batch, "max_iter": EPOCHS, "learning_rate_init": 10.0, "random_state": 0}

    def fit(n_networks: int) -> ks.KronRegressor:
        return ks.KronRegressor(M, n_networks=n_networks, **options).fit(X, y)

    alone, together = fit(1).predict(X[:256]), fit(NETWORKS).predict_members(X[:256])[0]
    difference = float(np.abs(alone - together).max() / np.abs(alone).max())
    assert difference < 1e-3, difference
    seconds = interleaved({"one": lambda: fit(1), "several": lambda: fit(NETWORKS)}, REPETITIONS, warm=0, of=np.min)
    return {
        "engine": engine, "batch": batch, "columns of a table": columns, "one network, s": seconds["one"],
        f"{NETWORKS} networks, s": seconds["several"],
        f"{NETWORKS} × one / {NETWORKS} networks": NETWORKS * seconds["one"] / seconds["several"],
    }  # fmt: skip


def main() -> None:
    """Small and large batches, and blocks."""
    rows = [measure(*case) for case in CASES]
    report("networks", f"{NETWORKS} networks side by side take less than {NETWORKS} trainings", rows,
           f"n = {N:,}, m = {M} neurons a network, {EPOCHS} epochs, whole fits, the fastest of {REPETITIONS}. The first of the "
           "networks answers as the one that is trained alone.")  # fmt: skip
