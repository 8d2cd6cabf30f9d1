"""Several networks trained side by side: each is what it would be alone, through every engine, file and command."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

import kronsgd as ks
from helpers.cli import call, column, rows_of
from helpers.engines import ENGINES
from helpers.estimators import EXACT, labels, pairs
from kronsgd.losses import LOSSES, Members
from kronsgd.network import TwoLayer
from kronsgd.testing import EXPRESSIONS
from kronsgd.training import train_step

pytestmark = pytest.mark.usefixtures("one_thread")
E = 3


def trained(engine, network, features, targets, loss, n_steps=30):
    """The state after plain steps on the same random batches."""
    state = engine.initialize(network, features)
    rng = np.random.default_rng(0)
    for _ in range(n_steps):
        rows = np.sort(rng.choice(len(targets), 8, replace=False))
        train_step(engine, state, loss, rows, targets[rows], np.ones(8), 0.8, 0.01)
    return state


OPTIONS = {
    "plain": {}, "trained output weights": {"train_output": True, "init_rank": 2},
    "odd": {"antisymmetric": False, "n_hidden": E * 67}, "classes": {"n_outputs": E * 3}, "gaussian": {"init": "gaussian"},
}  # fmt: skip
CASES = [(name, kind) for name in ENGINES for kind in OPTIONS if (name, kind) != ("grid", "gaussian")]  # which grid refuses


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_each_network_is_what_it_would_be_alone(name, kind):
    options = OPTIONS[kind]
    n_outputs = options.get("n_outputs", E) // E
    network = TwoLayer(
        **{"n_hidden": E * 260, "n_outputs": E, "threshold": 0.4, "output_scale": 1.0, "dtype": "float64", "seed": 5,
           "n_networks": E, **options}
    )  # fmt: skip
    rng = np.random.default_rng(0)
    features = EXPRESSIONS["A * B"](rng, 40)
    targets = rng.normal(size=(40, 1)) if n_outputs == 1 else np.eye(3)[rng.integers(0, 3, 40)]
    loss, engine = LOSSES["squared" if n_outputs == 1 else "softmax"], ENGINES[name]
    state = trained(engine, network, features, targets, Members(loss, E))
    assert not state.output_weights[~network.mask].any()
    outputs, weights = engine.outputs(state, features), engine.hidden_weights(state)
    seen = []
    for e in range(E):
        alone = trained(ENGINES["dense"], network.member(e), features, targets, loss)
        own = slice(e * n_outputs, (e + 1) * n_outputs)
        np.testing.assert_allclose(outputs[:, own], ENGINES["dense"].outputs(alone, features), atol=1e-11)
        neurons = network.member_neurons(e)
        np.testing.assert_allclose(weights[neurons], ENGINES["dense"].hidden_weights(alone), atol=1e-11)
        np.testing.assert_allclose(state.output_weights[neurons][:, own], alone.output_weights, atol=1e-11)
        seen.extend(neurons)
    assert sorted(seen) == list(range(network.n_hidden))
    assert np.abs(outputs[:, :n_outputs] - outputs[:, n_outputs : 2 * n_outputs]).max() > 0.01  # and they differ


@pytest.mark.parametrize("engine", ENGINES)
def test_the_first_network_is_that_of_a_single_one(engine):
    X, y = pairs()
    options = {**EXACT, "engine": engine, "shuffle": True, "batching": "random"}
    alone = ks.KronRegressor(**options).fit(X, y)
    model = ks.KronRegressor(**options, n_networks=E).fit(X, y)
    np.testing.assert_allclose(model.predict_members(X)[0], alone.predict(X), rtol=1e-10)
    mean, std = model.predict(X, return_std=True)
    members = model.predict_members(X)
    assert members.shape == (E, 30)
    np.testing.assert_allclose(mean, members.mean(axis=0))
    np.testing.assert_array_equal(mean, model.predict(X))
    np.testing.assert_allclose(std, np.std(members, axis=0, ddof=1))
    assert std.min() > 0


def test_automatic_choices_are_those_of_one_network():
    """A mean tangent kernel over networks: the step and the length of training stay about the same."""
    X, y = pairs(50)
    alone, model = (
        ks.KronRegressor(512, n_networks=n, threshold=0.3, random_state=0, n_jobs=1, dtype="float64").fit(X, y)
        for n in (1, 4)
    )
    assert model.learning_rate_ == pytest.approx(alone.learning_rate_, rel=0.25)
    assert model.max_iter_ == pytest.approx(alone.max_iter_, rel=0.25)
    assert model.loss_curve_[-1] == pytest.approx(alone.loss_curve_[-1], rel=0.5)
    n = 4 * 512
    assert model.plan_.problem.network.n_hidden == n
    assert "4 networks of 512 neurons" in str(ks.plan(X, 512, n_networks=4))


@pytest.mark.parametrize("n_classes", [2, 4])
def test_classes_by_mean_probability(n_classes):
    X, y = pairs()
    y = labels(y, n_classes)
    model = ks.KronClassifier(**{**EXACT, "learning_rate_init": 60.0, "max_iter": 10}, n_networks=E).fit(X, y)
    members = model.predict_members(X)
    assert members.shape == (E, 30, n_classes)
    proba = model.predict_proba(X)
    np.testing.assert_allclose(proba, members.mean(axis=0))
    decision = model.decision_function(X)
    np.testing.assert_array_equal(model.predict(X), model.classes_[proba.argmax(axis=1)])
    if n_classes == 2:
        np.testing.assert_allclose(decision, np.log(proba[:, 1] / proba[:, 0]))
    else:
        np.testing.assert_allclose(decision, np.log(proba))


@pytest.mark.parametrize("engine", ENGINES)
def test_files_and_streams(engine, tmp_path):
    X, y = pairs()
    options = {**EXACT, "engine": engine, "n_networks": E, "batching": "random"}
    model = ks.KronRegressor(**options).fit(X[:20], y[:20])
    model.save(tmp_path / "m.kron")
    loaded = ks.load(tmp_path / "m.kron")
    for one in (model, loaded):
        one.partial_fit(X[15:], y[15:])
    assert loaded.predict_members(X).tobytes() == model.predict_members(X).tobytes()
    alone = ks.KronRegressor(**{**options, "n_networks": 1}).fit(X[:20], y[:20]).partial_fit(X[15:], y[15:])
    np.testing.assert_allclose(model.predict_members(X)[0], alone.predict(X), rtol=1e-9)


def test_a_small_step_of_a_stream_is_bounded_without_a_copy():
    X, y = pairs()
    model = ks.KronRegressor(**{**EXACT, "learning_rate_init": 1.0}, n_networks=E).partial_fit(X[:8], y[:8])
    before = model.predict_members(X)
    model.partial_fit(X[8:12], y[8:12])
    assert model.stop_reason_ is ks.StopReason.PARTIAL
    assert np.abs(model.predict_members(X) - before).max() > 1e-6


def test_mistakes():
    X, y = pairs()
    with pytest.raises(ValueError, match="return_std=True needs several networks"):
        ks.KronRegressor(**EXACT).fit(X, y).predict(X, return_std=True)
    with pytest.raises(ValueError, match="n_networks=0 is out of range"):
        ks.KronRegressor(**EXACT, n_networks=0).fit(X, y)
    with pytest.raises(ValueError, match="n_hidden=41 is odd"):
        ks.KronRegressor(**{**EXACT, "n_hidden": 41}, n_networks=2).fit(X, y)
    with pytest.raises(NotFittedError):
        ks.KronRegressor(n_networks=2).predict_members(X)
    model = ks.KronRegressor(**EXACT, n_networks=2, warm_start=True).fit(X, y)
    with pytest.raises(ValueError, match="n_networks=3 differs from the fitted network's 2"):
        model.set_params(n_networks=3).fit(X, y)
    with pytest.raises(ValueError, match="n_hidden=42 differs from the fitted network's 40"):
        model.set_params(n_networks=2, n_hidden=42).fit(X, y)
    with pytest.raises(ValueError, match="7 neurons and 2 outputs cannot be shared by n_networks=2"):
        TwoLayer(7, 2, n_networks=2, antisymmetric=False)
    assert replace(TwoLayer(8, 2, n_networks=2), seed=1).member(1).n_hidden == 4


def test_from_the_command_line(own):
    folder, flags = own
    run = folder / "run"
    call("train", *flags, "--test", folder / "test.csv", "--set", "n_hidden=32", "--set", "max_iter=2",
         "--set", "n_networks=3", "--out", run, "-q")  # fmt: skip
    call("predict", run, "--pairs", folder / "test.csv", "--out", folder / "p.csv")
    assert list(rows_of(folder / "p.csv")[0]) == ["drug", "protein_id", "prediction", "deviation"]
    assert column(folder / "p.csv", "deviation").min() > 0
    again = json.loads((run / "metrics.json").read_text())
    assert again["test"]["mse"] > 0
    assert "3 networks of 32 neurons" in call("inspect", run)
