"""α in bfloat16: how it is rounded, what that changes, and that nothing else depends on it."""

from __future__ import annotations

import os
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from numba import njit
from sklearn.base import clone

import kronsgd as ks
from helpers.arrays import relative
from helpers.checkpoints import ended_after, fit, pairs, saved
from helpers.engines import problem, steps
from helpers.planner import pairs as planned_pairs
from kronsgd import Checkpoint, KronRegressor
from kronsgd.engines import ENGINES, GridEngine, ScanEngine
from kronsgd.engines.coefficients import Added, Coefficients
from kronsgd.engines.segments import Segments
from kronsgd.kernels.bfloat16 import HALF, noise, rounded, salt_of, to_bfloat16, to_float, widen
from kronsgd.network import TwoLayer

pytestmark = pytest.mark.usefixtures("one_thread")
NARROW = {"coefficient_dtype": "bfloat16"}
UNIT = 2.0**-7  # the most that a number is rounded by, at random, in parts of itself
KEEPS = [GridEngine(), ScanEngine()]


@njit
def put(alpha, values, noises):
    for k in range(len(alpha)):
        alpha[k] = rounded(alpha[k], widen(alpha[k]) + values[k], noises[k])


@njit
def many_noises(salt, rows, neurons):
    out = np.empty((rows, neurons))
    for i in range(rows):
        for r in range(neurons):
            out[i, r] = noise(salt, i, r)
    return out


def test_numbers_are_rounded_to_their_neighbours():
    values = np.float32([1, 1 + 1 / 512, 1 + 3 / 512, -1.3, 1e-30, 3.4e38, np.inf, -np.inf, 0])
    nearest, finite = to_float(to_bfloat16(values)), np.arange(5)
    expected = np.float32([1, 1, 1 + 1 / 128, -1.296875, nearest[4], np.inf, np.inf, -np.inf, 0])
    np.testing.assert_array_equal(nearest, expected)
    assert abs(nearest[4] / values[4] - 1) <= UNIT / 2
    for most, direction in ((0, np.less_equal), (2**16 - 1, np.greater_equal), (HALF, np.equal)):
        alpha = np.zeros(len(values), np.uint16)
        put(alpha, values, np.full(len(values), most))
        if most == HALF:
            np.testing.assert_array_equal(to_float(alpha), nearest)
        else:
            assert direction(abs(to_float(alpha)), abs(values))[finite].all()
        assert (abs(to_float(alpha[finite]) - values[finite]) <= UNIT * abs(values[finite])).all()
    assert to_float(np.ones(2)).dtype == np.float64


def test_what_has_diverged_stays_visible():
    broken = np.uint32([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001]).view(np.float32)
    for extra in (0, HALF, 2**16 - 1):
        alpha = np.zeros(3, np.uint16)
        put(alpha, broken, np.full(3, extra))
        assert np.isnan(to_float(alpha)).all()
    assert np.isnan(to_float(to_bfloat16(broken))).all()


def test_random_bits_are_even_and_those_of_every_step_row_and_neuron_are_others():
    bits = many_noises(salt_of(7, 0), 300, 200)
    assert bits.min() >= 0
    assert bits.max() < 2**16
    assert abs(bits.mean() / 2**15 - 1) < 0.01
    for other in (many_noises(salt_of(8, 0), 300, 200), np.roll(bits, 1, axis=0), np.roll(bits, 1, axis=1)):
        assert abs(np.corrcoef(bits.ravel(), other.ravel())[0, 1]) < 0.02
    np.testing.assert_array_equal(many_noises(salt_of(7, 50), 300, 150), bits[:, 50:])  # on a rank that starts at neuron 50


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_other_arrays_are_added_to_as_ever(dtype):
    alpha = np.array([1, 2], dtype)
    put(alpha, np.array([1e-7, 3], dtype), np.array([1, 2**16 - 1]))
    np.testing.assert_array_equal(alpha, np.array([1, 2], dtype) + np.array([1e-7, 3], dtype))


