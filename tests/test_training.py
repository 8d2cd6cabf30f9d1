"""Schedules, batches, stop reasons, one step, and the automatic step size against an explicit tangent kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.engines import ENGINES
from kronsgd import Dense, KronRegressor, OneHot, StopReason
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.training import (
    SCHEDULES,
    Diverged,
    Settings,
    Validation,
    auto_learning_rate,
    epoch_batches,
    schedule,
    train,
    train_step,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def problem(n=24, **options):
    rng = np.random.default_rng(0)
    features = Dense(rng.normal(size=(6, 3)))[rng.integers(0, 6, n)] * Dense(rng.normal(size=(n, 2)))
    network = TwoLayer(**{"n_hidden": 40, "output_scale": 1.0, "seed": 5, "dtype": "float64", **options})
    return network, features, rng.normal(size=(n, network.n_outputs))


# Schedules and batches -----------------------------------------------------------------------------------------------


def test_schedules():
    assert set(SCHEDULES) == {"constant", "cosine", "linear"}
    for name in SCHEDULES:
        assert schedule(name, 0, 10) == 1
    assert [schedule("constant", t, 4) for t in range(4)] == [1, 1, 1, 1]
    assert [schedule("linear", t, 4) for t in range(4)] == [1, 0.75, 0.5, 0.25]
    expected = [0.5 * (1 + math.cos(math.pi * t / 4)) for t in range(4)]
    assert [schedule("cosine", t, 4) for t in range(4)] == expected
    with pytest.raises(KeyError):
        schedule("cosin", 0, 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 200), st.integers(1, 80), st.booleans(), st.integers(0, 2**31 - 1), st.integers(0, 5))
def test_every_row_is_in_one_batch(n, size, shuffle, seed, epoch):
    batches = epoch_batches(n, size, shuffle=shuffle, seed=seed, epoch=epoch)
    assert sorted(np.concatenate(batches).tolist()) == list(range(n))
    assert len(batches) == -(-n // size)
    lengths = [len(batch) for batch in batches]
    assert max(lengths) <= size
    assert not shuffle or max(lengths) - min(lengths) <= 1
    again = epoch_batches(n, size, shuffle=shuffle, seed=seed, epoch=epoch)
    assert all(np.array_equal(a, b) for a, b in zip(batches, again, strict=True))


def test_shuffled_batches_depend_on_seed_and_epoch():
    def rows(seed, epoch, shuffle=True):
        return [batch.tolist() for batch in epoch_batches(50, 8, shuffle=shuffle, seed=seed, epoch=epoch)]

    assert rows(1, 0) != rows(2, 0)
    assert rows(1, 0) != rows(1, 1)
    assert rows(1, 0, shuffle=False) == rows(2, 3, shuffle=False)
    assert rows(1, 0, shuffle=False)[0] == list(range(8))
    assert rows(1, 0, shuffle=False)[-1] == [48, 49]


# Losses --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LOSSES)
def test_loss_derivatives_and_curvature(name):
    loss = LOSSES[name]
    rng = np.random.default_rng(0)
    c = {"squared": 2, "logistic": 1, "softmax": 4}[name]
    f = 2 * rng.normal(size=(50, c))
    y = {"squared": rng.normal(size=(50, c)), "logistic": rng.integers(0, 2, (50, 1)) * 1.0}.get(
        name, np.eye(c)[rng.integers(0, c, 50)]
    )
    h = 1e-6
    for k in range(c):
        step = h * np.eye(c)[k]
        numeric = (loss.value(f + step, y) - loss.value(f - step, y)) / (2 * h)
        np.testing.assert_allclose(loss.derivative(f, y)[:, k], numeric, atol=1e-8)
        second = (loss.derivative(f + step, y) - loss.derivative(f - step, y))[:, k] / (2 * h)
        assert second.max() <= loss.curvature + 1e-8
    assert np.isfinite(loss.value(np.full((1, c), 1e4), y[:1])).all()  # no overflow far out


# Steps and stop reasons ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_step_is_the_mean_gradient_and_the_scaled_penalty(engine):
    network, features, y = problem(threshold=0.2)
    state = engine.initialize(network, features)
    w0, a, x = engine.hidden_weights(state), network.output_weights(), features.dense()
    rows, weights = np.array([1, 4, 7]), np.array([0.5, 2.0, 1.0])
    train_step(engine, state, LOSSES["squared"], rows, y[rows], weights, 0.3, 0.0)
    w = engine.hidden_weights(state)
    slopes = (0 - y[rows]) * weights[:, None] / 3
    fires = x[rows] @ w0.T > network.threshold
    np.testing.assert_allclose(w, w0 - 0.3 * network.scale * (fires * (slopes @ a.T)).T @ x[rows], atol=1e-13)
    value, n_fired = train_step(engine, state, LOSSES["squared"], rows, y[rows], 0 * weights, 0.3, 2.0)
    assert value == 0
    assert n_fired == np.count_nonzero(x[rows] @ w.T > network.threshold)
    shrunk = 1 - 0.3 * 2.0 * network.scale**2  # the penalty is on (γ/√m)(w − w(0))
    np.testing.assert_allclose(engine.hidden_weights(state) - w0, shrunk * (w - w0), atol=1e-13)


def run(engine="scan", validation=None, targets=None, **options):
    network, features, y = problem()
    engine = ENGINES[engine]
    state = engine.initialize(network, features)
    y = y if targets is None else targets(y)
    chosen = Settings(**{"learning_rate_init": 0.5, "max_iter": 3, "batch_size": 8, "tol": 0.0, **options})
    n = len(y)
    return train(engine, state, LOSSES["squared"], np.arange(n), y, np.ones(n), chosen, validation), state


@pytest.mark.parametrize("engine", ENGINES)
def test_all_epochs(engine):
    history, _ = run(engine)
    assert history.stop_reason is StopReason.MAX_ITER
    assert [record["epoch"] for record in history.records] == [1, 2, 3]
    assert history.n_steps == 9
    losses = history.column("loss")
    assert losses[0] > losses[1] > losses[2]
    np.testing.assert_allclose(history.column("learning_rate"), [0.5 * schedule("cosine", t, 9) for t in (2, 5, 8)])
    assert all(0 < fired < 1 for fired in history.column("fired"))


def test_converged_when_the_loss_no_longer_falls():
    history, _ = run(max_iter=50, tol=10.0, n_iter_no_change=3)
    assert history.stop_reason is StopReason.CONVERGED
    assert len(history.records) == 4


def test_zero_epochs():
    history, _ = run(max_iter=0)
    assert history.stop_reason is StopReason.MAX_ITER
    assert history.records == []


def test_early_stopping_keeps_the_best_epoch():
    _, features, y = problem()
    held = np.arange(6)
    validation = Validation(features[held], -y[held], np.ones(6))  # the opposite of what is learned
    history, state = run(validation=validation, max_iter=30, n_iter_no_change=4, learning_rate="constant")
    assert history.stop_reason is StopReason.EARLY_STOPPING
    losses = history.column("validation_loss")
    best = int(np.argmin(losses))
    assert len(losses) == best + 1 + 4
    engine = ENGINES["scan"]
    kept = LOSSES["squared"].value(engine.outputs(state, features[held]), -y[held]).mean()
    assert kept == losses[best]
    assert kept < losses[-1]


def test_divergence_leaves_the_state_of_the_last_finite_step():
    network, features, y = problem()
    engine = ENGINES["scan"]
    state = engine.initialize(network, features)
    engine.restore(state, {**engine.arrays(state), "output_weights": np.full((40, 1), 1e308)})
    before = engine.arrays(state)
    with pytest.raises(Diverged):
        train_step(engine, state, LOSSES["squared"], np.arange(8), y[:8], np.ones(8), 0.1, 0.0)
    for name, array in engine.arrays(state).items():
        assert np.array_equal(array, before[name])
    with pytest.raises(Diverged):
        run(learning_rate_init=1e4, max_iter=50, n_iter_no_change=100)


def test_stop_reasons_are_sentences():
    for reason in StopReason:
        assert reason.value.endswith(".")


# The automatic step size ---------------------------------------------------------------------------------------------


def explicit_tangent(w, x, a, scale, threshold, train_output=False):
    """Θ_ij from gradients of f with respect to every weight, written out."""
    z = x @ w.T - threshold
    gradients = scale * ((z > 0) * a)[:, :, None] * x[:, None, :]
    gradients = gradients.reshape(len(x), -1)
    if train_output:
        gradients = np.concatenate([gradients, scale * np.maximum(z, 0)], axis=1)
    return gradients @ gradients.T


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("train_output", [False, True])
def test_auto_learning_rate_against_an_explicit_tangent_kernel(engine, train_output):
    network, features, _ = problem(train_output=train_output, threshold=0.3)
    engine = ENGINES[engine]
    state = engine.initialize(network, features)
    weights = np.random.default_rng(1).uniform(0.5, 2, size=24)
    a = network.output_weights()[:, 0]
    theta = explicit_tangent(
        engine.hidden_weights(state), features.dense(), a, network.scale, network.threshold, train_output
    )
    root = np.sqrt(weights)
    largest = np.linalg.eigvalsh(theta * root[:, None] * root / 24)[-1]
    for name, curvature in (("squared", 1.0), ("logistic", 0.25)):
        rate = auto_learning_rate(engine, state, LOSSES[name], 24, weights)  # one batch holds all rows
        assert rate == pytest.approx(1 / (curvature * largest), rel=1e-10)


def test_auto_learning_rate_of_the_estimator():
    _, features, y = problem()
    model = KronRegressor(40, batch_size=24, max_iter=0, threshold=0.3, random_state=0, dtype="float64")
    model.fit(features, y[:, 0])
    scale = model.output_scale / math.sqrt(40)
    theta = explicit_tangent(model.hidden_weights(), features.dense(), model.output_weights_[:, 0], scale, 0.3)
    assert model.learning_rate_ == pytest.approx(24 / np.linalg.eigvalsh(theta)[-1], rel=1e-10)


def test_auto_learning_rate_is_stable_and_twice_the_limit_is_not():
    """On one batch of a network in its linear regime, above 2/λ the loss grows."""
    network, features, y = problem(threshold=-50.0, n_hidden=2000)  # all neurons fire on all rows, so f is linear in W
    engine = ENGINES["dense"]
    losses = {}
    for factor in (1.0, 1.9, 2.3):
        state = engine.initialize(network, features)
        rate = factor * auto_learning_rate(engine, state, LOSSES["squared"], 24, np.ones(24))
        rows = np.arange(24)
        values = [
            train_step(engine, state, LOSSES["squared"], rows, y, np.ones(24), rate, 0.0)[0] for _ in range(200)
        ]
        losses[factor] = values[-1] / values[0]
    assert losses[1.0] < 1
    assert losses[1.9] < 1
    assert losses[2.3] > 10


def test_auto_learning_rate_when_nothing_fires():
    network, features, _ = problem(threshold=100.0)
    engine = ENGINES["scan"]
    rate = auto_learning_rate(engine, engine.initialize(network, features), LOSSES["squared"], 8, np.ones(24))
    assert rate == pytest.approx(1 / network.scale**2)


def test_loss_curve_counts_each_row_once():
    features = OneHot(np.arange(10)) * OneHot(np.zeros(10, dtype=int))
    y = np.arange(10.0)
    model = KronRegressor(20, max_iter=1, batch_size=3, learning_rate_init=1e-9, random_state=0).fit(features, y)
    np.testing.assert_allclose(model.loss_curve_, [0.5], rtol=1e-5)  # f = 0 and targets of variance 1
