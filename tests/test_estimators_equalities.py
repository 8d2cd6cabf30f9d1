"""Equalities of trained models, many of which must hold to the bit."""

from __future__ import annotations

import math
import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.arrays import normal, relative
from helpers.estimators import ENGINES, EXACT, SMALL, assert_same_bits, every_leaf, labels, pairs
from kronsgd import Dense, Kernel, KronClassifier, KronRegressor, OneHot, StopReason, load


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_factor_of_size_one_changes_nothing(engine, dtype):
    """Under the true Gaussian start, bit for bit; the structured start draws one more random number per factor."""
    a, y = Dense(normal(12, 5)), normal(12, seed=1)
    one = OneHot(np.zeros(12, dtype=int))
    options = {**SMALL, "engine": engine, "dtype": dtype, "init": "gaussian"}
    first, second = KronRegressor(**options).fit(one * a, y), KronRegressor(**options).fit(a, y)
    assert first.predict(one * a).tobytes() == second.predict(a).tobytes()
    assert first.hidden_weights().tobytes() == second.hidden_weights().tobytes()
    assert (first.fired(one * a) != second.fired(a)).nnz == 0
    assert first.loss_curve_ == second.loss_curve_
    start = KronRegressor(**{**options, "max_iter": 0}).fit(a, y)
    assert relative(second.hidden_weights(), start.hidden_weights()) > 1e-2


@pytest.mark.parametrize("engine", ENGINES)
def test_order_of_factors_changes_nothing(engine):
    """A * B and B * A to the bit where the dimensions tell the factors apart."""
    features, y = pairs()
    a, b = features.children
    options = {**SMALL, "engine": engine}
    first, second = KronRegressor(**options).fit(a * b, y), KronRegressor(**options).fit(b * a, y)
    if engine == "scan":
        assert first.predict(a * b).tobytes() == second.predict(b * a).tobytes()
        assert first.loss_curve_ == second.loss_curve_
    np.testing.assert_allclose(first.predict(a * b), second.predict(b * a), rtol=1e-4)
    mine, theirs = first.hidden_weights().reshape(-1, 4, 3), second.hidden_weights().reshape(-1, 3, 4)
    np.testing.assert_allclose(mine, theirs.transpose(0, 2, 1), rtol=1e-4, atol=1e-5)
    assert (first.fired(a * b) != second.fired(b * a)).nnz == 0


