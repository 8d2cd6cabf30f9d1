"""Problems to plan for."""

from __future__ import annotations

import numpy as np

from kronsgd import Dense
from kronsgd.network import TwoLayer
from kronsgd.planner import Problem, Schedule


def table(entities, columns):
    return Dense(np.random.default_rng(entities + columns).normal(size=(entities, columns)).astype(np.float32))


def pairs(n=2000, n1=40, n2=60, d=8, one=True):
    cells = np.sort(np.random.default_rng(0).permutation(n1 * n2)[:n])
    a, b = table(n1, d)[cells // n2], table(n2, d)[cells % n2]
    return (1 + a) * (1 + b) if one else a * b


def problem(X=None, schedule=None, **network):
    network = TwoLayer(**{"n_hidden": 512, "threshold": 1.5, **network})
    return Problem.of(network, pairs() if X is None else X, schedule or Schedule())
