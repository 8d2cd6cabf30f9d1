"""A fit that is ended at any moment goes on from its checkpoints to the bytes of one that never was."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest

from helpers.checkpoints import ENGINES, SMALL, ended_after, fit, pairs, saved
from kronsgd import Checkpoint, KronClassifier, StopReason
from kronsgd.planner import Plan
from kronsgd.training import checkpoint as checkpoints
from kronsgd.training import checkpoints_in

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data():
    return pairs()


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What is in the kernel's hands is safe from anything but a loss of power."""
    monkeypatch.setattr(os, "fsync", lambda handle: None)


OPTIONS = {
    "plain": {},
    "held-out rows": {"early_stopping": True, "max_iter": 8, "n_iter_no_change": 2},
    "decay, output weights": {"alpha": 0.3, "train_output": True, "learning_rate_init": 20.0},
    "small batches": {"batch_size": 3, "threshold": 1.5, "max_iter": 2},
    "random batches": {"batching": "random", "batch_size": 5},
}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_same_bytes_from_any_checkpoint(engine, options, data, tmp_path, monkeypatch):
    options = {"engine": engine, **options}
    whole = saved(fit(data, **options), tmp_path)
    assert saved(fit(data, Checkpoint(tmp_path / "all", steps=7), **options), tmp_path) == whole
    for k, steps in enumerate((3, 13, 17, 29)):
        folder = tmp_path / f"c{k}"
        assert ended_after(monkeypatch, 1 + k % 2, data, Checkpoint(folder, steps=steps), **options)
        going_on = Checkpoint(folder, steps=11)
        assert saved(fit(data, going_on, **options), tmp_path) == whole, steps
        assert saved(fit(data, going_on, **options), tmp_path) == whole  # which was over already


@pytest.mark.parametrize("engine", ENGINES)
def test_at_arbitrary_moments(engine, data, tmp_path, monkeypatch):
    """As minutes are: each run saves at other steps, and is ended at another."""
    whole = saved(fit(data, engine=engine, batch_size=5), tmp_path)
    rng = np.random.default_rng(1)
    monkeypatch.setattr(checkpoints.Keeper, "due", lambda self, n_steps: rng.random() < 0.1)
    checkpoint, ends = Checkpoint(tmp_path / "c"), 0
    while ended_after(monkeypatch, 4, data, checkpoint, engine=engine, batch_size=5):
        ends += 1
    assert ends >= 2
    assert saved(fit(data, checkpoint, engine=engine, batch_size=5), tmp_path) == whole


def test_a_classifier_and_its_history(data, tmp_path, monkeypatch):
    X, y = data
    data = X, np.digitize(y, [-0.5, 0.5])
    options = {"estimator": KronClassifier, "class_weight": {0: 2.0}, "early_stopping": True}
    straight = fit(data, **options)
    assert ended_after(monkeypatch, 2, data, Checkpoint(tmp_path / "c", steps=17), **options)
    model = fit(data, Checkpoint(tmp_path / "c"), **options)
    assert saved(model, tmp_path) == saved(straight, tmp_path)
    assert [r.keys() for r in model.history_] == [r.keys() for r in straight.history_]
    assert all(record["seconds"] > 0 for record in model.history_)


@pytest.mark.parametrize("retries", [5, 1])  # enough of them, or one too few
@pytest.mark.filterwarnings("ignore:.*grew without bound")
def test_automatic_settings_and_a_divergence(retries, data, tmp_path, monkeypatch):
    """The attempt at a halved step is part of a position, and training from the start again of a course."""
    from kronsgd.estimators import base, fitting

    monkeypatch.setattr(fitting, "RETRIES", retries)
    monkeypatch.setattr(base, "auto_learning_rate", lambda *_: 2e5)
    options = {"learning_rate_init": "auto", "max_iter": 3}
    straight = fit(data, **options)
    assert straight.learning_rate_ < 2e5
    folder, ends = tmp_path / "c", 0
    while ended_after(monkeypatch, 2, data, Checkpoint(folder, steps=5), **options):
        ends += 1
    assert ends > 2
    assert saved(fit(data, Checkpoint(folder), **options), tmp_path) == saved(straight, tmp_path)


