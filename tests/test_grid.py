"""The grid engine against the dense one, block batches with any engine, and scores of whole tables of pairs."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from helpers.arrays import relative
from kronsgd import RBF, Dense, KronClassifier, KronRegressor, OneHot, load
from kronsgd.engines import DenseEngine, GridEngine, ScanEngine
from kronsgd.engines import cells as cells_module
from kronsgd.engines import grid as grid_module
from kronsgd.features.sides import Sides
from kronsgd.initial import InitialWeights
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.parallel import threads
from kronsgd.testing import check_engine
from kronsgd.training import auto_learning_rate, epoch_batches
from kronsgd.training.learning_rate import tangent_kernel


def pairs(n_left=19, n_right=150, share=1.0, seed=0, repeat=0):
    """(left, right) tables and an expression over a part of their pairs in random order, some of them repeated."""
    rng = np.random.default_rng(seed)
    left, right = Dense(rng.normal(size=(n_left, 4))), Dense(rng.normal(size=(n_right, 3)))
    cell = rng.permutation(n_left * n_right)[: int(share * n_left * n_right)]
    cell = np.concatenate([cell, rng.choice(cell, repeat)])
    return left, right, (1 + left[cell // n_right]) * (1 + right[cell % n_right])


def three_factors(n=600, seed=0):
    rng = np.random.default_rng(seed)
    a, b, c = Dense(rng.normal(size=(9, 3))), RBF(3 * np.arange(5.0)[:, None], gamma=0.3), OneHot(np.arange(40))
    return a[rng.integers(0, 9, n)] * b[rng.integers(0, 5, n)] * c[rng.integers(0, 40, n)]


def target(X, seed=0, columns=None):
    shape = X.n_rows if columns is None else (X.n_rows, columns)
    return np.random.default_rng(seed).normal(size=shape)


OPTIONS = {
    "n_hidden": 40, "dtype": "float64", "batching": "blocks", "learning_rate_init": 20.0, "random_state": 0, "max_iter": 3
}  # fmt: skip


def trained(engine, X, y, **options):
    model = KronClassifier if y.dtype.kind == "i" else KronRegressor
    return model(engine=engine, **{**OPTIONS, **options}).fit(X, y)


def assert_same(a, b, X, tolerance=1e-12):
    assert relative(a.hidden_weights(), b.hidden_weights()) < tolerance
    assert relative(a.output_weights_, b.output_weights_) < tolerance
    np.testing.assert_allclose(a.loss_curve_, b.loss_curve_, rtol=1e-10)
    assert (a.fired(X) != b.fired(X)).nnz == 0


# The engine ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flip", [False, True], ids=["smaller side inside", "larger side inside"])
@pytest.mark.parametrize("expression", ["A * B", "A * A * K"])
def test_grid_engine_conforms(expression, flip):
    check_engine(GridEngine(flip), expressions=[expression], inits=["structured"], n_steps=60)


@pytest.mark.parametrize("other", ["scan", "dense"])
@pytest.mark.parametrize(
    ("X", "options"),
    [
        (pairs()[2], {}),
        (pairs(share=0.05)[2], {"batch_size": 30}),
        (pairs(share=0.3, repeat=300)[2], {"batch_size": 100, "alpha": 0.5}),
        (pairs(n_left=150, n_right=19, share=0.7)[2], {"batch_size": 300, "init_rank": 3}),
        (pairs(n_left=7, n_right=9)[2], {"batch_size": 5, "train_output": True, "antisymmetric": False, "n_hidden": 33}),
        (three_factors(), {"batch_size": 100}),
        (three_factors(), {"shuffle": False, "normalize": False, "learning_rate_init": 10.0}),
    ],
    ids=["complete", "5 %", "duplicates, penalty", "right inside", "narrow, output", "three factors", "no shuffle"],
)
def test_same_steps_on_blocks(X, options, other):
    y = target(X)
    ours, theirs = trained("grid", X, y, **options), trained(other, X, y, **options)
    start = trained(other, X, y, **{**options, "max_iter": 0})
    assert relative(theirs.hidden_weights(), start.hidden_weights()) > 1e-3  # or nothing was compared
    assert_same(ours, theirs, X)


def test_same_steps_with_several_classes_and_weights():
    X = pairs(share=0.5)[2]
    y = np.random.default_rng(1).integers(0, 3, X.n_rows)
    weights = np.random.default_rng(2).uniform(0.5, 2, X.n_rows)
    models = [KronClassifier(engine=e, train_output=True, **OPTIONS).fit(X, y, weights) for e in ("grid", "dense")]
    assert_same(*models, X)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_strip_stays_exact(dtype):
    """What steps have added to a strip is what building it anew gives."""
    X = pairs()[2]
    engine, network = GridEngine(), TwoLayer(n_hidden=30, output_scale=1.0, dtype=dtype)
    state = engine.initialize(network, X)
    sides = engine.sides(state).split(state.features)
    built = []
    for batch in epoch_batches(X.n_rows, 300, shuffle=True, seed=0, epoch=0, cells=tuple(s.entity for s in sides)):
        activations = engine.forward(state, batch)
        built.append(state.cells.strip)
        slopes = activations.outputs - target(X)[batch, None]
        engine.update(state, engine.backward(state, activations, slopes, 0.01, 0.1))
    strip = state.cells.strip
    assert len({id(s) for s in built}) == 3  # 150 entities are three strips; each was built once
    lived, outer = strip.h.copy(), strip.outer
    assert np.abs(lived).max() > 0
    state.cells.strip = None
    rows = np.flatnonzero(np.isin(state.cells.tables.outer, outer))
    engine.forward(state, rows)
    np.testing.assert_allclose(lived, state.cells.strip.h, atol={"float64": 1e-14, "float32": 1e-5}[dtype])


@pytest.mark.parametrize("rank", [1, 3])
def test_starting_values_are_those_of_the_scan_engine(rank):
    X = three_factors()
    network = TwoLayer(n_hidden=20, init_rank=rank, dtype="float64")
    state = GridEngine().initialize(network, X)
    tables = state.cells.tables
    mine = np.einsum("rqn,rqn->nr", tables.inner_start[:, :, tables.inner], tables.outer_start[:, :, tables.outer])
    scan = InitialWeights(network, X).values(X, True, "float64")(np.arange(X.n_rows))
    np.testing.assert_allclose(mine, scan, atol=1e-13)


def test_threads_do_not_change_a_bit():
    X = pairs()[2]
    one, two = (trained("grid", X, target(X), n_jobs=jobs, dtype="float32") for jobs in (1, 2))
    assert np.array_equal(one.predict(X), two.predict(X))


@pytest.mark.parametrize("n_left", [19, 70])
def test_save_load_continue_is_bit_identical(tmp_path, n_left):
    """With one strip of outer entities (19 × 50) and with several."""
    X = pairs(n_left=n_left, n_right=50 if n_left == 19 else 150, share=0.6)[2]
    y = target(X)
    model = trained("grid", X, y, warm_start=True, dtype="float32")
    model.save(tmp_path / "m.kron")
    again, copied = load(tmp_path / "m.kron"), pickle.loads(pickle.dumps(model))
    results = [m.fit(X, y).predict(X) for m in (model, again, copied)]
    assert np.array_equal(results[0], results[1])
    assert np.array_equal(results[0], results[2])
    assert len(model.loss_curve_) == 6


def test_new_rows_and_entities_keep_the_coefficients():
    """warm_start and partial_fit renumber the cells; new rows may turn the smaller side into the larger one."""
    left, right, _ = pairs(n_left=30, n_right=40)
    first = left[np.arange(40) % 8] * right[np.arange(40) % 20]
    second = left[np.arange(600) % 30] * right[np.arange(600) * 7 % 23]
    models = []
    for engine in ("grid", "scan", "dense"):
        model = KronRegressor(engine=engine, **{**OPTIONS, "batching": "blocks" if engine == "grid" else "auto"})
        model.set_params(batching="random", warm_start=True, batch_size=50).fit(first, target(first))
        model.fit(second, target(second))
        models.append(model.partial_fit(left[:5] * right[20:25], np.ones(5)))
    assert models[0].state_.cells.sides == Sides.of(first)
    for other in models[1:]:
        assert_same(models[0], other, second)


def test_saved_sides_are_kept(tmp_path):
    """A model that began with the other side inside goes on that way."""
    left, right, _ = pairs(n_left=60, n_right=20)
    first = left[[0, 1, 2] * 3] * right[np.repeat([4, 5, 6, 7], 3)[:9]]
    second = left[np.arange(60)] * right[np.arange(60) % 20]
    model = KronRegressor(engine="grid", **{**OPTIONS, "warm_start": True}).fit(first, target(first))
    model.fit(second, target(second))
    model.save(tmp_path / "m.kron")
    again = load(tmp_path / "m.kron")
    assert again.state_.cells.sides == model.state_.cells.sides != Sides.of(second)
    assert np.array_equal(again.predict(second), model.predict(second))
    with pytest.raises(ValueError, match="leaves one side without factors"):
        again._engine.restore(again.state_, {**again._engine.arrays(again.state_), "sides": np.ones(2, dtype=int)})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda a, b: a + b, "has no grid of pairs"),
        (lambda a, b: a * a, "has no grid of pairs"),
        (lambda a, b: (1 + a) ** 2, "has no grid of pairs"),
        (lambda a, b: 1 + a * b, 'use engine="scan"'),
    ],
)
def test_expressions_without_two_sides_are_refused(make, message):
    rng = np.random.default_rng(0)
    a = Dense(rng.normal(size=(5, 3)))[rng.integers(0, 5, 30)]
    b = Dense(rng.normal(size=(6, 3)))[rng.integers(0, 6, 30)]
    with pytest.raises(ValueError, match=message):
        GridEngine().initialize(TwoLayer(n_hidden=4), make(a, b))
    with pytest.raises(ValueError, match=message):
        trained("scan", make(a, b), np.ones(30))


def test_what_cannot_fit_is_refused(monkeypatch):
    X = pairs()[2]
    with pytest.raises(ValueError, match='engine="grid" needs init="structured"'):
        GridEngine().initialize(TwoLayer(n_hidden=4, init="gaussian"), X)
    monkeypatch.setattr(cells_module, "MAX_BYTES", 150 * 150 * 4 - 1)
    with pytest.raises(ValueError, match=r"GiB for inner products of 150 × 150 outer entities.*use engine=\"scan\""):
        GridEngine().initialize(TwoLayer(n_hidden=4), X)


def test_power_of_a_product_has_two_sides():
    rng = np.random.default_rng(0)
    X = (Dense(rng.normal(size=(6, 3)))[rng.integers(0, 6, 50)] * Dense(rng.normal(size=(9, 2)))[rng.integers(0, 9, 50)]) ** 2
    assert_same(trained("grid", X, target(X)), trained("dense", X, target(X)), X)


# Prediction ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("small", [False, True], ids=["one view", "many views"])
def test_outputs_of_new_rows_in_any_order(monkeypatch, small):
    if small:
        monkeypatch.setattr(grid_module, "VIEW_NUMBERS", 1)
        monkeypatch.setattr(grid_module, "PREDICT_ROWS", 5)
    _, _, X = pairs()
    model = trained("grid", X, target(X), init_rank=2)
    rng = np.random.default_rng(5)
    a, b = Dense(rng.normal(size=(90, 4))), Dense(rng.normal(size=(200, 3)))
    new = (1 + a[rng.integers(0, 90, 700)]) * (1 + b[rng.integers(0, 200, 700)])
    exact = DenseEngine().initialize(model.state_.network, X, basis=GridEngine().basis(model.state_))
    exact.weights = model.hidden_weights()
    np.testing.assert_allclose(
        GridEngine().outputs(model.state_, new), DenseEngine().outputs(exact, new), atol=1e-12
    )
    assert np.array_equal(model.predict(new[:1]).shape, (1,))


def test_few_scattered_rows_take_each_strip_once(monkeypatch):
    """Though hardly a block of them has all the outer entities of its strip."""
    left, right, X = pairs()
    model = trained("grid", X, target(X))
    rng = np.random.default_rng(6)
    build, built = grid_module.kernels.build_strip, []
    monkeypatch.setattr(grid_module.kernels, "build_strip", lambda *arrays: built.append(arrays[4]) or build(*arrays))
    monkeypatch.setattr(grid_module, "PREDICT_ROWS", 2)
    outer = rng.permutation(150)[:140]
    model.predict((1 + left[rng.integers(0, 19, 140)]) * (1 + right[outer]))
    assert len(built) == 3  # of 64 outer entities
    assert np.array_equal(np.sort(np.concatenate(built)), np.arange(140))  # numbered anew, for some do not occur


def test_blocks_of_scattered_rows_are_full(monkeypatch):
    _, _, X = pairs()
    model = trained("grid", X, target(X))
    rng = np.random.default_rng(5)
    a, b = Dense(rng.normal(size=(90, 4))), Dense(rng.normal(size=(200, 3)))
    i, j = rng.permutation(90 * 200)[:300] // 200, rng.integers(0, 200, 300)
    activate, sizes = grid_module.kernels.activate, []
    monkeypatch.setattr(grid_module.kernels, "activate", lambda *own: sizes.append(len(own[7])) or activate(*own))
    model.predict((1 + a[i]) * (1 + b[j]))
    assert sum(size < grid_module.PREDICT_ROWS for size in sizes) <= 4  # the last of each strip of 64 outer entities


@pytest.mark.parametrize("engine", ["grid", "scan", "dense"])
@pytest.mark.parametrize("columns", [None, 2])
def test_predict_grid_is_predict_on_all_pairs(monkeypatch, engine, columns):
    monkeypatch.setattr("kronsgd.estimators.pairs.BLOCK_ROWS", 50)
    monkeypatch.setattr("kronsgd.estimators.pairs.LEFT_ENTITIES", 7)
    left, right, X = pairs(share=0.5)
    model = trained(engine, X, target(X, columns=columns), batching="auto")
    scores = model.predict_grid(X)
    i, j = np.divmod(np.arange(19 * 150), 150)
    expected = model.predict((1 + left[i]) * (1 + right[j])).reshape(scores.shape)
    assert scores.shape == ((19, 150) if columns is None else (19, 150, 2))
    np.testing.assert_allclose(scores, expected, atol=1e-12)
    if columns is None:
        best, values = model.top_k(X, 4)
        order = np.argsort(-expected, axis=1, kind="stable")[:, :4]
        assert np.array_equal(best, order)
        np.testing.assert_allclose(values, np.take_along_axis(expected, order, axis=1), atol=1e-12)
        assert model.top_k(X, 1000)[0].shape == (19, 150)
    else:
        with pytest.raises(ValueError, match="the model gives 2"):
            model.top_k(X, 4)


def test_ties_go_to_the_smaller_number(monkeypatch):
    monkeypatch.setattr("kronsgd.estimators.pairs.BLOCK_ROWS", 19 * 7)
    X = pairs()[2]
    model = trained("grid", X, target(X), max_iter=0)
    assert np.array_equal(model.top_k(X, 3)[0], np.tile([0, 1, 2], (19, 1)))


def test_classifiers_rank_by_decision_function():
    left, right, X = pairs(share=0.5)
    y = np.random.default_rng(0).integers(0, 2, X.n_rows)
    model = trained("grid", X, y)
    expected = model.decision_function((1 + left[[3] * 150]) * (1 + right[np.arange(150)]))
    np.testing.assert_allclose(model.predict_grid(X)[3], expected, atol=1e-12)


def test_predict_grid_wants_two_tables():
    X = three_factors()
    model = trained("grid", X, target(X))
    with pytest.raises(ValueError, match="3 different row indices"):
        model.predict_grid(X)
    with pytest.raises(TypeError, match="not ndarray"):
        model.top_k(np.ones((3, 3)), 1)


# Block batches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize(("share", "size"), [(1.0, 1024), (1.0, 100), (0.8, 300), (0.05, 64), (0.05, 8), (1.0, 1)])
def test_blocks_take_every_row_once(share, size, shuffle):
    X = pairs(n_left=60, n_right=150, share=share, repeat=20)[2]
    inner, outer = (side.entity for side in Sides.of(X).split(X))

    def batches(epoch, seed=0):
        return epoch_batches(X.n_rows, size, shuffle=shuffle, seed=seed, epoch=epoch, cells=(inner, outer))

    first = batches(0)
    assert np.array_equal(np.sort(np.concatenate(first)), np.arange(X.n_rows))
    assert min(map(len, first)) > 0
    for rows in first:
        inside = np.isin(inner, inner[rows]) & np.isin(outer, outer[rows])
        assert len(np.unique(outer[rows])) <= 64
        assert set(rows) <= set(np.flatnonzero(inside))
    if share == 1 and size >= 100:
        sizes = [len(rows) for rows in first]
        assert max(sizes) < 1.6 * size
        assert min(sizes) > 0.4 * min(size, X.n_rows)
        assert all(len(rows) >= len(np.unique(inner[rows])) * len(np.unique(outer[rows])) for rows in first)  # whole blocks
    assert all(np.array_equal(a, b) for a, b in zip(first, batches(0), strict=True))
    if shuffle:
        assert any(not np.array_equal(a, b) for a, b in zip(first, batches(1), strict=False))


def test_automatic_step_looks_at_blocks():
    X = pairs()[2]
    state = ScanEngine().initialize(TwoLayer(n_hidden=200, dtype="float64"), X)
    cells = tuple(side.entity for side in Sides.of(X).split(X))
    rates = [auto_learning_rate(ScanEngine(), state, LOSSES["squared"], 100, np.ones(X.n_rows), cells=c) for c in (None, cells)]
    assert rates[1] < 0.9 * rates[0]
    block = epoch_batches(X.n_rows, 100, shuffle=True, seed=0, epoch=0, cells=cells)[0]
    largest = np.linalg.eigvalsh(tangent_kernel(ScanEngine(), state, block))[-1] / len(block)
    assert 0.5 < rates[1] * largest < 1.5


def test_auto_batching_follows_the_engine():
    X = pairs()[2]
    with threads(1):
        models = {e: trained(e, X, target(X), batching="auto") for e in ("grid", "scan")}
        same = trained("scan", X, target(X), batching="blocks")
    assert relative(models["grid"].hidden_weights(), same.hidden_weights()) < 1e-12
    assert relative(models["scan"].hidden_weights(), same.hidden_weights()) > 1e-3
    with pytest.raises(ValueError, match="batching"):
        trained("scan", X, target(X), batching="block")


def test_strips_are_empty_while_nothing_is_learned():
    """Rows all over the grid, as those that a step size is chosen from: nothing is contracted, and nothing is left behind."""
    X = pairs()[2]
    network, rows = TwoLayer(n_hidden=30, output_scale=1.0, dtype="float64"), np.arange(0, X.n_rows, 3)
    fresh, probed = (GridEngine().initialize(network, X) for _ in range(2))
    engine, dense = GridEngine(), DenseEngine()
    exact, activations = dense.initialize(network, X), engine.forward(probed, rows)
    assert len(activations.block.tiles) > 1
    assert activations.strip.h.size == 0
    start = dense.hidden(exact, dense.forward(exact, rows))
    np.testing.assert_allclose(engine.hidden(probed, activations), start, atol=1e-12)
    for _ in range(3):
        for state in (fresh, probed):
            activations = engine.forward(state, rows)
            slopes = activations.outputs - target(X)[rows, None]
            engine.update(state, engine.backward(state, activations, slopes, 0.01))
    assert activations.strip.h.shape[1] == probed.shape[0]
    np.testing.assert_array_equal(engine.hidden_weights(fresh), engine.hidden_weights(probed))


def test_forward_after_forward_over_a_part_of_the_last_strip():
    """Strips of 64 lanes with few entities must not be read as strips of 16 lanes."""
    rng = np.random.default_rng(0)
    X = Dense(rng.normal(size=(7, 3)))[np.repeat(np.arange(7), 70)] * Dense(rng.normal(size=(70, 4)))[np.tile(np.arange(70), 7)]
    network = TwoLayer(n_hidden=64, threshold=0.5, dtype="float64")
    outputs = []
    for engine in (GridEngine(), DenseEngine()):
        state = engine.initialize(network, X)
        for k in range(6):
            rows = np.arange(k * 80, k * 80 + 80)
            activations = engine.forward(state, rows)
            engine.update(state, engine.backward(state, activations, np.ones((80, 1)), 1.0))
        engine.forward(state, np.arange(70))
        outputs.append(engine.forward(state, np.array([68])).outputs)
    np.testing.assert_allclose(*outputs, rtol=1e-10)