def test_increments_far_below_the_last_bit_are_not_lost():
    """A thousandth, a thousand times; to the nearest number, 1 would stay 1."""
    m, n = 100, 20
    c = Coefficients.empty(Segments.of(np.array([0, m]), n), TwoLayer(m, **NARROW))
    c.set_lists(np.arange(m + 1) * n, np.tile(np.arange(n, dtype=np.int32), m), to_bfloat16(np.ones(m * n)))
    fired, ones = np.full((1, m), (1 << n) - 1, np.uint64), np.ones((m, 1), np.float32)
    added = Added(fired, np.full((1, 1, 64), 1e-3, np.float32), ones, np.arange(n))
    for _ in range(1000):
        c.add(added)
    assert c.nnz == len(c.values) == m * n
    values = to_float(c.values)
    assert abs(values.mean() - 2) < 0.01
    assert 0 < values.std() < 0.12  # √(1000 · 0.001 · 2^-7) = 0.09 below 2
    assert len(np.unique(values.reshape(m, n)[:, 0])) > 5  # each neuron rounds in its own way


@pytest.mark.parametrize("engine", KEEPS, ids=lambda engine: engine.name)
def test_nothing_is_rounded_before_lists_are_merged(engine):
    network, features, targets = problem(dtype="float32")
    outputs = []
    for one in (network, replace(network, **NARROW)):
        state = engine.initialize(one, features)
        steps(engine, state, targets, 3, rate=2.0)
        outputs.append(engine.outputs(state, features))
    assert not len(state.coefficients.values)
    np.testing.assert_array_equal(*outputs)


@pytest.mark.parametrize("alpha", [0.0, 0.1])
@pytest.mark.parametrize("engine", KEEPS, ids=lambda engine: engine.name)
def test_the_same_neurons_fire_and_outputs_differ_little(engine, alpha):
    """Beside float32 after the same 200 steps; decay is multiplied in several times."""
    network, features, targets = problem(n=60, m=400, dtype="float32", threshold=0.5)
    outputs, hidden, states = [], [], []
    for one in (network, replace(network, **NARROW)):
        state = engine.initialize(one, features)
        for epoch in range(5):
            engine.begin_epoch(state)
            steps(engine, state, targets, 40, rate=1.0, alpha=alpha, seed=epoch)
            state.coefficients.compact()
        outputs.append(engine.outputs(state, features))
        hidden.append(engine.hidden(state, engine.forward(state, np.arange(60))))
        states.append(state)
    ours = states[1].coefficients
    assert (states[0].coefficients.values.dtype, ours.values.dtype, ours.tail_values.dtype) == ("f4", "u2", "f4")
    assert 0 < relative(outputs[1], outputs[0]) < 0.01
    assert ((hidden[0] > 0) != (hidden[1] > 0)).mean() < 0.01 * (hidden[0] > 0).mean()
    matrices = [state.coefficients.matrix(ours.segments.n_rows).toarray() for state in states]
    assert 0 < relative(matrices[1], matrices[0]) < 0.05


