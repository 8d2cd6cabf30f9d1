"""The torch engine: the scan engine's steps, on whatever device is there; left out where PyTorch is not installed."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest

import kronsgd as ks
from helpers.arrays import relative
from helpers.checkpoints import ended_after, fit, saved
from helpers.engines import problem, step, steps
from helpers.planner import pairs
from kronsgd import Dense, KronClassifier, KronRegressor
from kronsgd.engines import DenseEngine, ScanEngine, TorchEngine
from kronsgd.engines.device import ON_PROCESSOR, VARIABLE, Device
from kronsgd.engines.tensors import Panels, Starts
from kronsgd.features.gram import RowGram
from kronsgd.losses import LOSSES
from kronsgd.planner.gpu import GPUS, coefficient_seconds
from kronsgd.testing import EXPRESSIONS, check_engine

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.usefixtures("one_thread")
ENGINE = TorchEngine()


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_conforms(loss, dtype, expression):
    check_engine(ENGINE, losses=[loss], dtypes=[dtype], expressions=[expression], n_steps=200)


def copied(arrays):
    return {name: array.copy() for name, array in arrays.items()}


def test_many_outputs_and_a_smaller_last_block():
    """150 neurons are 37 blocks of 4 and one of 2."""
    rng = np.random.default_rng(1)
    features = EXPRESSIONS["A * A * K"](rng, 150)
    network, _, _ = problem(m=150, n_outputs=5, train_output=True, init_rank=2)
    assert network.blocks[-1] - network.blocks[-2] < network.blocks[1]
    targets, found = rng.normal(size=(150, 5)), []
    for engine in (ENGINE, DenseEngine()):
        state = engine.initialize(network, features)
        steps(engine, state, targets, 20, size=140)
        found.append((engine.hidden_weights(state), state.output_weights, engine.outputs(state, features)))
    for mine, exact in zip(*found, strict=True):
        assert relative(mine, exact) < 1e-12


def test_outputs_are_sums_over_blocks_in_order():
    network, features, targets = problem(m=150, n_outputs=3, dtype="float32")
    state = ENGINE.initialize(network, features)
    steps(ENGINE, state, targets, 10)
    activations = ENGINE.forward(state, np.arange(9))
    partial = ENGINE._partial(state, activations.hidden)
    assert partial.shape == (len(network.blocks) - 1, 9, 3)
    hidden = ENGINE.hidden(state, activations).astype(np.float64)
    for k, (_, start, size) in enumerate(network.block_sizes()):
        own = slice(start, start + size)
        np.testing.assert_allclose(partial[k], hidden[:, own] @ state.output_weights[own], atol=1e-5)
    total = np.zeros((9, 3))
    for part in partial:
        total += part
    assert np.array_equal(activations.outputs, network.scale * total)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_rows_that_repeat_take_all_that_they_are_given(dtype):
    network, features, targets = problem(dtype=dtype, train_output=True)
    rows = np.array([2, 3, 3, 3, 7, 7, 9])
    found = []
    for engine in (ENGINE, DenseEngine()):
        state = engine.initialize(network, features)
        for _ in range(5):
            step(engine, state, targets, rows, alpha=0.3)
        found.append(engine.hidden_weights(state))
    assert relative(*found) < {"float64": 1e-12, "float32": 1e-5}[dtype]


@pytest.mark.parametrize("alpha", [0.0, 0.8])  # 0.8: the common factor becomes small, and is multiplied in
def test_same_bits_on_every_run(alpha):
    network, features, targets = problem(n=90, m=150, dtype="float32", train_output=True)
    found = []
    for _ in range(2):
        state = ENGINE.initialize(network, features)
        steps(ENGINE, state, targets, 60, size=40, alpha=alpha)
        found.append(ENGINE.arrays(state))
    for name, array in found[0].items():
        assert array.tobytes() == found[1][name].tobytes(), name


# Between engines -----------------------------------------------------------------------------------------------------


def learned(engine, state):
    """α as a plain array."""
    c = state.coefficients
    return (c.matrix() if engine is ENGINE else c.matrix(state.features.n_rows)).toarray()


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_scan_and_torch_continue_each_other(alpha):
    """Their arrays are of one kind; a round trip through scan's hands changes no bit, one through torch's adds up its tails."""
    network, features, targets = problem(n=90, m=150, dtype="float64", train_output=True)
    there, here = (ENGINE, ScanEngine()), {}
    for first, second in (there, there[::-1]):
        one, other = first.initialize(network, features), second.initialize(network, features)
        steps(first, one, targets, 30, alpha=alpha)
        second.restore(other, copied(first.arrays(one)))
        again = first.initialize(network, features)
        first.restore(again, copied(second.arrays(other)))
        rounding = 0 if first is ENGINE else 1e-15
        for engine, state in ((second, other), (first, again)):
            np.testing.assert_allclose(learned(engine, state), learned(first, one), rtol=0, atol=rounding)
            assert np.array_equal(state.output_weights, one.output_weights)
        steps(second, other, targets, 30, alpha=alpha, seed=1)
        here[first.name] = second.hidden_weights(other)
    assert relative(here["torch"], here["scan"]) < 1e-12


def test_lists_are_written_and_read_tile_by_tile(monkeypatch):
    network, features, targets = problem(n=90, m=150)
    state, copy = (ENGINE.initialize(network, features) for _ in range(2))
    steps(ENGINE, state, targets, 20)
    whole, nnz = ENGINE.arrays(state), state.coefficients.nnz
    monkeypatch.setattr("kronsgd.engines.tensors.TILE", 200)  # two neurons, or one row
    tiled = ENGINE.arrays(state)
    assert all(np.array_equal(array, tiled[name]) for name, array in whole.items())
    assert nnz == state.coefficients.nnz == len(whole["values"]) > 1000
    ENGINE.restore(copy, tiled)
    assert torch.equal(copy.coefficients.used, state.coefficients.used)


def test_repeated_rows_in_the_other_engines_tails_are_added_up():
    network, features, targets = problem(n=90)
    scan = ScanEngine()
    state, mine = scan.initialize(network, features), ENGINE.initialize(network, features)
    steps(scan, state, targets, 3)
    arrays = scan.arrays(state)
    assert arrays["tail_len"].sum() > 0
    ENGINE.restore(mine, copied(arrays))
    np.testing.assert_allclose(ENGINE.hidden_weights(mine), scan.hidden_weights(state), rtol=0, atol=1e-14)
    assert mine.coefficients.nnz == state.coefficients.matrix(90).nnz


def test_more_rows_than_room_keep_what_was_learned():
    rng = np.random.default_rng(0)
    a, b = Dense(rng.normal(size=(40, 3))), Dense(rng.normal(size=(30, 3)))
    i, j = rng.integers(40, size=200), rng.integers(30, size=200)
    network, _, _ = problem()
    targets, found = rng.normal(size=(200, 1)), []
    for engine in (ENGINE, DenseEngine()):
        state = engine.initialize(network, a[i[:50]] * b[j[:50]])
        for n in (50, 51, 90, 200):
            state = engine.extend(state, a[i[:n]] * b[j[:n]])
            steps(engine, state, targets[:n], 10)
        found.append(engine.hidden_weights(state))
    assert relative(*found) < 1e-12


# Estimators ----------------------------------------------------------------------------------------------------------

OPTIONS = {"n_hidden": 64, "max_iter": 4, "learning_rate_init": 1.0, "random_state": 0, "dtype": "float64"}


@pytest.mark.parametrize(
    "options",
    [
        {}, {"alpha": 0.1}, {"n_networks": 3}, {"train_output": True}, {"early_stopping": True}, {"init": "gaussian"},
        {"loss": "huber"}, {"learning_rate_init": "auto", "max_iter": "auto"}, {"batching": "blocks"},
    ],
    ids=str,
)  # fmt: skip
def test_estimators_learn_what_scan_learns(options):
    X = pairs(300)
    y = np.random.default_rng(0).normal(size=300)
    scan, ours = (KronRegressor(**{**OPTIONS, **options}, engine=engine).fit(X[:250], y[:250]) for engine in ("scan", "torch"))
    assert ours.engine_ == "torch"
    np.testing.assert_allclose(ours.loss_curve_, scan.loss_curve_, rtol=1e-9)
    np.testing.assert_allclose(ours.predict(X[250:]), scan.predict(X[250:]), rtol=0, atol=1e-9)
    assert (ours.fired(X) != scan.fired(X)).nnz == 0


def test_partial_fit_with_entities_that_come_later():
    rng = np.random.default_rng(0)
    X, y = Dense(rng.normal(size=(90, 5))) * Dense(rng.normal(size=(90, 4))), np.arange(90) % 3
    options = {**OPTIONS, "batch_size": 4}
    del options["max_iter"]
    scan, ours = (KronClassifier(**options, engine=engine) for engine in ("scan", "torch"))
    for start in range(0, 90, 6):
        for model in (scan, ours):
            model.partial_fit(X[start : start + 6], y[start : start + 6], classes=[0, 1, 2])
    np.testing.assert_allclose(ours.predict_proba(X), scan.predict_proba(X), rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_files_and_copies_go_on_to_the_same_bits(tmp_path, dtype):
    X, y = pairs(200), np.random.default_rng(0).normal(size=200)
    options = {**OPTIONS, "dtype": dtype, "warm_start": True, "alpha": 0.01}
    models = [KronRegressor(**options, engine="torch").fit(X[:150], y[:150])]
    models[0].save(tmp_path / "m")
    models += [ks.load(tmp_path / "m"), pickle.loads(pickle.dumps(models[0]))]
    bits = set()
    for model in models:
        model.partial_fit(X[150:], y[150:])
        model.fit(X, y)
        bits.add(model.predict(X).tobytes() + model.state_.output_weights.tobytes())
    assert len(bits) == 1


@pytest.mark.parametrize("options", [{}, {"alpha": 0.3, "train_output": True}, {"early_stopping": True}])
def test_a_fit_that_is_ended_goes_on_to_the_same_bytes(tmp_path, monkeypatch, options):
    X, y = pairs(200), np.random.default_rng(0).normal(size=200)
    options = {**options, "engine": "torch", "learning_rate_init": 20.0}
    whole = saved(fit((X, y), **options), tmp_path)
    checkpoint = ks.Checkpoint(tmp_path / "c", steps=7)
    assert ended_after(monkeypatch, 2, (X, y), checkpoint, **options)
    assert saved(fit((X, y), checkpoint, **options), tmp_path) == whole


# What is kept on the device, and what is not -------------------------------------------------------------------------


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_panels_and_starts_are_those_of_numpy(monkeypatch, expression):
    """From tables on the device, and made by numpy where nothing is kept."""
    rng = np.random.default_rng(0)
    features = EXPRESSIONS[expression](rng, 50)
    network, _, _ = problem(m=30, init_rank=2)
    rows, others, device = np.array([3, 4, 4, 20]), np.arange(7), Device.current()
    for room in (1 << 30, 0):
        monkeypatch.setattr("kronsgd.features.gram.CACHE_BYTES", room)
        monkeypatch.setattr("kronsgd.initial.CACHE_BYTES", room)
        state = ENGINE.initialize(network, features[:40])
        gram = RowGram(state.features, "float64")
        mine = Panels(device, gram)(rows, gram.inverse_norms[rows])
        np.testing.assert_allclose(device.numpy(mine), gram.panel(rows, 4)[0], rtol=0, atol=1e-13)
        start = Starts(device, network, state.start)(rows, gram.inverse_norms[rows])
        np.testing.assert_allclose(device.numpy(start), state.start(rows), rtol=0, atol=1e-13)
        new = features[40:]
        norms = 1 / np.sqrt(new.squared_norms())[others]
        mine = device.numpy(Panels(device, gram)(others, norms, new))
        np.testing.assert_allclose(mine[:, :7], gram.panel(others, 7, new)[0], rtol=0, atol=1e-13)


def test_tables_are_moved_once(monkeypatch):
    moved, tensor = [], Device.tensor
    monkeypatch.setattr(Device, "tensor", lambda self, array: (moved.append(array.nbytes), tensor(self, array))[1])
    X = pairs(2000, d=50)
    network, _, _ = problem(m=256, dtype="float32")
    state, targets = ENGINE.initialize(network, X), np.zeros((2000, 1))
    steps(ENGINE, state, targets, 1)
    first = sum(moved)
    moved.clear()
    steps(ENGINE, state, targets, 1)
    assert first > 100 * 256 * 4  # starting values of all entities
    assert sum(moved) < 4096


# Devices and plans ---------------------------------------------------------------------------------------------------


def test_devices_have_names(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert Device.current() == Device("cpu")
    assert not Device.current().is_gpu
    monkeypatch.setenv(VARIABLE, "cuda:99")
    with pytest.raises(ValueError, match=r"KRONSGD_DEVICE='cuda:99' is not known; choose one of \['cpu'"):
        KronRegressor(8, engine="torch").fit(np.eye(4), np.arange(4.0))


def test_a_model_is_not_to_blame_for_a_device_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, "cpu")
    KronRegressor(8, engine="torch", max_iter=1).fit(np.eye(4), np.arange(4.0)).save(tmp_path / "m.kron")
    monkeypatch.setenv(VARIABLE, "cuda:99")
    with pytest.raises(ValueError, match=r"^KRONSGD_DEVICE='cuda:99' is not known.* PyTorch sees \d+ graphics cards here"):
        ks.load(tmp_path / "m.kron")


def test_that_it_computes_on_the_processor_is_said_in_the_log(monkeypatch, caplog):
    monkeypatch.setenv(VARIABLE, "cpu")
    network, features, _ = problem()
    with caplog.at_level("INFO", "kronsgd"):
        ENGINE.initialize(network, features)
    assert caplog.messages == [ON_PROCESSOR]


def test_what_does_not_fit_on_the_device_is_refused(monkeypatch):
    def full(*shape, **how):
        raise torch.OutOfMemoryError("CUDA out of memory")

    network, features, _ = problem()
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(MemoryError, match=r'needs .* GiB on .* for 30 × 40 numbers.*or engine="scan"'):
        ENGINE.initialize(network, features)


def test_a_plan_has_a_row_for_it_only_when_asked(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cpu")
    assert "torch" not in str(ks.plan(pairs(), 256))
    plan = ks.plan(pairs(), 256, engine="torch")
    assert plan.engine == "torch"
    assert "→ torch" in str(plan)
    assert str(plan).endswith('engine="torch" computes on the processor here, which is for tests: engine="scan" takes the same '
                              "steps faster.")  # fmt: skip
    assert "on the processor" not in str(replace(plan, gpu=GPUS[0])) + str(ks.plan(pairs(), 256))
    assert plan.costs["torch"].memory > 2000 * 256 * 4
    assert KronRegressor(64, max_iter=1, learning_rate_init=1.0).fit(pairs(), np.arange(2000) % 7).engine_ != "torch"


def test_what_does_not_fit_on_a_graphics_card_is_refused_before_it_is_allocated(monkeypatch):
    plan = ks.plan(pairs(), 1024, engine="torch", max_iter=1, learning_rate_init=1.0)
    roomy, tight = (replace(plan, gpu=replace(GPUS[0], free=free)) for free in (139 * 2**30, 2**20))
    assert roomy.engine == "torch"
    assert roomy.costs["torch"].device_memory > 2000 * 1024 * 4 > roomy.costs["torch"].memory - 2**20
    assert "on the GPU" in str(roomy)
    assert "peak figures of NVIDIA H200 by its maker, not measured" in str(roomy)
    assert roomy.as_dict()["engines"]["torch"]["device_memory_bytes"] == roomy.costs["torch"].device_memory
    with pytest.raises(MemoryError, match=r'"torch" would need about .* MiB on NVIDIA H200 .* but only 922 KiB may be used'):
        tight.choose()
    monkeypatch.setattr("kronsgd.planner.plan.gpu_in_use", lambda: tight.gpu)
    with pytest.raises(MemoryError, match=r'engine="\w+" would fit with'):
        KronRegressor(1024, engine="torch").fit(pairs(), np.arange(2000) % 7)


def test_coefficients_kept_whole_cost_more_flops_and_fewer_gathers():
    """At few coefficients lists would be faster, at many the matrix is; rounding to TF32 leaves only memory."""
    p = replace(ks.plan(pairs(), 4096).problem, n_rows=100_000)
    few, many = (coefficient_seconds(replace(p, alpha=alpha), GPUS[0]) for alpha in (0.01, 0.2))
    assert few["lists"] < few["whole"] == many["whole"] < many["lists"]
    assert few["whole"] == pytest.approx(2 * 64 * 1e5 * 4096 / 67e12)
    assert coefficient_seconds(p, GPUS[0], tf32=True)["whole"] == pytest.approx(4 * 1e5 * 4096 / 4.8e12)
