"""Engines against the dense one in float64: conformance, output weights, the penalty, starting weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from helpers.arrays import relative
from helpers.engines import ENGINES, problem, steps, twins
from kronsgd import Dense, Kernel, OneHot
from kronsgd.engines import DenseEngine, ScanEngine
from kronsgd.engines import coefficients as coefficients_module
from kronsgd.engines.coefficients import Coefficients
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.testing import EXPRESSIONS, check_engine

pytestmark = pytest.mark.usefixtures("one_thread")


# Conformance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_scan_engine_conforms(loss, dtype, expression):
    check_engine(ScanEngine(), losses=[loss], dtypes=[dtype], expressions=[expression], n_steps=200)


def test_dense_engine_conforms():
    check_engine(DenseEngine(), batch_sizes=[8], n_steps=40)


def test_many_outputs_and_several_tiles():
    """Batches of more than 64 rows use more than one tile; the last one is not full."""
    rng = np.random.default_rng(1)
    features = EXPRESSIONS["A * A * K"](rng, 150)
    network = TwoLayer(n_hidden=20, n_outputs=5, output_scale=1.0, dtype="float64", train_output=True)
    targets = rng.normal(size=(150, 5))
    weights = []
    for engine in (ScanEngine(), DenseEngine()):
        state = engine.initialize(network, features)
        steps(engine, state, targets, 20, size=140)
        weights.append((engine.hidden_weights(state), state.output_weights, engine.outputs(state, features)))
    for mine, exact in zip(*weights, strict=True):
        assert relative(mine, exact) < 1e-12


class Sloppy(ScanEngine):
    """Forgets the penalty."""

    def backward(self, state, activations, slopes, step, alpha=0.0):
        return super().backward(state, activations, slopes, step, 0.0)


class Shifted(ScanEngine):
    """Uses a threshold that is off by a little."""

    def initialize(self, network, features, normalize=True, basis=None):
        return super().initialize(replace(network, threshold=network.threshold + 1e-6), features, normalize, basis)


class Amnesic(ScanEngine):
    """Does not restore output weights."""

    def restore(self, state, arrays):
        kept = state.output_weights
        super().restore(state, arrays)
        state.output_weights = kept


@pytest.mark.parametrize(
    ("engine", "message"), [(Sloppy(), "max"), (Shifted(), "max"), (Amnesic(), "output weights|outputs")]
)
def test_check_engine_can_fail(engine, message):
    with pytest.raises(AssertionError, match=message):
        check_engine(engine, expressions=["A * B"], batch_sizes=[16], dtypes=["float64"], n_steps=20)


@pytest.mark.parametrize("name", ENGINES)
def test_extending_by_no_rows_changes_nothing(name):
    network, features, targets = problem()
    engine = ENGINES[name]
    state = engine.initialize(network, features)
    steps(engine, state, targets, 5)
    before = engine.outputs(state, features)
    state = engine.extend(state, features)
    np.testing.assert_allclose(engine.outputs(state, features), before, rtol=1e-10)  # the grid adds up in another order
    steps(engine, state, targets, 5)


# Output weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
@pytest.mark.parametrize("train_output", [True, False])
def test_output_weights_follow_their_gradient(engine, train_output):
    network, features, targets = problem(n_outputs=2, train_output=train_output)
    state = engine.initialize(network, features)
    a, w, x = state.output_weights.copy(), engine.hidden_weights(state), features.dense()
    rows = np.arange(8)
    hidden = np.maximum(x[rows] @ w.T - network.threshold, 0)
    slopes = (network.scale * hidden @ a - targets[rows]) / 8
    activations = engine.forward(state, rows)
    np.testing.assert_allclose(activations.outputs, network.scale * hidden @ a, atol=1e-13)
    engine.update(state, engine.backward(state, activations, slopes, 0.7))
    expected = a - 0.7 * network.scale * hidden.T @ slopes if train_output else a
    np.testing.assert_allclose(state.output_weights, expected, atol=1e-13)
    fires = (hidden > 0) * (slopes @ a.T)
    np.testing.assert_allclose(engine.hidden_weights(state), w - 0.7 * network.scale * fires.T @ x[rows], atol=1e-13)


# The penalty ---------------------------------------------------------------------------------------------------------


def test_penalty_pulls_back_to_the_start():
    for engine in ENGINES.values():
        network, features, targets = problem()
        state = engine.initialize(network, features)
        start = engine.hidden_weights(state)
        steps(engine, state, targets, 5)
        learned = engine.hidden_weights(state) - start
        activations = engine.forward(state, np.arange(4))
        engine.update(state, engine.backward(state, activations, np.zeros((4, 1)), 0.5, alpha=0.4))
        np.testing.assert_allclose(engine.hidden_weights(state) - start, 0.8 * learned, atol=1e-14)


def test_decay_is_lazy_until_the_scale_is_small(monkeypatch):
    scales = []

    def watched(self, factor, decay=Coefficients.decay):
        decay(self, factor)
        scales.append(self.scale)

    monkeypatch.setattr(Coefficients, "decay", watched)
    (scan, ours), (dense, exact) = twins(n_steps=60, rate=0.5, alpha=0.8)
    assert min(scales) >= coefficients_module.SMALLEST_SCALE
    assert scales.count(1.0) == 2  # 0.6^28 is the first power below 1e-6: two renormalisations in 60 steps
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12
    learned = ours.coefficients.matrix(30)
    assert learned.nnz > 100
    assert ours.coefficients.scale != 1


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_decay_with_a_renormalisation_at_every_step(monkeypatch, dtype):
    monkeypatch.setattr(coefficients_module, "SMALLEST_SCALE", 0.99)
    (scan, ours), (dense, exact) = twins(n_steps=60, rate=0.5, alpha=0.1, dtype=dtype)
    assert ours.coefficients.scale == 1
    allowed = {"float64": 1e-12, "float32": 1e-5}[dtype]
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < allowed


@pytest.mark.parametrize("alpha", [2.0, 3.0], ids=["all of it", "more than all of it"])
def test_penalty_that_takes_back_everything(alpha):
    """rate · alpha ≥ 1: a decay of 0 or below is a step like any other."""
    (scan, ours), (dense, exact) = twins(n_steps=10, rate=0.5, alpha=alpha)
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12


# Starting weights ----------------------------------------------------------------------------------------------------


def test_structured_start_has_the_covariance_of_the_rows():
    """E[⟨w, x⟩⟨w, x'⟩] = ⟨x, x'⟩ for every rank."""
    rng = np.random.default_rng(0)
    features = (1 + Dense(rng.normal(size=(4, 2)))) * OneHot([0, 1, 1, 0]) + Kernel(np.eye(4) * 0.5 + 0.5)
    for rank in (1, 3):
        network = TwoLayer(n_hidden=20000, antisymmetric=False, init_rank=rank, dtype="float64")
        z = ScanEngine().initialize(network, features, normalize=False).start(np.arange(4))
        np.testing.assert_allclose(z @ z.T / 20000, features.inner(), atol=0.12)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_antisymmetric_pairs_start_at_zero(engine):
    network, features, _ = problem(n_outputs=3)
    state = engine.initialize(network, features)
    assert np.abs(engine.outputs(state, features)).max() < 1e-14
    weights = engine.hidden_weights(state)
    assert np.array_equal(weights[::2], weights[1::2])
    assert np.array_equal(state.output_weights[::2], -state.output_weights[1::2])


def test_sizes_that_cannot_be_built_are_refused():
    rng = np.random.default_rng(0)
    features = Dense(rng.normal(size=(5, 1000))) ** 4
    network = TwoLayer(n_hidden=10)
    with pytest.raises(ValueError, match='use engine="scan"'):
        DenseEngine().initialize(network, features)
    with pytest.raises(ValueError, match='use init="structured"'):
        ScanEngine().initialize(replace(network, init="gaussian"), features)
    state = ScanEngine().initialize(network, features)
    with pytest.raises(ValueError, match="ask for fired sets and predictions"):
        ScanEngine().hidden_weights(state)
    assert ScanEngine().outputs(state, features).shape == (5, 1)


def test_engine_on_an_odd_number_of_neurons():
    with pytest.raises(ValueError, match="choose n_hidden=6 or antisymmetric=False"):
        TwoLayer(n_hidden=5)
    (scan, ours), (dense, exact) = twins(m=135, antisymmetric=False)  # blocks of 4, the last of 3
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12
