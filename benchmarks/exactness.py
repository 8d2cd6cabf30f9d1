"""Every engine takes the same steps: scan and eager against the dense engine in float64, 200 steps on random problems.

    python -m benchmarks.run exactness
"""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np

import kronsgd as ks
from benchmarks.common import report
from kronsgd.engines import DenseEngine, EagerEngine, Engine, ScanEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads

STEPS, N, M = 200, 200, 130


def expressions(rng: np.random.Generator) -> dict[str, ks.Features]:
    """Spaces of several kinds over N rows."""
    a = ks.Dense(rng.normal(size=(20, 4)))[rng.integers(20, size=N)]
    s = ks.Kernel(np.cov(rng.normal(size=(6, 20))))[rng.integers(6, size=N)]
    r = ks.RBF(rng.normal(size=(10, 3)))[rng.integers(10, size=N)]
    z = ks.Dense(rng.normal(size=(N, 5)))
    mixed = (1 + a) * (1 + s) + r**2
    return {"a * s": a * s, "(1 + z) ** 2": (1 + z) ** 2, "(1 + a) * (1 + s) + r ** 2": mixed, "a * s * r": a * s * r}


def compare(
    engine: Engine, X: ks.Features, loss: str, size: int, init: str, dtype: str, rng: np.random.Generator
) -> tuple[float, int]:
    """(relative difference of W after STEPS steps, (row, neuron) pairs that fired in one engine only)."""
    outputs = 3 if loss == "softmax" else 1
    targets = {"squared": rng.normal(size=(N, 1)), "logistic": rng.integers(2, size=(N, 1)).astype(float),
               "softmax": np.eye(3)[rng.integers(3, size=N)]}[loss]  # fmt: skip
    make = {"n_hidden": M, "n_outputs": outputs, "threshold": auto_threshold(M), "init": init, "init_rank": 2,
            "output_scale": 0.5, "seed": 1}  # fmt: skip
    engines: list[Any] = [DenseEngine(), engine]
    states = [e.initialize(TwoLayer(**make, dtype=d), X) for e, d in zip(engines, ["float64", dtype], strict=True)]
    differ = 0
    for _ in range(STEPS):
        rows, hidden = rng.permutation(N)[:size], []
        for engine, state in zip(engines, states, strict=True):
            activations = engine.forward(state, rows)
            hidden.append(engine.hidden(state, activations) > 0)
            slopes = LOSSES[loss].derivative(activations.outputs, targets[rows]) / size
            engine.update(state, engine.backward(state, activations, slopes, 20.0))
        differ += int((hidden[0] != hidden[1]).sum())
    W, V = (engine.hidden_weights(state) for engine, state in zip(engines, states, strict=True))
    return float(np.linalg.norm(W - V) / np.linalg.norm(W)), differ


def main() -> None:
    """Loss × expression × batch size × initial weights × precision."""
    rows = []
    for engine, dtype in product((ScanEngine(), EagerEngine()), ("float64", "float32")):
        worst, flipped, differ, count = 0.0, 0.0, 0, 0
        names = list(expressions(np.random.default_rng(0)))
        problems = product(LOSSES, names, [1, 16, 70], ["structured", "gaussian"])
        for seed, (loss, name, size, init) in enumerate(problems):
            rng = np.random.default_rng(seed)
            with threads():
                error, n = compare(engine, expressions(rng)[name], loss, size, init, dtype, rng)
            worst, flipped = (worst, max(flipped, error)) if n else (max(worst, error), flipped)
            differ, count = differ + n, count + 1
        limit = 1e-12 if dtype == "float64" else 1e-5
        assert worst <= limit, (dtype, worst)
        assert dtype == "float32" or differ == 0, differ
        rows.append({"engine": engine.name, "precision": dtype, "problems": count, "steps each": STEPS,
                     "largest ‖W − W′‖/‖W‖": worst, "allowed": limit, "pairs that fired in one engine only": differ,
                     "largest difference of those problems": flipped})  # fmt: skip
    report("exactness", "scan and eager take the dense float64 engine's steps", rows,
           "Fired sets are compared at every step; in float32 a pair within rounding of the threshold may fire in one engine "
           "only, and from then on the two go their own ways: such problems are counted apart.")  # fmt: skip
