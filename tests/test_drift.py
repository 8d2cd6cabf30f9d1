"""Thousands of steps in single precision: what engines keep stays within rounding of what their steps add up to."""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks import drift

from kronsgd.engines import EagerEngine

pytestmark = pytest.mark.usefixtures("one_thread")

STEPS = 1500
ROOT = drift.UNIT * np.sqrt(STEPS)  # how rounding adds up


@pytest.mark.parametrize("setting", ["constant", "alpha", "one epoch"])
@pytest.mark.parametrize("engine", drift.ENGINES)
def test_rounding_grows_with_the_root_of_steps(engine, setting):
    run = drift.follow(drift.ENGINES[engine], "float32", drift.SETTINGS[setting], STEPS, (STEPS,), shadow=True)
    found = run.drifts[STEPS]
    assert 0 < found.coefficients < 0.2 * ROOT
    assert 0 < found.hidden < 0.1 * ROOT * found.terms
    assert 0 < found.outputs < 3 * ROOT


@pytest.mark.parametrize("engine", ["scan", "eager"])
def test_double_precision_has_no_drift(engine):
    """The measure itself: nothing but rounding is between what is kept and what is recorded, output weights' steps too."""
    for setting in ("output trained", "alpha"):
        run = drift.follow(drift.ENGINES[engine], "float64", drift.SETTINGS[setting], 300, (300,), shadow=True)
        found = run.drifts[300]
        assert max(found.coefficients, found.hidden, found.outputs) < 1e-13


def test_a_drift_is_seen():
    class Leaking(EagerEngine):
        def update(self, state, step):
            super().update(state, step)
            state.moved *= np.float32(1 - 1e-6)

    run = drift.follow(Leaking(), "float32", drift.SETTINGS["constant"], STEPS, (STEPS,), shadow=True)
    assert run.drifts[STEPS].hidden > 0.1 * ROOT * run.drifts[STEPS].terms


def test_trainings_that_differ_by_rounding_stay_close_until_other_neurons_fire():
    setting = drift.SETTINGS["constant"]
    exact = drift.follow(drift.ENGINES["scan"], "float64", setting, 500, (500,))
    for engine in ("scan", "grid"):
        run = drift.follow(drift.ENGINES[engine], "float32", setting, 500, (500,))
        assert all(np.array_equal(a, b) for a, b in zip(run.fired, exact.fired, strict=True))
        assert drift.relative(run.outputs[500], exact.outputs[500]) < 64 * drift.UNIT