def test_a_fit_that_diverged_has_ended_too(data, tmp_path):
    for _ in range(2):
        with pytest.warns(UserWarning, match="grew without bound"):
            model = fit(data, Checkpoint(tmp_path / "c", steps=1), learning_rate_init=1e9)
        assert model.stop_reason_ is StopReason.DIVERGED


def test_a_drawn_seed_and_an_engine_chosen_by_itself_are_kept(data, tmp_path, monkeypatch):
    assert ended_after(monkeypatch, 1, data, Checkpoint(tmp_path / "c", steps=9), random_state=None, engine="auto")
    seed = json.loads((checkpoints_in(tmp_path / "c")[0] / "checkpoint.json").read_text())["configuration"]["network"]["seed"]
    monkeypatch.setattr("kronsgd.planner.plan.Plan.engine", "dense")  # what another machine may choose
    model = fit(data, Checkpoint(tmp_path / "c"), random_state=None, engine="auto")
    assert model.state_.network.seed == seed
    assert model.n_iter_ == SMALL["max_iter"]


def test_parameters_may_be_numbers_of_numpy(data, tmp_path):
    """As a search over np.arange gives them."""
    own = {"n_hidden": np.int64(64), "alpha": np.float32(0.5), "early_stopping": np.True_, "random_state": np.int64(0)}
    plain = {name: value.item() for name, value in own.items()}
    for options in (own, plain):  # the second goes on from the first
        model = fit(data, Checkpoint(tmp_path / "c", steps=9), **options)
    assert saved(model, tmp_path) == saved(fit(data, **plain), tmp_path)


def test_threads_do_not_matter(data, tmp_path, monkeypatch):
    whole = saved(fit(data, n_hidden=512), tmp_path)
    assert ended_after(monkeypatch, 1, data, Checkpoint(tmp_path / "c", steps=9), n_hidden=512, n_jobs=2)
    assert saved(fit(data, Checkpoint(tmp_path / "c"), n_hidden=512, n_jobs=1, verbose=True), tmp_path) == whole


def test_ctrl_c_saves_a_checkpoint(data, tmp_path, monkeypatch):
    whole = saved(fit(data), tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Keeper, "due", lambda self, n_steps: n_steps == 20 and bool(os.kill(os.getpid(), 2)))
        model = fit(data, Checkpoint(tmp_path / "c"))
    assert model.stop_reason_ is StopReason.INTERRUPTED
    assert [path.name for path in checkpoints_in(tmp_path / "c")] == ["step-000000000020"]
    assert saved(fit(data, Checkpoint(tmp_path / "c")), tmp_path) == whole


def test_more_memory_goes_on_where_too_little_ended_training(data, tmp_path, monkeypatch):
    whole = fit(data)
    with monkeypatch.context() as patched:
        patched.setattr(Plan, "most_coefficients", lambda self, engine: 0.8 * whole.state_.coefficients.nnz)
        model = fit(data, Checkpoint(tmp_path / "c"), memory_limit="1 GiB")
    assert model.stop_reason_ is StopReason.MEMORY
    assert model.state_.coefficients.nnz < whole.state_.coefficients.nnz
    assert saved(fit(data, Checkpoint(tmp_path / "c"), memory_limit="2 GiB"), tmp_path) == saved(whole, tmp_path)


def test_minutes(data, tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    saves = []
    monkeypatch.setattr(checkpoints.CheckpointFolder, "write", lambda self, step, *rest: saves.append(step))
    step = checkpoints.Keeper.due
    monkeypatch.setattr(checkpoints.Keeper, "due", lambda self, n: (now.__setitem__(0, 60.0 * n), step(self, n))[1])
    fit(data, Checkpoint(tmp_path / "c", minutes=20))
    assert saves == [20, 40, 52]
