"""The tree engine evaluates what can fire only, and takes the scan engine's steps to the last bit.

    python -m benchmarks.run tree_exact
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import scipy.sparse as sp

import kronsgd as ks
from benchmarks.common import report, target
from kronsgd.engines import ScanEngine, TreeEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer, auto_threshold
from kronsgd.parallel import threads
from kronsgd.training import auto_learning_rate

STEPS, N, M = 1000, 300, 256
LAYOUT = ("slice_bits",)  # how the lists are cut, not what they hold


class Always(TreeEngine):
    """Never gives up, so that every step is a comparison."""

    def pays(self, state: Any) -> bool:
        return True


@dataclass(frozen=True)
class Setting:
    """One training; the step size is a multiple of the automatic one, which is unstable from 2 on."""

    expression: str
    loss: str = "squared"
    batch: int = 16
    multiple: float = 1.0
    alpha: float = 0.0
    network: dict[str, Any] = field(default_factory=dict)

    @property
    def outputs(self) -> int:
        """Softmax has three."""
        return 3 if self.loss == "softmax" else 1


SETTINGS = {
    "losses": [Setting("pairs"), Setting("pairs", "logistic"), Setting("pairs", "softmax")],
    "expressions": [Setting(name, "softmax", 8) for name in ("constants", "power", "kernel", "sparse", "codes", "three")],
    "batches": [Setting("constants", batch=size) for size in (1, 4, 16, 64, 256)],
    "small steps and the edge of stability": [
        Setting("pairs", loss, 64, multiple) for loss in ("squared", "softmax") for multiple in (0.1, 1.9)
    ],
    "penalties": [Setting("pairs", "softmax", 16, 1.0, alpha) for alpha in (1e-3, 3.0, 300.0)],
    "trained output weights": [Setting("constants", loss, 8, network={"train_output": True}) for loss in LOSSES],
    "double precision": [
        Setting(name, "squared", size, network={"dtype": "float64"}) for name, size in (("kernel", 1), ("power", 32))
    ],
    "ranks 2 and 5, Gaussian weights, b = 0": [
        *(Setting("constants", "logistic", 8, network={"init_rank": rank}) for rank in (2, 5)),
        Setting("constants", "logistic", 8, network={"init": "gaussian"}),
        Setting("constants", "logistic", 8, network={"threshold": 0.0}),
    ],
}  # fmt: skip


def expression(name: str) -> ks.Features:
    """N rows of a space."""
    rng = np.random.default_rng(0)
    a, b = ks.Dense(rng.normal(size=(30, 6)) + 0.5), ks.Dense(rng.normal(size=(40, 5)).astype(np.float32))
    i, j, k = rng.integers(0, (30, 40, 20), size=(N, 3)).T
    points = rng.normal(size=(30, 3))
    similar = np.exp(-((points[:, None] - points) ** 2).sum(axis=2))
    return {
        "pairs": lambda: a[i] * b[j],
        "constants": lambda: (1 + a[i]) * (1 + b[j]),
        "power": lambda: (1 + ks.Dense(rng.normal(size=(N, 8)))) ** 3,
        "kernel": lambda: ks.Kernel(np.round(similar, 5))[i] * b[j],  # as published: a few digits
        "sparse": lambda: ks.Sparse(sp.random_array((30, 60), density=0.1, rng=rng))[i] * b[j],
        "codes": lambda: (ks.OneHot(rng.integers(0, 9, N)) + a[i]) * b[j],
        "three": lambda: a[i] * b[j] * ks.RBF(rng.normal(size=(20, 2)))[k],
    }[name]()


def targets(setting: Setting, rng: np.random.Generator) -> Any:
    """Random ones. Shape: (N, C)."""
    if setting.loss == "squared":
        return rng.normal(size=(N, 1))
    return rng.integers(0, 2, (N, 1)) * 1.0 if setting.loss == "logistic" else np.eye(3)[rng.integers(0, 3, N)]


def batch_of(k: int, size: int, rng: np.random.Generator) -> Any:
    """Rows of step k, in order, as the training loop gives them. In every third batch rows may repeat."""
    return np.sort(rng.integers(0, N, size) if k % 3 == 0 else rng.permutation(N)[:size])


def compare(setting: Setting) -> tuple[int, Any]:
    """(numbers that differ, counts of the tree engine): fired sets and outputs at every step, all arrays at the end."""
    X, rng, loss = expression(setting.expression), np.random.default_rng(1), LOSSES[setting.loss]
    network = TwoLayer(M, setting.outputs, **({"threshold": auto_threshold(M)} | setting.network))
    y, engines = targets(setting, rng), (ScanEngine(), Always())
    states = [engine.initialize(network, X) for engine in engines]
    alpha = setting.alpha * network.scale**2
    rate = setting.multiple * auto_learning_rate(engines[0], states[0], loss, setting.batch, np.ones(N), alpha)
    differ = 0
    for k in range(STEPS):
        rows, seen = batch_of(k, setting.batch, rng), []
        for engine, state in zip(engines, states, strict=True):
            if k * setting.batch % N < setting.batch:
                engine.begin_epoch(state)
            activations = engine.forward(state, rows)
            seen.append((activations.outputs, engine.hidden(state, activations).copy()))
            slopes = loss.derivative(activations.outputs, y[rows]) / setting.batch
            engine.update(state, engine.backward(state, activations, slopes, rate, alpha))
        differ += sum(int((mine != its).sum()) for mine, its in zip(*seen, strict=True))
    assert np.isfinite(seen[0][0]).all(), f"{setting} diverged"
    scan, tree = (engine.arrays(state) for engine, state in zip(engines, states, strict=True))
    differ += sum(not np.array_equal(scan[name], tree[name]) for name in scan if name not in LAYOUT)
    return differ, states[1].counts


def main() -> None:
    """Every setting against the scan engine."""
    rows, total = [], 0
    for group, settings in SETTINGS.items():
        with threads():
            found = [compare(setting) for setting in settings]
        differ = sum(n for n, _ in found)
        _, n_rows, evaluated, fired, _ = sum(counts for _, counts in found)
        total += len(settings)
        rows.append({"settings": f"{len(settings)}: {group}", "steps": STEPS * len(settings), "pairs fired": int(fired),
                     "pairs fired %": 100 * fired / n_rows / M, "pairs evaluated %": 100 * evaluated / n_rows / M,
                     "numbers that differ": differ, "target": target(differ, at_most=0)})  # fmt: skip
        assert differ == 0, rows[-1]
    report("tree_exact", "The tree engine takes the scan engine's steps to the last bit", rows,
           f"{total} settings of {STEPS:,} steps: n = {N}, m = {M}, targets of noise, the automatic threshold and step (at the "
           "edges 0.1 and 1.9 times it), and no giving up. Compared: which neurons fire and by how much, and outputs, at every "
           "step; all coefficients and weights at the end.")  # fmt: skip
