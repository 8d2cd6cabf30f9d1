"""Targets and seeds, how a training ends, and training that goes on."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
from sklearn.exceptions import ConvergenceWarning

from helpers.arrays import normal
from helpers.estimators import ENGINES, EXACT, SMALL, assert_same_bits, labels, pairs
from kronsgd import Dense, KronClassifier, KronRegressor, StopReason
from kronsgd.datasets import make_kron_teacher
from kronsgd.training import loop, train_step
from kronsgd.training.interrupt import deferred_interrupt

# Targets, seeds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_several_outputs(engine):
    features, y = pairs()
    y = np.column_stack([y, 10 * normal(30, seed=4), np.full(30, 7.0)])
    model = KronRegressor(**{**EXACT, "engine": engine, "max_iter": 60, "n_hidden": 200, "learning_rate_init": "auto"})
    model.fit(features, y)
    predicted = model.predict(features)
    assert predicted.shape == (30, 3)
    assert model.output_weights_.shape == (200, 3)
    np.testing.assert_allclose(model.y_mean_, y.mean(axis=0))
    np.testing.assert_allclose(model.y_scale_, [*y.std(axis=0)[:2], 1.0])
    residual = ((predicted - y) ** 2).mean(axis=0)[:2] / y.var(axis=0)[:2]
    assert (residual < 0.9).all()
    assert model.score(features, y[:, [0, 1, 2]]) > 0
    with pytest.raises(ValueError, match="y has 1 outputs but the model has 3"):
        model.partial_fit(features, y[:, 0])


def test_zero_epochs_predict_the_mean():
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "max_iter": 0}).fit(features, y)
    np.testing.assert_allclose(model.predict(features), y.mean(), rtol=1e-6)
    assert model.n_iter_ == 0
    assert model.loss_curve_ == []
    assert model.stop_reason_ is StopReason.MAX_ITER
    classifier = KronClassifier(**{**SMALL, "max_iter": 0}).fit(features, labels(y, 4))
    np.testing.assert_allclose(classifier.predict_proba(features), 0.25, atol=1e-6)


def test_random_state():
    features, y = pairs()
    options = {**SMALL, "shuffle": True}

    def fitted(seed):
        return KronRegressor(**{**options, "random_state": seed}).fit(features, y)

    assert_same_bits(fitted(3), fitted(3), features)
    assert_same_bits(fitted(np.random.RandomState(3)), fitted(3), features)
    assert not np.array_equal(fitted(3).predict(features), fitted(4).predict(features))
    assert not np.array_equal(fitted(None).predict(features), fitted(None).predict(features))


def test_shuffled_epochs_depend_on_the_seed():
    features, y = pairs()
    curves = [
        KronRegressor(**{**SMALL, "shuffle": shuffle, "max_iter": 1, "batch_size": 2}).fit(features, y).loss_curve_
        for shuffle in (True, False)
    ]
    assert curves[0] != curves[1]


# Ends of a training --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("estimator", [KronRegressor, KronClassifier])
def test_early_stopping(estimator):
    features, y = pairs(50)
    y = y if estimator is KronRegressor else labels(y, 2)
    options = {**SMALL, "early_stopping": True, "validation_fraction": 0.2, "max_iter": 300, "n_iter_no_change": 3}
    options["learning_rate_init"] = 200.0
    model = estimator(**{**options, "learning_rate": "constant"}).fit(features, y)
    assert model.stop_reason_ is StopReason.EARLY_STOPPING
    losses = [record["validation_loss"] for record in model.history_]
    assert model.n_iter_ == len(losses) == int(np.argmin(losses)) + 4
    assert model.features_.n_rows == 40


def test_early_stopping_needs_rows():
    features, y = pairs(2)
    with pytest.raises(ValueError, match=r"validation_fraction=0\.0 is out of range"):
        KronRegressor(**SMALL, early_stopping=True, validation_fraction=0).fit(features, y)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("too_much", [{"learning_rate_init": 1e7}, {"learning_rate_init": 10.0, "alpha": 1e300}])
@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_caught_and_explained(engine, too_much):
    features, y = pairs()
    options = {**SMALL, "engine": engine, "max_iter": 50, **too_much}
    with pytest.warns(ConvergenceWarning, match=r"learning_rate_init=1e?\+?07?: the loss grew .* lower"):
        model = KronRegressor(**options).fit(features, y)
    assert model.stop_reason_ is StopReason.DIVERGED
    untrained = KronRegressor(**{**options, "max_iter": 0}).fit(features, y)
    assert_same_bits(model, untrained, features)


def test_divergence_of_a_warm_start_keeps_the_model():
    features, y = pairs()
    model = KronRegressor(**SMALL, warm_start=True).fit(features, y)
    before = pickle.loads(pickle.dumps(model))
    model.set_params(max_iter=50, learning_rate_init=1e7)
    with pytest.warns(ConvergenceWarning):
        model.fit(features, y)
    assert_same_bits(model, before, features)
    assert model.n_iter_ == 3


def test_divergence_of_partial_fit_keeps_the_model():
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "learning_rate_init": 1e30, "batch_size": 3})
    model.partial_fit(features[:2], y[:2])
    before = pickle.loads(pickle.dumps(model))
    with pytest.warns(ConvergenceWarning):
        model.partial_fit(features[2:], y[2:])
    assert model.stop_reason_ is StopReason.DIVERGED
    assert np.isfinite(model.predict(features)).all()
    assert_same_bits(model, before, features)


def test_automatic_step_survives_a_divergence(monkeypatch):
    """learning_rate_init="auto" starts again at half the step."""
    import kronsgd.estimators.base as module

    features, y = pairs()
    monkeypatch.setattr(module, "auto_learning_rate", lambda *args, **kwargs: 10000.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model = KronRegressor(**{**SMALL, "learning_rate_init": "auto", "max_iter": 60}).fit(features, y)
    assert model.stop_reason_ is StopReason.MAX_ITER
    assert model.learning_rate_ in [10000 / 2**k for k in range(1, 6)]
    assert len(model.loss_curve_) == 60


class PressCtrlC(logging.Handler):
    """Presses Ctrl-C from another thread when the second epoch is done."""

    def emit(self, record):
        if "epoch 2:" in record.getMessage():
            thread = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGINT))
            thread.start()
            thread.join()


@pytest.mark.parametrize("early_stopping", [False, True])
def test_ctrl_c_keeps_the_model(early_stopping):
    features, y = pairs()
    logger, handler = logging.getLogger("kronsgd"), PressCtrlC()
    level, before = logger.level, signal.getsignal(signal.SIGINT)
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        options = {**SMALL, "max_iter": 10**5, "learning_rate": "constant", "early_stopping": early_stopping}
        model = KronRegressor(**options).fit(features, y)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
    assert model.stop_reason_ is StopReason.INTERRUPTED
    assert 2 <= model.n_iter_ < 10**5
    assert signal.getsignal(signal.SIGINT) is before
    predicted = model.predict(features)
    assert np.isfinite(predicted).all()
    assert np.ptp(predicted) > 0
    model.partial_fit(features, y)  # it can be trained on


def test_second_ctrl_c_stops_at_once():
    before = signal.getsignal(signal.SIGINT)
    with deferred_interrupt() as pressed:
        assert not pressed()
        signal.raise_signal(signal.SIGINT)
        assert pressed()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_fit_outside_the_main_thread():
    features, y = pairs()
    results = []
    thread = threading.Thread(target=lambda: results.append(KronRegressor(**SMALL).fit(features, y)))
    thread.start()
    thread.join()
    assert_same_bits(results[0], KronRegressor(**SMALL).fit(features, y), features)


def test_converged():
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "tol": 10.0, "n_iter_no_change": 2, "max_iter": 50}).fit(features, y)
    assert model.stop_reason_ is StopReason.CONVERGED
    assert model.n_iter_ == 3


def test_no_neuron_fires():
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "threshold": 50.0, "max_iter": "auto", "learning_rate_init": "auto"})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.fit(features, y)
    assert model.stop_reason_ is StopReason.SILENT
    assert model.n_iter_ == 1


@pytest.mark.parametrize("max_iter", [1, 20])
def test_a_step_that_throws_the_model_off_is_divergence(max_iter):
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "learning_rate_init": 1e7, "max_iter": max_iter})
    with pytest.warns(ConvergenceWarning):
        model.fit(features, y)
    assert model.stop_reason_ is StopReason.DIVERGED


def test_warm_start_takes_a_new_step_and_refuses_another_network():
    features, y = pairs()
    model = KronRegressor(**{**SMALL, "dtype": "float64"}, warm_start=True).fit(features, y)
    before = model.hidden_weights()
    model.set_params(learning_rate_init=1e-30).fit(features, y)
    assert model.learning_rate_ == 1e-30
    np.testing.assert_allclose(model.hidden_weights(), before, rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match=r"threshold=3\.0 differs"):
        model.set_params(threshold=3.0).fit(features, y)


@pytest.mark.parametrize(("scale", "seed"), [(0.1, 0), (0.03, 2)])
def test_an_automatic_step_that_throws_features_off_is_halved(scale, seed):
    """The loss grows far above that of answering 0 and comes down again; what was learned until then is lost."""
    X, y, _ = make_kron_teacher(300, (4, 4), n_neurons=2, noise=0.1, random_state=0, n_entities=200)
    model = KronRegressor(64, output_scale=scale, random_state=seed).fit(X[:100], y[:100])
    assert max(model.loss_curve_) < 0.5
    assert model.score(X[100:], y[100:]) > 0.8


def test_a_divergence_is_seen_before_the_epoch_ends(monkeypatch):
    """On large data an epoch takes long; nothing that follows can make the mean of a loss small again."""
    rng = np.random.default_rng(0)
    X, y = Dense(rng.normal(size=(640, 4))) ** 2, rng.normal(size=640)
    steps = []
    monkeypatch.setattr(loop, "train_step", lambda *args: steps.append(train_step(*args)) or steps[-1])
    with pytest.warns(ConvergenceWarning, match="grew without bound"):
        KronRegressor(64, learning_rate_init=3e5, learning_rate="constant", batch_size=8, random_state=0).fit(X, y)
    assert 1 < len(steps) < 20 < 640 / 8
    assert np.isfinite([loss for loss, _ in steps]).all()
