"""One sentence for each mistake in a call of an estimator."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from helpers.arrays import normal
from helpers.estimators import SMALL, pairs
from kronsgd import Dense, KronClassifier, KronRegressor

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
    "misspelt at the start": (lambda: KronRegressor(hidden=3), "'hidden' for estimator KronRegressor.*Did you mean 'n_hidden'"),
    "misspelt classifier": (lambda: KronClassifier(n_hiden=3), "'n_hiden' for estimator KronClassifier"),
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
    "output_scale beyond numbers": (lambda: fit(output_scale=1e200), r"output_scale=1e\+200 .*; allowed is \(0, 1e\+100\]"),
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


def test_a_misspelt_name_at_the_start_is_a_type_error_and_the_signature_stays():
    with pytest.raises(TypeError, match="Did you mean 'alpha'"):
        KronRegressor(alhpa=1.0)
    assert set(inspect.signature(KronRegressor).parameters) == set(KronRegressor().get_params())


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
