"""One rank of a training over a process group, as a program that a launcher starts: `python one_rank.py TIMEOUT OUT EPOCHS`."""

from __future__ import annotations

import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np

import kronsgd as ks
from kronsgd.distributed import Distributed, process_group


def problem() -> tuple[Any, Any]:
    """300 pairs of two small tables."""
    rng = np.random.default_rng(0)
    a, b, i, j = rng.normal(size=(30, 5)), rng.normal(size=(20, 4)), rng.integers(30, size=300), rng.integers(20, size=300)
    return ks.Dense(a)[i] * ks.Dense(b)[j], a[i, 0] * b[j, 0]


def model(epochs: int) -> ks.KronRegressor:
    """Small, and with neuron blocks enough for several ranks."""
    return ks.KronRegressor(256, engine="scan", max_iter=epochs, tol=0.0, n_iter_no_change=epochs, n_jobs=1, random_state=0)


def main(timeout: float, out: Path, epochs: int) -> None:
    """Train, say "training" before it, and write the whole network."""
    with process_group(timedelta(seconds=timeout)):
        sys.stdout.write("training\n")
        sys.stdout.flush()
        Distributed(model(epochs)).fit(*problem()).save(out)


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
