"""Estimators: a plain NumPy replay of their training, equalities that must hold to the bit, stops, and mistakes."""

from __future__ import annotations

import logging
import math
import os
import pickle
import signal
import threading
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning, NotFittedError

from kronsgd import RBF, Dense, Kernel, KronClassifier, KronRegressor, OneHot, Sparse, StopReason, Tanimoto, load
from kronsgd.training.interrupt import deferred_interrupt

# Nothing below depends on defaults, but for those that a test names.
PLAIN = {
    "n_jobs": 1, "random_state": 0, "shuffle": False, "tol": 0.0, "n_iter_no_change": 10**6, "output_scale": 0.3,
    "threshold": "auto", "learning_rate": "cosine", "init": "structured", "init_rank": 1, "antisymmetric": True,
    "alpha": 0.0, "train_output": False, "normalize": True,
}  # fmt: skip
SMALL = {**PLAIN, "n_hidden": 40, "batch_size": 8, "learning_rate_init": 20.0, "max_iter": 3}
EXACT = {**SMALL, "dtype": "float64"}
ENGINES = ["scan", "dense"]


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


def pairs(n=30, seed=0):
    """Rows of A * B over two tables, none of them twice, and targets."""
    rng = np.random.default_rng(seed)
    a, b = Dense(rng.normal(size=(8, 4))), Dense(rng.normal(size=(7, 3)))
    cells = rng.permutation(56)[:n]
    return a[cells // 7] * b[cells % 7], rng.normal(size=n) * 3 + 5


def labels(y, n_classes):
    return np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))


def relative(got, expected):
    return np.linalg.norm(got - expected) / np.linalg.norm(expected)


def assert_same_bits(first, second, X):
    """Two models that must not differ in anything that can be asked of them."""
    for what in ("hidden_weights", "predict"):
        mine, theirs = (getattr(m, what)(*([X] if what == "predict" else [])) for m in (first, second))
        assert mine.tobytes() == theirs.tobytes(), what
    assert first.output_weights_.tobytes() == second.output_weights_.tobytes()
    assert (first.fired(X) != second.fired(X)).nnz == 0
    assert first.loss_curve_ == second.loss_curve_


# A training, replayed ------------------------------------------------------------------------------------------------


