"""`kronsgd plan`."""

from __future__ import annotations

import json

import pytest

from helpers.cli import call, mistake
from kronsgd import KronClassifier
from kronsgd.planner import rates

pytestmark = pytest.mark.usefixtures("own_cache")


def test_command_plans_what_train_would_do(tmp_path):
    out = call("plan", "--dataset", "digits", "--n-hidden", 256, "--batch-size", 32, "--memory-limit", "1 GiB")
    assert "256 neurons, batches of 32" in out
    assert "Memory limit 1 GiB" in out
    config = tmp_path / "run.toml"
    config.write_text('[data]\ndataset = "digits"\n[model]\nn_hidden = 128\n')
    asked = json.loads(call("plan", config, "--json", "--set", "batch_size=16"))
    assert (asked["n_hidden"], asked["batch_size"], asked["n_outputs"]) == (128, 16, 10)
    assert asked["engine"] in asked["engines"]
    assert asked["engines"][asked["engine"]]["chosen"]
    model = KronClassifier(128, batch_size=16, max_iter=0)
    assert asked["memory_limit_bytes"] > 0
    assert model.get_params()["memory_limit"] == "auto"


def test_command_that_finds_no_engine_says_what_would_fit():
    assert "would fit" in mistake("plan", "--dataset", "digits", "--n-hidden", 65536, "--memory-limit", "100 MiB")


def test_command_calibrates_only_when_asked():
    call("plan", "--dataset", "digits")
    assert not rates.cache_file().exists()
    call("plan", "--calibrate")
    assert rates.cache_file().exists()
    assert "measured on this machine" in call("plan", "--dataset", "digits")