@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_threads_change_no_bit_and_files_keep_them_all(engine, tmp_path):
    X, y = pairs()
    options = {"engine": engine, "n_hidden": 128, "max_iter": 30, "early_stopping": True, "alpha": 0.1, **NARROW}
    models = [fit((X, y), n_jobs=n_jobs, **options) for n_jobs in (1, 2)]
    files = [saved(model, tmp_path) for model in models]
    assert files[0] == files[1]
    model, again = models[0], ks.load(tmp_path / "model.kron")
    assert again.coefficient_dtype == "bfloat16"
    np.testing.assert_array_equal(again.predict(X), model.predict(X))
    for one in (model, again):
        one.set_params(warm_start=True, max_iter=2).fit(X, y)
    assert saved(again, tmp_path) == saved(model, tmp_path)
    usual = fit((X, y), **{**options, "coefficient_dtype": "auto"})
    stored = [one.state_.coefficients.arrays()["values"] for one in (usual, again)]
    assert (stored[0].itemsize, stored[1].itemsize) == (4, 2)


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "early_stopping": True, "max_iter": 8}], ids=["plain", "decay"])
@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_the_same_bytes_from_any_checkpoint(engine, options, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    data, options = pairs(), {"engine": engine, "max_iter": 6, **options, **NARROW}
    whole = saved(fit(data, **options), tmp_path)
    for k, n_steps in enumerate((3, 13, 29)):
        folder = tmp_path / f"c{k}"
        assert ended_after(monkeypatch, 1 + k % 2, data, Checkpoint(folder, steps=n_steps), **options)
        assert saved(fit(data, Checkpoint(folder, steps=11), **options), tmp_path) == whole, n_steps


@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_rows_and_entities_may_come_later(engine):
    X, y = pairs()
    options = {"engine": engine, "random_state": 0, "max_iter": 20, "batch_size": 16, "learning_rate_init": 20.0}
    models = [KronRegressor(64, **options, coefficient_dtype=dtype) for dtype in ("auto", "bfloat16")]
    for model in models:
        model.fit(X[:120], y[:120])
        for _ in range(3):
            model.partial_fit(X[120:], y[120:])
    usual, ours = (model.predict(X) for model in models)
    assert models[1].state_.coefficients.values.dtype == np.uint16
    assert len(models[1].state_.coefficients.values) > 0
    assert 0 < relative(ours, usual) < 0.02


@pytest.mark.parametrize("options", [{}, {"early_stopping": True}], ids=["plain", "best model"])
@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_memory_is_less_and_counted(engine, options):
    X = planned_pairs(2400)
    y = np.random.default_rng(0).normal(size=len(X))
    options = {"n_hidden": 4096, "max_iter": 3, "learning_rate_init": 0.05, "engine": engine, "threshold": 0.0, **options}
    peaks, counted = [], []
    for dtype in ("auto", "bfloat16"):
        model = KronRegressor(**options, coefficient_dtype=dtype, random_state=0)
        clone(model).fit(X, y)  # compiles
        tracemalloc.start()
        model.fit(X, y)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        counted.append(model.plan_.costs[engine].memory)
        assert peaks[-1] <= counted[-1] <= 1.4 * peaks[-1], model.plan_.costs[engine].parts
    if "early_stopping" not in options:
        assert 0.8 < (peaks[0] - peaks[1]) / (counted[0] - counted[1]) < 1.25
    assert peaks[1] < 0.95 * peaks[0]


@pytest.mark.parametrize("engine", sorted(ENGINES.keys() - {"scan", "grid", "torch"}))
def test_engines_without_such_lists_are_refused(engine):
    with pytest.raises(ValueError, match=f'engine="{engine}" cannot be used here: coefficient_dtype="bfloat16" is for'):
        fit(pairs(), engine=engine, **NARROW)
    assert fit(pairs(), engine="auto", **NARROW).engine_ in ("scan", "grid")


def test_double_precision_and_other_types_are_refused():
    X, y = pairs()
    for data, options in (((X, y), {"dtype": "float64"}), ((np.eye(20), np.arange(20.0)), {})):
        with pytest.raises(ValueError, match='"bfloat16" goes with dtype="float32", not with \'float64\'; set dtype="float32"'):
            fit(data, **options, **NARROW)
    with pytest.raises(ValueError, match=r"coefficient_dtype='float16' is not known; choose one of \['auto', 'bfloat16'\]"):
        fit((X, y), coefficient_dtype="float16")
    model = fit((X, y), warm_start=True)
    with pytest.raises(ValueError, match="coefficient_dtype='bfloat16' differs from the fitted network's 'auto'"):
        model.set_params(**NARROW).fit(X, y)


def test_damaged_lists_are_refused():
    network, features, targets = problem(dtype="float32", **NARROW)
    engine = ScanEngine()
    state = engine.initialize(network, features)
    steps(engine, state, targets, 30)
    state.coefficients.compact()
    arrays = {name: array.copy() for name, array in engine.arrays(state).items()}
    for bad, message in (
        ({"values": np.full_like(arrays["values"], 0x7FC0)}, "NaN"), ({"values": to_float(arrays["values"])}, "expected kind"),
        ({"steps": np.zeros(2, np.int64)}, "steps"), ({"steps": None}, "steps"),
    ):  # fmt: skip
        broken = {name: array for name, array in {**arrays, **bad}.items() if array is not None}
        with pytest.raises(ValueError, match=message):
            engine.restore(engine.initialize(network, features), broken)
