"""A small problem, and plain steps of an engine on it."""

from __future__ import annotations

from importlib.util import find_spec

import numpy as np

from kronsgd import engines
from kronsgd.engines import DenseEngine, ScanEngine
from kronsgd.network import TwoLayer
from kronsgd.testing import EXPRESSIONS

ENGINES = {name: engine for name, engine in engines.ENGINES.items() if name != "torch" or find_spec("torch")}  # that can run
TORCH = [name for name in ENGINES if name == "torch"]


def problem(n=30, m=40, dtype="float64", **options):
    rng = np.random.default_rng(0)
    features = EXPRESSIONS["A * B"](rng, n)
    network = TwoLayer(**{"n_hidden": m, "output_scale": 1.0, "seed": 3, "dtype": dtype, **options})
    return network, features, rng.normal(size=(n, network.n_outputs))


def step(engine, state, targets, rows, rate=0.5, alpha=0.0):
    """One plain step on the squared loss."""
    activations = engine.forward(state, rows)
    slopes = (activations.outputs - targets[rows]) / len(rows)
    engine.update(state, engine.backward(state, activations, slopes, rate, alpha))


def steps(engine, state, targets, n_steps, rate=0.5, alpha=0.0, size=8, seed=0):
    """Plain steps on random batches."""
    rng = np.random.default_rng(seed)
    for _ in range(n_steps):
        step(engine, state, targets, np.sort(rng.choice(len(targets), size, replace=False)), rate, alpha)


def twins(n_steps=60, **options):
    """Weights from both engines after the same steps."""
    step_options = {k: options.pop(k) for k in ("rate", "alpha", "size") if k in options}
    network, features, targets = problem(**options)
    states = []
    for engine in (ScanEngine(), DenseEngine()):
        state = engine.initialize(network, features)
        steps(engine, state, targets, n_steps, **step_options)
        states.append((engine, state))
    return states
