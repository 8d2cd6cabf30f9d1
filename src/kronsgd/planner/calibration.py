"""Measure this machine's rates with the engines' own steps on small made-up problems: about a second.

Only ever run when asked for. Each case is a step that is mostly work of one kind; its rate is set so that the cost model
gives the time that was measured, the rest of the step being taken at the rates of the other cases.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from kronsgd.engines import ENGINES
from kronsgd.engines.scan import ScanState
from kronsgd.features.leaves import Dense
from kronsgd.network import TwoLayer
from kronsgd.parallel import n_threads, threads
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.planner.rates import BUILT_IN, Rates, save_rates
from kronsgd.planner.work import STEP_WORK

__all__ = ["calibrate", "measure_rates"]

REPEATS = 15  # of each step; the fastest counts
SWEEPS = 4  # until the rates agree with one another
LEAST_SHARE = 0.2  # of a step's time that is always left to the kind it measures
UPDATE_PHASES = ("backward", "update", "record")


@dataclass(frozen=True)
class Case:
    """A step that is mostly work of one kind."""

    rate: str  # the rate it measures, and which of a pair
    which: int | None
    engine: str
    n_rows: int
    columns: int  # of both tables, of 100 entities
    n_hidden: int
    batch_size: int
    threshold: float = 1.5
    update: bool = False  # time the update, not the forward pass


CASES = (
    Case("call", None, "scan", 64, 4, 2, 16),
    Case("moved", None, "scan", 60_000, 4, 2, 64),
    Case("gathered", None, "scan", 64, 4, 4096, 64, 5.0),
    Case("scalar", None, "scan", 512, 4, 512, 64, -9.0, update=True),
    *(Case("gemm", which, "dense", 128, 32, 512, 64) for which in (0, 1)),
    *(Case("lanes", which, "scan", 512, 4, 512, 64, -9.0) for which in (0, 1)),
    *(Case("narrow", which, "scan", 512, 4, 512, 16, -9.0) for which in (0, 1)),
)


def calibrate() -> Path | None:
    """Measure, and keep the rates for later plans. None where the cache folder cannot be written."""
    return save_rates(measure_rates())


def measure_rates() -> Rates:
    """This machine's rates, on the threads in use."""
    rates = replace(BUILT_IN, source=f"rates measured on this machine with {n_threads()} threads")
    with threads():
        measured = [(case, *_measure(case)) for case in CASES]
    for _ in range(SWEEPS):
        for case, problem, seconds in measured:
            rates = _matched(rates, case, problem, seconds)
    return rates


def _measure(case: Case) -> tuple[Problem, float]:
    """(the problem at the densities that it has, seconds of the timed part of a step)."""
    rng = np.random.default_rng(0)
    a, b = (Dense(rng.normal(size=(100, case.columns)))[rng.integers(100, size=case.n_rows)] for _ in range(2))
    dtype = "float64" if case.which == 1 else "float32"
    network = TwoLayer(n_hidden=case.n_hidden, threshold=case.threshold, dtype=dtype, antisymmetric=False)
    engine, batches = ENGINES[case.engine], np.arange(case.n_rows // case.batch_size * case.batch_size)
    state = engine.initialize(network, a * b)
    slopes = np.full((case.batch_size, 1), 1e-9)

    def step(rows: Any) -> tuple[float, float, int]:
        started = time.perf_counter()
        activations = engine.forward(state, rows)
        forward = time.perf_counter()
        engine.update(state, engine.backward(state, activations, slopes, 1.0))
        if isinstance(state, ScanState):
            state.coefficients.settle()  # which the next forward pass would do
        return forward - started, time.perf_counter() - forward, activations.n_fired

    rows = batches.reshape(-1, case.batch_size)
    for k in range(min(len(rows), 32)):  # α of a first epoch
        step(rows[k])
    runs = [step(rows[k % len(rows)]) for k in range(REPEATS)]
    pairs = case.n_rows * case.n_hidden
    stored = getattr(state, "coefficients", None)
    problem = Problem.of(network, state.features, Schedule(case.batch_size))
    alpha = 0.0 if stored is None else stored.nnz / pairs
    problem = replace(problem, fired=runs[-1][2] / (case.batch_size * case.n_hidden), alpha=alpha)
    return problem, min(run[1 if case.update else 0] for run in runs)


def _matched(rates: Rates, case: Case, problem: Problem, seconds: float) -> Rates:
    """The rates with the one that `case` measures such that the model takes `seconds`."""
    kind = "lanes" if case.rate == "narrow" else "calls" if case.rate == "call" else case.rate
    work = [w for phase, w in STEP_WORK[case.engine](problem).items() if (phase in UPDATE_PHASES) == case.update]
    size = problem.itemsize, case.batch_size
    rest = sum(rates.seconds(replace(w, **{kind: 0.0}), *size) for w in work)
    own = sum(rates.seconds(w, *size) for w in work) - rest
    factor = max(seconds - rest, LEAST_SHARE * seconds) / own  # on the time of an operation
    before, changed = getattr(rates, case.rate), asdict(rates)
    if case.which is None:
        changed[case.rate] = before * factor if case.rate == "call" else before / factor
    else:
        changed[case.rate] = tuple(rate / factor if k == case.which else rate for k, rate in enumerate(before))
    return Rates(**changed)
