"""A plain NumPy replay of the estimators' training."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import expit, softmax

from helpers.arrays import normal, relative
from helpers.estimators import ENGINES, EXACT, labels, pairs
from kronsgd import Dense, KronClassifier, KronRegressor


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