def replay(model, X, targets, slope):
    """W and a after the training of `model`, by NumPy from public attributes of an untrained twin."""
    twin = type(model)(**{**model.get_params(), "max_iter": 0}).fit(X[0], X[1], X[2])
    w, a, x = twin.hidden_weights(), twin.output_weights_.astype(float), twin.features(X[0]).dense().astype(float)
    if model.normalize:
        x = x / np.linalg.norm(x, axis=1, keepdims=True)
    w0, n, size = w.copy(), len(x), model.batch_size
    scale = model.output_scale / math.sqrt(model.n_hidden)
    weights = np.ones(n) if X[2] is None else X[2] / X[2].mean()
    total, t = model.max_iter * -(-n // size), 0
    for _ in range(model.max_iter):
        for start in range(0, n, size):
            rows = slice(start, min(start + size, n))
            factor = {
                "constant": 1, "linear": 1 - t / total, "cosine": 0.5 * (1 + math.cos(math.pi * t / total)),
            }[model.learning_rate]  # fmt: skip
            rate = twin.learning_rate_ * factor
            hidden = np.maximum(x[rows] @ w.T - twin.threshold_, 0)
            slopes = slope(scale * hidden @ a, targets(twin)[rows]) * weights[rows, None] / len(x[rows])
            gradient = scale * ((hidden > 0) * (slopes @ a.T)).T @ x[rows]
            w = w0 + (1 - rate * model.alpha * scale**2) * (w - w0) - rate * gradient
            if model.train_output:
                a = a - rate * scale * hidden.T @ slopes
            t += 1
    outputs = scale * np.maximum(x @ w.T - twin.threshold_, 0) @ a
    return w, a, outputs


REPLAYED = {
    "plain": {},
    "penalty": {"alpha": 0.3},
    "output weights": {"train_output": True, "learning_rate_init": 15.0},
    "linear schedule, odd batches": {"learning_rate": "linear", "batch_size": 7},
    "constant, true Gaussian start": {"learning_rate": "constant", "init": "gaussian", "antisymmetric": False},
    "threshold, scale, rank": {"threshold": 0.3, "output_scale": 1.0, "init_rank": 3, "learning_rate_init": 2.0},
    "rows as given": {"normalize": False},
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("options", REPLAYED.values(), ids=REPLAYED)
@pytest.mark.parametrize("weighted", [False, True])
def test_regressor_replayed_in_numpy(engine, options, weighted):
    features, y = pairs()
    features = features + 0.5
    w = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else None
    model = KronRegressor(**{**EXACT, "engine": engine, **options}).fit(features, y, w)
    mean = np.average(y, weights=w)
    deviation = math.sqrt(np.average((y - mean) ** 2, weights=w))

    def targets(twin):
        np.testing.assert_allclose([twin.y_mean_[0], twin.y_scale_[0]], [mean, deviation], rtol=1e-12)
        return ((y - twin.y_mean_) / twin.y_scale_)[:, None]

    weights, a, outputs = replay(model, (features, y, w), targets, lambda f, t: f - t)
    start = KronRegressor(**{**EXACT, "engine": engine, **options, "max_iter": 0}).fit(features, y, w)
    assert relative(start.hidden_weights(), weights) > 1e-2  # so that there is something to compare
    assert relative(model.hidden_weights(), weights) < 1e-12
    assert relative(model.output_weights_, a) < 1e-12
    np.testing.assert_allclose(model.predict(features), outputs[:, 0] * deviation + mean, rtol=1e-10)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("options", [{}, {"alpha": 0.1, "train_output": True}], ids=["plain", "all"])
def test_classifier_replayed_in_numpy(engine, n_classes, options):
    features, y = pairs()
    names = np.array(["d", "c", "b", "a"])[labels(y, n_classes)]
    model = KronClassifier(**{**EXACT, "engine": engine, **options}).fit(features, names)
    assert model.classes_.tolist() == sorted(set(names))
    codes = np.searchsorted(model.classes_, names)
    if n_classes == 2:
        weights, _, outputs = replay(
            model, (features, names, None), lambda _: codes[:, None], lambda f, t: expit(f) - t
        )
        probabilities = np.column_stack([1 - expit(outputs), expit(outputs)])
    else:
        weights, _, outputs = replay(
            model, (features, names, None), lambda _: np.eye(4)[codes], lambda f, t: softmax(f, axis=1) - t
        )
        probabilities = softmax(outputs, axis=1)
    assert relative(model.hidden_weights(), weights) < 1e-12
    np.testing.assert_allclose(model.predict_proba(features), probabilities, rtol=1e-10)
    decisions = outputs[:, 0] if n_classes == 2 else outputs
    np.testing.assert_allclose(model.decision_function(features), decisions, rtol=1e-9, atol=1e-12)
    assert np.array_equal(model.predict(features), model.classes_[probabilities.argmax(axis=1)])


def test_plain_arrays_become_all_pairwise_interactions():
    x, y = 3 * normal(20, 3) + 1, normal(20, seed=1)
    model = KronRegressor(**EXACT).fit(x, y)
    z = (x - x.mean(axis=0)) / x.std(axis=0) / math.sqrt(3)
    ones = np.column_stack([np.ones(20), z])
    expected = np.einsum("ni,nj->nij", ones, ones).reshape(20, -1)
    np.testing.assert_allclose(model.features(x).dense(), expected, atol=1e-12)
    same = KronRegressor(**EXACT).fit((1 + Dense(z, normalize=False)) ** 2, y)
    np.testing.assert_allclose(model.predict(x), same.predict((1 + Dense(z, normalize=False)) ** 2), rtol=1e-9)
    raw = KronRegressor(**EXACT, standardize=False).fit(x, y)
    np.testing.assert_allclose(raw.features(x).dense()[:, 1:4], x / math.sqrt(3), rtol=1e-12)


# Equalities ----------------------------------------------------------------------------------------------------------


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


def every_leaf(n=24):
    """An expression with every kind of leaf in it, and targets."""
    rng = np.random.default_rng(3)
    i, j = rng.integers(0, 6, n), rng.permutation(n)
    table = rng.normal(size=(6, 20))
    features = (
        Dense(rng.normal(size=(6, 3)))[i] * Kernel(table @ table.T)[i] * OneHot(np.arange(3))[j % 3]
        + RBF(rng.normal(size=(n, 2)))[j] * Tanimoto(rng.integers(0, 2, (n, 9)).astype(float))[j]
        + Sparse(sp.random(n, 30, 0.4, random_state=0))[j]
    )
    return features, rng.normal(size=n)


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


@pytest.mark.parametrize("engine", ENGINES)
def test_divergence_is_caught_and_explained(engine):
    features, y = pairs()
    options = {**SMALL, "engine": engine, "learning_rate_init": 1e7, "max_iter": 50}
    with pytest.warns(ConvergenceWarning, match=r"learning_rate_init=1e\+07: the loss grew .* lower"):
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


# Streams -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
def test_stream_that_repeats_rows_does_not_grow(engine):
    features, y = pairs()
    model = KronRegressor(**SMALL, engine=engine)
    for rows in (slice(0, 10), slice(5, 20), slice(0, 20)):
        model.partial_fit(features[rows], y[rows])
    assert model.features_.n_rows == 20
    assert model.n_iter_ == 3


def test_stream_of_plain_arrays_in_another_precision():
    x, y = normal(10, 3).astype(np.float32), normal(10, seed=1)
    model = KronRegressor(**SMALL).partial_fit(x, y)
    for _ in range(3):
        model.partial_fit(x.astype(np.float64), y)
    assert model.features_.n_rows <= 20


def test_classes_of_a_stream():
    features, y = pairs()
    codes = labels(y, 2)
    model = KronClassifier(**SMALL).partial_fit(features, codes, classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict_proba(features).shape == (30, 3)
    with pytest.raises(ValueError, match=r"class .*5.* is not one of the model's classes"):
        model.partial_fit(features, np.full(30, 5))
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        KronClassifier(**SMALL).partial_fit(features, codes)


def test_classes_promised_to_a_call_that_failed_are_forgotten():
    features, y = pairs()
    model = KronClassifier(**SMALL)
    with pytest.raises(ValueError, match="rows"):
        model.partial_fit(features, labels(y, 2)[:5], classes=[0, 1])
    assert model.fit(features, labels(y, 2) + 7).classes_.tolist() == [7, 8]


def test_classes_promised_after_a_fit_that_failed_are_kept():
    features, y = pairs()
    model = KronClassifier(**SMALL)
    with pytest.raises(ValueError, match="only one class"):
        model.fit(features, np.zeros(30))
    model.partial_fit(features, labels(y, 2), classes=[0, 1, 2])
    assert model.classes_.tolist() == [0, 1, 2]


# Mistakes ------------------------------------------------------------------------------------------------------------

F, Y = pairs()
X = normal(30, 3)


def fit(X=X, y=Y, estimator=KronRegressor, weights=None, **options):
    return estimator(**{**SMALL, **options}).fit(X, y, weights)


def with_value(array, value):
    array = array.astype(float)
    array.flat[3] = value
    return array


MISTAKES = {
    "misspelt parameter": (lambda: KronRegressor().set_params(n_hiden=3), "'n_hiden'.*Did you mean 'n_hidden'"),
    "misspelt engine": (lambda: fit(engine="scna"), "engine='scna' is not known.*Did you mean 'scan'"),
    "misspelt schedule": (lambda: fit(learning_rate="cosin"), "Did you mean 'cosine'"),
    "misspelt init": (lambda: fit(init="gausian"), "Did you mean 'gaussian'"),
    "misspelt dtype": (lambda: fit(dtype="float23"), "Did you mean 'float32'"),
    "n_hidden of 0": (lambda: fit(n_hidden=0), "n_hidden=0 is out of range"),
    "odd n_hidden": (lambda: fit(n_hidden=41), "n_hidden=42 or antisymmetric=False"),
    "negative alpha": (lambda: fit(alpha=-1.0), "alpha=-1.0 is out of range"),
    "step of 0": (lambda: fit(learning_rate_init=0.0), "learning_rate_init=0.0"),
    "infinite step": (lambda: fit(learning_rate_init=math.inf), "learning_rate_init=inf"),
    "negative max_iter": (lambda: fit(max_iter=-1), "max_iter=-1"),
    "batch of 0": (lambda: fit(batch_size=0), "batch_size=0"),
    "threshold NaN": (lambda: fit(threshold=math.nan), "threshold=nan"),
    "output_scale of 0": (lambda: fit(output_scale=0.0), "output_scale=0.0"),
    "NaN in X": (lambda: fit(with_value(X, np.nan)), "NaN"),
    "infinity in X": (lambda: fit(with_value(X, np.inf)), "infinity"),
    "NaN in y": (lambda: fit(F, with_value(Y, np.nan)), "NaN"),
    "no y": (lambda: fit(F, None), "target y is None"),
    "text as y": (lambda: fit(F, np.full(30, "a")), "holds text"),
    "three-dimensional y": (lambda: fit(F, np.ones((30, 2, 2))), r"y has shape \(30, 2, 2\)|dim 3"),
    "mismatched rows": (lambda: fit(F, Y[:-1]), "X has 30 rows but y has 29"),
    "mismatched rows of an array": (lambda: fit(X, Y[:-1]), "inconsistent numbers of samples"),
    "one row": (lambda: fit(F[:1], Y[:1]), "n_samples=1; at least 2 rows"),
    "one row of an array": (lambda: fit(X[:1], Y[:1]), "1 sample"),
    "no rows": (lambda: fit(F[:0], Y[:0]), "at least 2 rows"),
    "no rows of an array": (lambda: fit(X[:0], Y[:0]), "0 sample"),
    "one dimension": (lambda: fit(X[:, 0]), "Expected 2D array"),
    "text in X": (lambda: fit(np.full((30, 2), "a")), "could not convert|dtype"),
    "one class": (lambda: fit(F, np.zeros(30), KronClassifier), "only one class"),
    "continuous classes": (lambda: fit(F, Y, KronClassifier), "Unknown label type: continuous"),
    "negative weight": (lambda: fit(F, weights=np.full(30, -1.0)), "no weight may be negative"),
    "no positive weight": (lambda: fit(F, weights=np.zeros(30)), "every weight may be zero"),
    "weights of another length": (lambda: fit(F, weights=np.ones(29)), r"sample_weight has shape \(29,\)"),
    "NaN weight": (lambda: fit(F, weights=with_value(np.ones(30), np.nan)), "NaN"),
    "another expression at predict": (lambda: fit(F).predict(F + 1), "built on Dense"),
    "another dimension at predict": (lambda: fit(F).predict(F.children[0] * F.children[0]), "not of the model's space"),
    "another factor order at predict": (lambda: fit(F).predict(F.children[1] * F.children[0]), "not of the model's space"),
    "an array at predict": (lambda: fit(F).predict(X), "fitted on Dense"),
    "an expression at predict": (lambda: fit(X).predict(F), "fitted on a plain array"),
    "no rows at predict": (lambda: fit(F).predict(F[:0]), "at least 1 rows"),
    "other columns at predict": (lambda: fit(X).predict(X[:, :2]), "2 features.*expecting 3"),
    "another expression in partial_fit": (lambda: fit(F).partial_fit(F + 1, Y), "built on"),
    "a dense product that is too large": (
        lambda: fit(Dense(normal(30, 300)) ** 4, engine="dense"), 'use engine="scan"',
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", MISTAKES)
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.DataConversionWarning")
def test_mistake(name):
    make, message = MISTAKES[name]
    with pytest.raises((ValueError, TypeError), match=f"(?s){message}"):
        make()


def test_not_fitted():
    for ask in ("predict", "fired", "features"):
        with pytest.raises(NotFittedError):
            getattr(KronRegressor(), ask)(F)
    with pytest.raises(NotFittedError):
        KronRegressor().hidden_weights()
    with pytest.raises(NotFittedError):
        KronRegressor().save("nowhere")


def test_mistakes_leave_a_fitted_model_alone():
    """A second fit that is refused does not change what the first one learned."""
    model = fit(F)
    before = model.predict(F)
    for wrong in (lambda: model.fit(F, 100 * Y[:-1]), lambda: model.set_params(n_hidden=3).fit(F, 100 * Y)):
        with pytest.raises(ValueError, match=r"rows|odd"):
            wrong()
    assert np.array_equal(model.predict(F), before)


def test_weights_of_the_loss_are_not_negated_by_order():
    """Rows in another order, one batch: the same model."""
    order = np.random.default_rng(0).permutation(30)
    first = fit(F, dtype="float64", batch_size=30)
    second = fit(F[order], Y[order], dtype="float64", batch_size=30)
    np.testing.assert_allclose(first.predict(F), second.predict(F), rtol=1e-10)


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


def test_order_of_factors_of_equal_width():
    rng = np.random.default_rng(0)
    a, b, y = Dense(rng.normal(size=(30, 4))), Dense(rng.normal(size=(30, 4))), rng.normal(size=30)
    first, second = (KronRegressor(**SMALL, engine="scan").fit(x, y) for x in (a * b, b * a))
    np.testing.assert_array_equal(first.predict(a * b), second.predict(b * a))
