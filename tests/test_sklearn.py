"""The estimators as citizens of scikit-learn: its own checks, and cross-validation over feature expressions."""

from __future__ import annotations

import io
import pickle

import joblib
import numpy as np
import pytest
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from kronsgd import Dense, KronClassifier, KronRegressor

pytestmark = pytest.mark.usefixtures("one_thread")


QUICK = {"n_hidden": 64, "n_jobs": 1, "random_state": 0, "max_iter": 15, "output_scale": 0.3}


@parametrize_with_checks([KronRegressor(n_hidden=64), KronClassifier(n_hidden=64)])
def test_conforms_to_scikit_learn(estimator, check):
    check(estimator)


@pytest.fixture
def problem():
    """A bilinear target over pairs of two tables."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(20, 3)), rng.normal(size=(15, 2))
    i, j = rng.integers(0, 20, 150), rng.integers(0, 15, 150)
    return Dense(a)[i] * Dense(b)[j], a[i, 0] * b[j, 1], i


def test_cross_validation_over_an_expression(problem):
    features, y, groups = problem
    scores = cross_val_score(KronRegressor(**QUICK), features, y, cv=3)
    assert scores.shape == (3,)
    assert (scores > 0.3).all()
    by_group = cross_val_score(KronRegressor(**QUICK), features, y, groups=groups, cv=GroupKFold(3))
    assert np.isfinite(by_group).all()
    accuracy = cross_val_score(KronClassifier(**QUICK), features, y > 0, cv=3)  # stratified by class
    assert (accuracy > 0.6).all()


def test_grid_search_over_an_expression_in_two_processes(problem):
    features, y, _ = problem
    grid = {"alpha": [0.0, 1e9], "n_hidden": [32, 64]}
    search = GridSearchCV(KronRegressor(**{**QUICK, "learning_rate_init": 5.0}), grid, cv=2, n_jobs=2).fit(features, y)
    assert search.best_params_["alpha"] == 0
    alone = KronRegressor(**{**QUICK, "learning_rate_init": 5.0, **search.best_params_}).fit(features, y)
    assert np.array_equal(search.predict(features), alone.predict(features))


def test_pipeline_on_plain_arrays():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(120, 3)) * [1, 100, 0.01]
    y = x[:, 0] * x[:, 1]
    model = make_pipeline(StandardScaler(), KronRegressor(**{**QUICK, "n_hidden": 256, "max_iter": 40})).fit(x, y)
    assert model.score(x, y) > 0.5
    assert clone(model).fit(x, y).score(x, y) == model.score(x, y)


@pytest.mark.parametrize("estimator", [KronRegressor, KronClassifier])
def test_copies(problem, estimator):
    features, y, _ = problem
    y = y if estimator is KronRegressor else y > 0
    model = estimator(**QUICK).fit(features, y)
    buffer = io.BytesIO()
    joblib.dump(model, buffer)
    buffer.seek(0)
    for copied in (pickle.loads(pickle.dumps(model)), joblib.load(buffer), clone(model).fit(features, y)):
        assert copied.get_params() == model.get_params()
        assert np.array_equal(copied.predict(features), model.predict(features))
    assert not hasattr(clone(model), "state_")
    assert repr(clone(model)) == repr(estimator(**QUICK))
