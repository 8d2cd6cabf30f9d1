"""What only the scan engine has: lazy tails, compaction, slices, and steps that wait."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import scipy.sparse as sp

from helpers.arrays import relative
from helpers.engines import problem, step, steps, twins
from kronsgd import Dense
from kronsgd.engines import DenseEngine, ScanEngine
from kronsgd.engines import coefficients as coefficients_module
from kronsgd.engines import segments as segments_module
from kronsgd.engines.coefficients import Coefficients
from kronsgd.engines.segments import Segments
from kronsgd.network import TwoLayer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("tail", [1, 4, 9])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_small_tails_are_compacted(monkeypatch, tail, alpha):
    compactions = []
    compact = Coefficients.compact
    monkeypatch.setattr(Coefficients, "compact", lambda self: (compactions.append(self.nnz), compact(self))[1])
    for name, value in (("TAIL", tail), ("LISTS_PER_TAIL", 10**9), ("STEPS", 1)):
        monkeypatch.setattr(coefficients_module, name, value)
    (scan, ours), (dense, exact) = twins(n_steps=60, alpha=alpha)
    assert len(compactions) > 2
    assert np.diff(ours.coefficients.tail_first).max() <= max(tail, 8)  # a batch of 8 rows must fit
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12
    assert len(ours.coefficients.values) > 0


def test_long_tails_are_merged_when_an_epoch_begins():
    network, features, targets = problem()
    engine = ScanEngine()
    state = engine.initialize(network, features)
    steps(engine, state, targets, 20)
    before = state.coefficients.matrix(30).toarray()
    engine.begin_epoch(state)
    assert state.coefficients.tail_len.max() == 0 < len(state.coefficients.values)
    np.testing.assert_allclose(state.coefficients.matrix(30).toarray(), before, rtol=1e-13)
    lists = state.coefficients.values
    engine.begin_epoch(state)
    assert state.coefficients.values is lists  # nothing to merge


def test_compaction_keeps_the_matrix_and_sorts():
    network, features, targets = problem()
    engine = ScanEngine()
    state = engine.initialize(network, features)
    steps(engine, state, targets, 20, size=10)
    coefficients = state.coefficients
    before = coefficients.matrix(30).toarray()
    stored = coefficients.nnz
    coefficients.compact()
    assert coefficients.tail_len.max() == 0
    assert coefficients.nnz < stored  # rows that were in a tail twice are stored once
    assert coefficients.nnz == np.count_nonzero(before)
    np.testing.assert_allclose(coefficients.matrix(30).toarray(), before, rtol=1e-13)
    for r in range(network.n_hidden):
        own = coefficients.rows[coefficients.indptr[r] : coefficients.indptr[r + 1]]
        assert (np.diff(own) > 0).all()


@pytest.mark.parametrize("bits", [0, 2, 3])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_slices_change_nothing(monkeypatch, bits, alpha):
    """Lists cut into slices of 1, 4 or 8 rows: the same training, arrays and restored state."""
    monkeypatch.setattr(segments_module, "SLICE_BITS", (bits, bits))
    (scan, ours), (dense, exact) = twins(n_steps=40, alpha=alpha)
    ours.coefficients.compact()
    assert ours.coefficients.segments.n_slices == -(-30 // 2**bits)
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12
    arrays = {name: array.copy() for name, array in scan.arrays(ours).items()}
    for r in range(ours.network.n_hidden):
        own = arrays["rows"][arrays["indptr"][r] : arrays["indptr"][r + 1]]
        assert (np.diff(own) > 0).all()
    again = scan.initialize(ours.network, ours.features)
    scan.restore(again, arrays)
    for name in ("indptr", "rows", "values"):
        np.testing.assert_array_equal(getattr(again.coefficients, name), getattr(ours.coefficients, name))
    before = ours.coefficients.matrix(30).toarray()
    ours.coefficients.rearrange(Segments.of(ours.network.blocks, 30, 31))
    assert len(ours.coefficients.indptr) == ours.network.n_hidden + 1
    np.testing.assert_array_equal(ours.coefficients.matrix(30).toarray(), before)


@pytest.mark.parametrize(("threshold", "bits"), [(-1.0, 7), (0.5, 8), (1.3, 10)])
def test_dense_lists_are_cut_into_short_slices(threshold, bits):
    """The same training; a restored state goes on in the same slices, to the last bit."""
    network, features, targets = problem(n=900, threshold=threshold)
    states = []
    for engine in (ScanEngine(), DenseEngine()):
        state = engine.initialize(network, features)
        for epoch in range(3):
            engine.begin_epoch(state)
            steps(engine, state, targets, 30, size=60, seed=epoch)
        states.append((engine, state))
    (scan, ours), (dense, exact) = states
    assert ours.coefficients.segments.slice_bits == bits
    assert relative(scan.hidden_weights(ours), dense.hidden_weights(exact)) < 1e-12
    again = scan.initialize(network, features)
    scan.restore(again, {name: array.copy() for name, array in scan.arrays(ours).items()})
    for state in (ours, again):
        steps(scan, state, targets, 10, size=60, seed=9)
    for name, array in scan.arrays(ours).items():
        np.testing.assert_array_equal(scan.arrays(again)[name], array)


def test_places_within_slices_take_two_bytes_and_files_have_plain_row_numbers():
    network, features, targets = problem(n=5000, m=16)
    engine = ScanEngine()
    state = engine.initialize(network, features)
    steps(engine, state, targets, 10, size=500)
    c = state.coefficients
    c.compact()
    assert c.segments.n_slices > 1
    assert (c.rows.dtype, c.rows.max() >> c.segments.slice_bits) == (np.uint16, 0)
    arrays = engine.arrays(state)
    assert (arrays["rows"].dtype, arrays["rows"].max() > 4000) == (np.int32, True)
    before = c.matrix(5000).toarray()
    c.join()
    assert c.rows.dtype == np.int32
    np.testing.assert_array_equal(c.rows, arrays["rows"])
    np.testing.assert_array_equal(c.matrix(5000).toarray(), before)


@pytest.mark.parametrize(("bits", "row_type"), [(11, np.uint16), (16, np.uint16), (17, np.int32), (31, np.int32)])
def test_places_that_need_more_bits_have_them(bits, row_type):
    """Lists of places up to 2^bits − 1, merged, added to, and cut."""
    segments = Segments.consecutive(2, 3 if bits < 31 else 1, bits)
    last = min(3 << bits, 2**31 - 1) - 1
    c = Coefficients.empty(segments, TwoLayer(n_hidden=4, dtype="float64"))
    places = np.array([0, (1 << bits) - 1, last - 1] if bits < 31 else [0, last - 1])
    c.set_lists(np.array([0, len(places), len(places)]), places.astype(np.int32), np.arange(1.0, len(places) + 1))
    assert c.rows.dtype == row_type
    c.make_room(np.array([1, 1]))
    c.tail_rows[c.tail_first[:-1]], c.tail_values[c.tail_first[:-1]] = last, [7.0, 8.0]
    c.tail_len[:] = 1
    c.compact()
    indptr, rows, values = c.by_neuron()
    assert rows.tolist() == [*places, last, last]
    assert values.tolist() == [*range(1, len(places) + 1), 7, 8]
    assert indptr.tolist() == [0, len(places) + 1, len(places) + 2]


def test_panels_are_made_a_tile_at_a_time_and_none_before_anything_is_learned():
    network, features, targets = problem(n=300)
    engine = ScanEngine()
    state = engine.initialize(network, features)
    dense, exact = DenseEngine(), DenseEngine().initialize(network, features)
    start = engine.hidden(state, engine.forward(state, np.arange(200)))
    assert "panel" not in state.buffers._kept
    np.testing.assert_allclose(start, dense.hidden(exact, dense.forward(exact, np.arange(200))), atol=1e-12)
    steps(engine, state, targets, 20)
    rows = np.arange(7, 207)
    outputs = engine.forward(state, rows).outputs
    assert state.buffers._kept["panel"].size == 300 * 64
    parts = [engine.forward(state, rows[k : k + 64]).outputs for k in range(0, 192, 64)]
    np.testing.assert_array_equal(outputs[:192], np.concatenate(parts))
    whole = state.gram.panel(rows, 64).copy()
    np.testing.assert_array_equal(np.array([tile.copy() for tile in state.gram.tiles(rows, 64)]), whole)


def test_slices_hold_about_as_many_coefficients_whatever_the_density():
    segments = Segments.of(np.array([0, 8, 16]), 8192)
    cut = [segments.cut_for(share, 4).slice_bits for share in (0.0, 0.02, 0.04, 0.1, 0.3, 1.0)]
    assert cut == [11, 11, 10, 9, 8, 7]
    assert segments.cut_for(0, 8).slice_bits == 10  # as many bytes
    assert segments.cut(7).cut_for(0, 4).slice_bits == 11
    whole = Segments.consecutive(16, 5, 3)
    assert whole.cut_for(0.5, 4) is whole
    for bits in (6, 12):
        with pytest.raises(ValueError, match="slices"):
            segments.cut(bits)


def test_more_rows_than_a_slice_holds():
    """Real slices of 2,048 rows, and growth from one slice to two."""
    rng = np.random.default_rng(0)
    features = Dense(rng.normal(size=(2100, 6)))[np.arange(2100)] * Dense(rng.normal(size=(5, 3)))[rng.integers(5, size=2100)]
    network = TwoLayer(n_hidden=70, threshold=0.5, output_scale=1.0, dtype="float64")
    targets, batches = rng.normal(size=(2100, 1)), np.array_split(rng.permutation(2000), 20)
    weights = []
    for engine in (ScanEngine(), DenseEngine()):
        state = engine.initialize(network, features[:2000])
        for rows in batches:
            step(engine, state, targets, rows)
        state = engine.extend(state, features)
        for start in range(0, 2100, 100):
            step(engine, state, targets, np.arange(start, start + 100))
        weights.append(engine.hidden_weights(state))
    assert relative(*weights) < 1e-12


def test_matrix_adds_lists_tails_and_scale():
    coefficients = Coefficients(
        segments=Segments.of(np.array([0, 2]), 10), indptr=np.array([0, 2, 2]), rows=np.array([0, 3], dtype=np.int32),
        values=np.array([1.0, 2.0]),
        tail_first=np.array([0, 2, 5]), tail_len=np.array([1, 2]), tail_rows=np.array([3, 9, 1, 1, 0], dtype=np.int32),
        tail_values=np.array([4.0, 99.0, 5.0, 6.0, 99.0]), scale=0.5,
    )  # fmt: skip
    matrix = coefficients.matrix(4)
    assert isinstance(matrix, sp.csr_array)
    assert matrix.toarray().tolist() == [[0.5, 0, 0, 3.0], [0, 5.5, 0, 0]]
    assert coefficients.nnz == 5


@pytest.mark.parametrize("options", [{}, {"train_output": True, "n_outputs": 3}, {"dtype": "float32"}])
def test_what_a_step_adds_may_wait_for_the_next_forward_pass(monkeypatch, options):
    """Asking for the coefficients between steps changes nothing that follows, to the last bit, whatever the rows' order."""
    monkeypatch.setattr(segments_module, "SLICE_BITS", (3, 3))
    states = []
    for asks in (False, True):
        network, features, targets = problem(**options)
        engine, rng = ScanEngine(), np.random.default_rng(5)
        state = engine.initialize(network, features)
        for k in range(30):
            step(engine, state, targets, rng.integers(30, size=20))
            if asks and k % 3 == 0:
                assert state.coefficients.nnz > 0
        assert (state.coefficients.added is None) == (asks and (k % 3 == 0))
        states.append({name: array.copy() for name, array in engine.arrays(state).items()})
        assert state.coefficients.added is None
    for name, array in states[0].items():
        np.testing.assert_array_equal(array, states[1][name])


