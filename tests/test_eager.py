"""The eager engine: what it stores is what coefficients say, row by row and in the long run."""

import numpy as np
import pytest

from helpers.engines import problem, steps
from kronsgd import Dense, KronClassifier
from kronsgd.engines import EagerEngine
from kronsgd.kernels import eager as kernels
from kronsgd.losses import LOSSES
from kronsgd.testing import EXPRESSIONS, check_engine

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_conforms(loss, dtype, expression):
    check_engine(EagerEngine(), losses=[loss], dtypes=[dtype], expressions=[expression], n_steps=200)


def sums(state):
    """⟨w_r − w_r(0), x_i⟩ from coefficients. Shape: (m, n)."""
    n = state.features.n_rows
    return state.coefficients.matrix(n) @ state.gram.panel(np.arange(n), 1)[:, :, 0]


@pytest.mark.parametrize("alpha", [0.0, 0.5])  # 0.5: a factor of 0.75 a step
@pytest.mark.parametrize("size", [1, 8, 70])
def test_stored_numbers_are_sums_over_coefficients(size, alpha):
    """After steps, after being made anew, and with the decay multiplied in."""
    network, features, targets = problem(n=90)
    engine = EagerEngine()
    state = engine.initialize(network, features)
    for _ in range(3):
        steps(engine, state, targets, 40, size=size, alpha=alpha)
        stored = state.moved[:, : state.n_stored] * state.coefficients.scale
        assert np.abs(stored).max() > 0.01
        np.testing.assert_allclose(stored, sums(state), rtol=0, atol=1e-12)
        engine.arrays(state)
        engine.forward(state, np.arange(3))
        np.testing.assert_allclose(state.moved[:, :90] * state.coefficients.scale, sums(state), rtol=0, atol=1e-12)


def test_a_state_whose_arrays_were_taken_goes_on_as_one_that_got_them():
    """To the last bit, though its own numbers had been rounded in another order."""
    network, features, targets = problem(n=90, dtype="float32")
    engine = EagerEngine()
    mine, its = (engine.initialize(network, features) for _ in range(2))
    steps(engine, mine, targets, 60)
    engine.restore(its, {name: array.copy() for name, array in engine.arrays(mine).items()})
    for state in (mine, its):
        steps(engine, state, targets, 5, seed=1)
    assert mine.moved.tobytes() == its.moved.tobytes()
    assert engine.hidden_weights(mine).tobytes() == engine.hidden_weights(its).tobytes()


def test_only_the_numbers_of_new_rows_are_made(monkeypatch):
    made, fill = [], kernels.fill
    monkeypatch.setattr(kernels, "fill", lambda moved, *rest: (made.append(moved.shape[1]), fill(moved, *rest))[1])
    rng = np.random.default_rng(0)
    X, y = Dense(rng.normal(size=(90, 5))) * Dense(rng.normal(size=(90, 4))), np.arange(90) % 2
    model = KronClassifier(32, engine="eager", batch_size=1, learning_rate_init=1.0, random_state=0)
    model.partial_fit(X[:70], y[:70], classes=[0, 1])
    made.clear()
    for k in range(70, 90):
        model.partial_fit(X[k : k + 1], y[k : k + 1])
    assert sum(made[1:]) == 19  # after the first, which follows a copy of the state
    whole = KronClassifier(32, engine="scan", batch_size=1, learning_rate_init=1.0, random_state=0)
    for start, stop in ((0, 70), *((k, k + 1) for k in range(70, 90))):
        whole.partial_fit(X[start:stop], y[start:stop], classes=[0, 1])
    np.testing.assert_allclose(model.predict_proba(X), whole.predict_proba(X), rtol=0, atol=1e-12)


def test_streams_take_another_engine_unless_asked():
    rng = np.random.default_rng(0)
    X, y = Dense(rng.normal(size=(300, 30))) * Dense(rng.normal(size=(300, 30))), np.arange(300) % 2
    options = {"batch_size": 1, "max_iter": 1, "learning_rate_init": 1.0, "threshold": 0.0}
    assert KronClassifier(256, **options).fit(X, y).engine_ == "eager"
    assert KronClassifier(256, **options).partial_fit(X, y, classes=[0, 1]).engine_ == "scan"