@pytest.mark.parametrize("engine", ENGINES)
def test_batch_is_the_mean_of_single_gradients(engine):
    features, y = pairs(6)
    codes = labels(y, 2)

    def change(rows):
        options = {**EXACT, "engine": engine, "learning_rate_init": 30.0, "batch_size": 6}
        model = KronClassifier(**options)
        model.partial_fit(features[rows], codes[rows], classes=[0, 1])
        start = KronClassifier(**options).set_params(max_iter=0).fit(features, codes).hidden_weights()
        return model.hidden_weights() - start

    single = np.mean([change([i]) for i in range(6)], axis=0)
    assert np.linalg.norm(single) > 0.1
    np.testing.assert_allclose(change(slice(None)), single, atol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
def test_integer_weights_are_repetitions(engine):
    features, y = pairs(10)
    counts = np.array([1, 2, 3, 1, 1, 4, 1, 2, 1, 1])
    repeated = np.repeat(np.arange(10), counts)
    options = {**EXACT, "engine": engine, "batch_size": 100}
    weighted = KronRegressor(**options).fit(features, y, counts)
    plain = KronRegressor(**options).fit(features[repeated], y[repeated])
    np.testing.assert_allclose(weighted.hidden_weights(), plain.hidden_weights(), atol=1e-12)
    np.testing.assert_allclose(weighted.loss_curve_, plain.loss_curve_, rtol=1e-12)
    np.testing.assert_allclose(weighted.predict(features), plain.predict(features), rtol=1e-12)
    doubled = KronRegressor(**options).fit(features, y, 2 * counts)
    np.testing.assert_allclose(weighted.predict(features), doubled.predict(features), rtol=1e-12)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("estimator", [KronRegressor, KronClassifier])
def test_zero_weights_are_removed_rows(engine, estimator):
    features, y = pairs()
    y = y if estimator is KronRegressor else labels(y, 3)
    weights = np.random.default_rng(2).integers(0, 3, 30).astype(float)
    kept = weights > 0
    options = {**SMALL, "engine": engine, "shuffle": True}
    first = estimator(**options).fit(features, y, weights)
    assert_same_bits(first, estimator(**options).fit(features[kept], y[kept], weights[kept]), features)


def copies_by(how, tmp_path):
    if how == "pickle":
        return lambda model: pickle.loads(pickle.dumps(model))

    def saved(model):
        model.save(tmp_path / "model.kron")
        return load(tmp_path / "model.kron")

    return saved


@pytest.mark.parametrize("how", ["file", "pickle"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("data", [pairs, every_leaf])
def test_stream_continued_after_a_copy_to_the_bit(how, engine, data, tmp_path):
    features, y = data()
    copied = copies_by(how, tmp_path)
    options = {**SMALL, "engine": engine, "learning_rate": "constant", "alpha": 0.1, "train_output": True}
    options["learning_rate_init"] = 2.0
    first, second = KronRegressor(**options), KronRegressor(**options)
    chunks = [slice(0, 9), slice(9, 10), slice(0, 12), slice(10, 24)]
    for rows in chunks:
        first.partial_fit(features[rows], y[rows])
        second = copied(second.partial_fit(features[rows], y[rows]))
    assert second.features_.n_rows == 24
    assert second.stop_reason_ is StopReason.PARTIAL
    assert_same_bits(first, second, features)


@pytest.mark.parametrize("how", ["file", "pickle"])
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("data", [pairs, every_leaf])
def test_warm_start_after_a_copy_to_the_bit(how, engine, data, tmp_path):
    features, y = data()
    options = {**SMALL, "engine": engine, "learning_rate": "constant", "warm_start": True, "shuffle": True}
    options["alpha"] = 0.1
    whole = KronRegressor(**{**options, "max_iter": 4}).fit(features, y)
    parts = KronRegressor(**{**options, "max_iter": 2}).fit(features, y)
    parts = copies_by(how, tmp_path)(parts).fit(features, y)
    assert parts.n_iter_ == whole.n_iter_ == 4
    assert_same_bits(parts, whole, features)


def test_warm_start_with_another_number_of_epochs():
    features, y = pairs()
    options = {**SMALL, "learning_rate": "constant", "warm_start": True}
    parts = KronRegressor(**{**options, "max_iter": 1}).fit(features, y).set_params(max_iter=3).fit(features, y)
    assert parts.n_iter_ == 4
    assert_same_bits(parts, KronRegressor(**{**options, "max_iter": 4}).fit(features, y), features)


def test_partial_fit_is_an_epoch_in_order():
    features, y = pairs()
    options = {**SMALL, "learning_rate": "constant", "max_iter": 1}
    whole, part = KronRegressor(**options).fit(features, y), KronRegressor(**options).partial_fit(features, y)
    assert_same_bits(whole, part, features)


def test_partial_fit_after_load_without_an_epoch_count(tmp_path):
    """A stream's model was never told how many epochs to train; it can be fitted on."""
    features, y = pairs()
    options = {**SMALL, "warm_start": True}
    del options["max_iter"]
    KronRegressor(**options).partial_fit(features, y).save(tmp_path / "m")
    model = load(tmp_path / "m").set_params(max_iter=2).fit(features, y)
    assert model.n_iter_ == 3


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("init", ["structured", "gaussian"])
def test_number_of_threads_changes_no_bit(engine, init):
    features, y = every_leaf(40)
    options = {**SMALL, "engine": engine, "init": init, "n_hidden": 130, "batch_size": 20, "train_output": True}
    options |= {"learning_rate_init": 2.0, "max_iter": 2, "shuffle": True}
    one = KronRegressor(**options).fit(features, y)
    two = KronRegressor(**{**options, "n_jobs": 2}).fit(features, y)
    assert_same_bits(one, two, features[::-1])


@pytest.mark.parametrize("engine", ENGINES)
def test_number_of_threads_changes_no_bit_of_large_tables(engine):
    """More entities than one tile of a product, and a kernel whose eigenvectors BLAS could compute on two threads."""
    rng = np.random.default_rng(0)
    table = rng.normal(size=(300, 400))
    i = rng.integers(0, 300, 2500)
    features, y = Dense(rng.normal(size=(2500, 3))) + Kernel(table @ table.T)[i], rng.normal(size=2500)
    options = {**SMALL, "engine": engine, "n_hidden": 20, "batch_size": 800, "max_iter": 1}
    one = KronRegressor(**options).fit(features, y)
    two = KronRegressor(**{**options, "n_jobs": 2}).fit(features, y)
    assert_same_bits(one, two, features[:100])


def test_engines_agree():
    features, y = pairs()
    scan, dense = (KronRegressor(**EXACT, engine=engine).fit(features, y) for engine in ENGINES)
    assert relative(scan.hidden_weights(), dense.hidden_weights()) < 1e-12
    assert (scan.fired(features) != dense.fired(features)).nnz == 0
    np.testing.assert_allclose(scan.predict(features), dense.predict(features), rtol=1e-12)
    assert scan.engine_ == "scan"
    assert dense.engine_ == "dense"
    for model in (scan, dense):
        assert KronRegressor(**{**EXACT, "engine": "auto"}).fit(features, y).engine_ in ENGINES
        assert model.features_.n_rows == 30


@pytest.mark.parametrize("engine", ENGINES)
def test_fired_sets_from_hidden_weights(engine):
    features, y = pairs()
    model = KronRegressor(**EXACT, engine=engine).fit(features, y)
    new = features[[3, 1, 2]]
    x = model.features_.coordinates(new)
    z = x / np.linalg.norm(x, axis=1, keepdims=True) @ model.hidden_weights().T
    fired = model.fired(new)
    assert isinstance(fired, sp.csr_array)
    assert fired.dtype == bool
    assert fired.shape == (3, 40)
    assert np.array_equal(fired.toarray(), z > model.threshold_)
    assert 0 < fired.nnz < 120


def test_threshold_by_default():
    model = KronRegressor(**{**EXACT, "n_hidden": 100, "max_iter": 0}).fit(*pairs())
    assert model.threshold_ == math.sqrt(0.4 * math.log(100))


def test_weights_of_the_loss_are_not_negated_by_order():
    """Rows in another order, one batch: the same model."""
    features, y = pairs()
    order = np.random.default_rng(0).permutation(30)
    model = lambda: KronRegressor(**{**EXACT, "batch_size": 30})  # noqa: E731
    first, second = model().fit(features, y), model().fit(features[order], y[order])
    np.testing.assert_allclose(first.predict(features), second.predict(features), rtol=1e-10)


def test_predictions_of_several_threads_at_once():
    """A fitted model holds no buffer that two predictions share."""
    from concurrent.futures import ThreadPoolExecutor

    features, y = pairs()
    model = KronRegressor(**SMALL, engine="scan").fit(features, y)
    views = [model._engine.view(model.state_, features) for _ in range(2)]
    first = model._engine.forward(model.state_, np.arange(3), views[0])
    kept = first.hidden.copy()
    model._engine.forward(model.state_, np.arange(3, 6), views[1])
    np.testing.assert_array_equal(first.hidden, kept)
    with ThreadPoolExecutor(1) as pool:
        np.testing.assert_array_equal(pool.submit(model.predict, features).result(), model.predict(features))


def test_order_of_factors_of_equal_width():
    rng = np.random.default_rng(0)
    a, b, y = Dense(rng.normal(size=(30, 4))), Dense(rng.normal(size=(30, 4))), rng.normal(size=30)
    first, second = (KronRegressor(**SMALL, engine="scan").fit(x, y) for x in (a * b, b * a))
    np.testing.assert_array_equal(first.predict(a * b), second.predict(b * a))
