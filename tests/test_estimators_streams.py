"""`partial_fit` on streams of rows and classes."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.arrays import normal
from helpers.estimators import ENGINES, SMALL, labels, pairs
from kronsgd import KronClassifier, KronRegressor


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