def test_arrays_that_would_lead_out_of_bounds_are_refused():
    network, features, targets = problem()
    engine = ScanEngine()
    state = engine.initialize(network, features)
    steps(engine, state, targets, 30)
    state.coefficients.compact()
    arrays = {name: array.copy() for name, array in engine.arrays(state).items()}
    longest = int(np.argmax(np.diff(arrays["indptr"])))
    own = slice(arrays["indptr"][longest], arrays["indptr"][longest + 1])
    rows = arrays["rows"].astype(np.int64)
    backwards = rows.copy()
    backwards[own] = backwards[own][::-1]
    for bad, message in (
        ({"rows": backwards}, "not sorted"), ({"rows": rows + 2**32}, "outside"), ({"scale": np.zeros(1)}, "scale"),
        ({"tail_first": arrays["tail_first"] * 10**6}, "tail_len"), ({"slice_bits": np.array([6])}, "slices"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            engine.restore(engine.initialize(network, features), {**arrays, **bad})
    engine.restore(engine.initialize(network, features), {**arrays, "rows": rows})


def test_a_batch_may_repeat_rows_more_often_than_there_are_rows():
    network, features, targets = problem(threshold=-3.0)
    engine = ScanEngine()
    state = engine.initialize(network, features)
    for _ in range(2):
        step(engine, state, targets, np.random.default_rng(0).integers(30, size=400))
    again = engine.initialize(network, features)
    engine.restore(again, engine.arrays(state))
    np.testing.assert_array_equal(engine.outputs(again, features), engine.outputs(state, features))


def test_threads_predict_while_a_step_waits():
    network, features, targets = problem()
    engine = ScanEngine()
    expected = []
    for _ in range(2):  # the first time for what one thread gives
        state = engine.initialize(network, features)
        steps(engine, state, targets, 5, size=10)
        assert state.coefficients.added is not None
        with ThreadPoolExecutor(1 if not expected else 8) as pool:
            expected += list(pool.map(partial(engine.outputs, state), [features] * 8))
    assert state.coefficients.added is None
    for outputs in expected[1:]:
        np.testing.assert_array_equal(outputs, expected[0])


def test_coefficients_are_those_of_fired_pairs():
    network, features, _ = problem(threshold=0.5)
    engine = ScanEngine()
    state = engine.initialize(network, features)
    activations = engine.forward(state, np.arange(8))
    fired = engine.hidden(state, activations) > 0
    assert 0 < fired.mean() < 1
    engine.update(state, engine.backward(state, activations, np.ones((8, 1)), 1.0))
    matrix = state.coefficients.matrix(30).toarray()
    expected = -network.scale * fired.T * state.output_weights
    np.testing.assert_allclose(matrix[:, :8], expected, rtol=1e-14)
    assert not matrix[:, 8:].any()


def test_rows_that_repeat_within_a_batch():
    network, features, targets = problem()
    weights = []
    rows = np.array([3, 3, 5, 3])
    for engine in (ScanEngine(), DenseEngine()):
        state = engine.initialize(network, features)
        for _ in range(3):
            activations = engine.forward(state, rows)
            slopes = (activations.outputs - targets[rows]) / 4
            engine.update(state, engine.backward(state, activations, slopes, 0.5))
        weights.append(engine.hidden_weights(state))
    assert relative(*weights) < 1e-12
