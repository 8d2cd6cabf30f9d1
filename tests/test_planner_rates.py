"""Rates: built in or measured when asked for, kept for this machine, never trusted blindly."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

import kronsgd as ks
from helpers.planner import pairs, table
from kronsgd import KronRegressor
from kronsgd.planner import BUILT_IN, rates
from kronsgd.planner.work import Work

pytestmark = pytest.mark.usefixtures("own_cache")


def test_planning_and_fitting_never_measure(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured without being asked")

    monkeypatch.setattr("kronsgd.planner.calibration.measure_rates", refuse)
    X = pairs(200)
    assert "built-in rates" in str(ks.plan(X))
    KronRegressor(16, max_iter=1).fit(X, np.arange(200.0))
    assert not rates.cache_file().exists()


def test_measured_rates_are_kept_for_this_machine_and_can_be_ignored(monkeypatch):
    slow = replace(BUILT_IN, moved=1.0, source="a test")
    assert rates.save_rates(slow) == rates.cache_file()
    assert rates.current_rates() == slow
    X = (1 + table(400, 2)) ** 2
    assert "a test" in str(ks.plan(X))
    monkeypatch.setenv("KRONSGD_CALIBRATION", "off")
    assert rates.current_rates() == BUILT_IN
    monkeypatch.delenv("KRONSGD_CALIBRATION")
    kept = json.loads(rates.cache_file().read_text())
    rates.cache_file().write_text(json.dumps({**kept, "machine": {**kept["machine"], "cores": -1}}))
    assert rates.current_rates() == BUILT_IN


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"machine": 3, "rates": {}}', "\x00"])
def test_damaged_rates_are_ignored(text):
    rates.cache_file().parent.mkdir(parents=True)
    rates.cache_file().write_text(text)
    assert rates.current_rates() == BUILT_IN


@pytest.mark.parametrize("change", [{"moved": 0}, {"moved": "fast"}, {"gemm": [1.0]}, {"lanes": [1.0, -1.0]}, {"extra": 1}])
def test_rates_that_make_no_sense_are_ignored(change):
    rates.save_rates(BUILT_IN)
    kept = json.loads(rates.cache_file().read_text())
    kept["rates"] |= change
    rates.cache_file().write_text(json.dumps(kept))
    assert rates.current_rates() == BUILT_IN


def test_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rates.save_rates(BUILT_IN) is None
    assert rates.current_rates() == BUILT_IN


def test_calibration_measures_all_rates():
    from kronsgd.planner.calibration import measure_rates

    measured = measure_rates()
    for name in ("gemm", "lanes", "narrow", "moved", "gathered", "scalar", "call"):
        got, known = np.atleast_1d(getattr(measured, name)), np.atleast_1d(getattr(BUILT_IN, name))
        assert (got > 0).all()
        assert (got < 50 * known).all()
        assert (got > known / 50).all()
    assert "measured on this machine" in measured.source


def test_seconds_add_up():
    work = Work(gemm=130e9, lanes=70e9, moved=12e9, calls=1e6)
    expected = 130e9 / BUILT_IN.gemm[0] + 70e9 / BUILT_IN.lanes[0] + 12e9 / BUILT_IN.moved + 1e6 * BUILT_IN.call
    assert BUILT_IN.seconds(work, 4, 64) == pytest.approx(expected)
    assert BUILT_IN.seconds(work, 8, 64) > BUILT_IN.seconds(work, 4, 64)
    assert BUILT_IN.seconds(work, 4, 16) > BUILT_IN.seconds(work, 4, 64)
