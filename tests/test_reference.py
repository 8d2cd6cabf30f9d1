"""The paper's algorithm: its trees against brute force, what they cost, and its steps against the engines'."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kronsgd import Dense
from kronsgd.engines import DenseEngine, ScanEngine
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.parallel import threads
from kronsgd.reference import CorrelationTree, FlatTable, KroneckerSGD, Operations
from kronsgd.testing import EXPRESSIONS

N_ROWS = 24


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def queries_match(store, values, threshold):
    for i, row in enumerate(values):
        np.testing.assert_array_equal(store.query(i, threshold), np.flatnonzero(row > threshold))


# The trees -----------------------------------------------------------------------------------------------------------

# Few different values, so that thresholds are met exactly and maxima are shared.
LEVELS = st.integers(-3, 3).map(float)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), n=st.integers(1, 4), m=st.integers(1, 20), kind=st.sampled_from([CorrelationTree, FlatTable]))
def test_queries_equal_brute_force_after_any_updates(data, n, m, kind):
    values = np.array(data.draw(st.lists(LEVELS, min_size=n * m, max_size=n * m))).reshape(n, m)
    store = kind(values.copy())
    for _ in range(data.draw(st.integers(0, 12))):
        r = data.draw(st.integers(0, m - 1))
        if data.draw(st.booleans()):
            i, new = data.draw(st.integers(0, n - 1)), data.draw(LEVELS)
            store.update(i, r, new)
            values[i, r] = new
        else:
            changes = np.array(data.draw(st.lists(LEVELS, min_size=n, max_size=n)))
            store.add(r, changes)
            values[:, r] += changes
        queries_match(store, values, data.draw(LEVELS))
    assert [[store.value(i, r) for r in range(m)] for i in range(n)] == values.tolist()


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 40), seed=st.integers(0, 2**32 - 1), n_updates=st.integers(0, 10))
def test_every_node_is_the_maximum_of_its_children(m, seed, n_updates):
    rng = np.random.default_rng(seed)
    tree = CorrelationTree(rng.normal(size=(3, m)))
    for _ in range(n_updates):
        tree.update(int(rng.integers(3)), int(rng.integers(m)), float(rng.normal()))
        tree.add(int(rng.integers(m)), rng.normal(size=3))
    for k in range(1, tree.n_leaves):
        np.testing.assert_array_equal(tree.nodes[k], np.maximum(tree.nodes[2 * k], tree.nodes[2 * k + 1]))
    assert np.isneginf(tree.nodes[tree.n_leaves + m :]).all()


def test_tree_from_weights_is_the_tree_over_their_inner_products():
    rng = np.random.default_rng(0)
    weights, rows = rng.normal(size=(11, 5)), rng.normal(size=(4, 5))
    tree = CorrelationTree.initialize(weights, rows)
    queries_match(tree, rows @ weights.T, 0.3)
    assert tree.operations.multiply_adds == 11 * 4 * 5


@pytest.mark.parametrize("m", [1, 2, 3, 64, 65, 1000])
def test_an_update_writes_the_leaf_and_its_ancestors(m):
    tree = CorrelationTree(np.zeros((5, m)))
    depth = math.ceil(math.log2(m)) if m > 1 else 0
    before, nodes = tree.operations.copy(), tree.nodes.copy()
    tree.update(2, m - 1, 1.0)
    assert tree.operations - before == Operations(0, depth, depth + 1)
    changed = np.argwhere(tree.nodes[1:] != nodes[1:])
    assert set(changed[:, 1]) == {2}  # no other row's tree
    assert len(changed) == depth + 1  # the new value is the largest, so all of its ancestors change
    before = tree.operations.copy()
    tree.add(0, np.ones(5))
    assert tree.operations - before == Operations(5, 5 * depth, 5 * (depth + 1))


@settings(max_examples=60, deadline=None)
@given(m=st.integers(1, 600), n_fired=st.integers(0, 30), seed=st.integers(0, 2**32 - 1))
def test_a_query_costs_fired_times_log_m(m, n_fired, seed):
    rng = np.random.default_rng(seed)
    values = -rng.random((1, m))
    fired = rng.choice(m, size=min(n_fired, m), replace=False)
    values[0, fired] = 1.0
    tree = CorrelationTree(values)
    before = tree.operations.copy()
    assert len(tree.query(0, 0.0)) == len(fired)
    spent = tree.operations - before
    assert spent.comparisons <= 1 + 2 * len(fired) * tree.depth
    assert spent == Operations(comparisons=spent.comparisons)
    # Exactly the root, and both children of every node with a fired leaf below it: what a descent has to look at.
    open_nodes = {(tree.n_leaves + int(r)) >> level for r in fired for level in range(1, tree.depth + 1)}
    assert spent.comparisons == 1 + 2 * len(open_nodes)


def test_a_flat_table_compares_every_neuron_and_writes_a_row():
    table = FlatTable(np.zeros((5, 70)))
    before = table.operations.copy()
    table.query(0, 0.5)
    table.add(3, np.ones(5))
    assert table.operations - before == Operations(5, 70, 5)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_not_finite_are_refused(bad):
    tree = CorrelationTree(np.zeros((2, 4)))
    with pytest.raises(ValueError, match="must be finite"):
        tree.update(0, 1, bad)
    with pytest.raises(ValueError, match="must be finite"):
        CorrelationTree(np.full((2, 2), bad))


# The algorithm -------------------------------------------------------------------------------------------------------


def problem(expression="A * B", loss="squared", **options):
    rng = np.random.default_rng(1)
    features = EXPRESSIONS[expression](rng, N_ROWS)
    n_outputs = {"squared": 2, "softmax": 3}[loss]
    network = TwoLayer(**{"n_hidden": 40, "n_outputs": n_outputs, "threshold": 0.4, "seed": 5, "dtype": "float64", **options})
    labels = np.eye(n_outputs)[rng.integers(0, n_outputs, N_ROWS)]
    return network, features, labels if loss == "softmax" else rng.normal(size=(N_ROWS, n_outputs))


def batches(n_steps, size):
    rng = np.random.default_rng(2)
    return [np.sort(rng.choice(N_ROWS, size, replace=False)).astype(np.int64) for _ in range(n_steps)]


def alpha_of(engine, state):
    """Coefficients (n, m) of a scan state; of a dense one from its weights, whose rows are linearly independent."""
    if isinstance(engine, ScanEngine):
        return np.asarray(state.coefficients.matrix(N_ROWS).todense()).T
    return np.linalg.lstsq(state.rows.T, (state.weights - state.start).T, rcond=None)[0]


@pytest.mark.parametrize("store", ["tree", "flat"])
@pytest.mark.parametrize("engine", [DenseEngine(), ScanEngine()], ids=lambda e: e.name)
@pytest.mark.parametrize("init", ["structured", "gaussian"])
@pytest.mark.parametrize(("expression", "loss", "size", "normalize"), [
    ("A * B", "squared", 1, True), ("A * B", "softmax", 8, True), ("(1 + A) ** 2", "squared", 8, False),
    ("A * A * K", "squared", N_ROWS, True),
])  # fmt: skip
def test_same_steps_as_the_engines(store, engine, init, expression, loss, size, normalize):
    network, features, targets = problem(expression, loss, init=init)
    ours = KroneckerSGD(network, features, normalize, store)
    state = engine.initialize(network, features, normalize)
    start = ours.forward(np.arange(N_ROWS)).fired
    rate = 2.0 if normalize else 0.02
    for rows in batches(40, size):
        mine, theirs = ours.forward(rows), engine.forward(state, rows)
        for s, hidden in enumerate(engine.hidden(state, theirs)):
            np.testing.assert_array_equal(mine.fired[s], np.flatnonzero(hidden > 0))
        np.testing.assert_allclose(mine.outputs, theirs.outputs, rtol=0, atol=1e-9)
        mine_slopes = LOSSES[loss].derivative(mine.outputs, targets[rows]) / size
        slopes = LOSSES[loss].derivative(theirs.outputs, targets[rows]) / size
        ours.update(ours.backward(mine, mine_slopes, rate))
        engine.update(state, engine.backward(state, theirs, slopes, rate))
    end = ours.forward(np.arange(N_ROWS)).fired
    assert any(len(a) != len(b) for a, b in zip(start, end, strict=True)), "the fired sets do not move"
    if engine.name == "scan":
        np.testing.assert_allclose(ours.alpha, alpha_of(engine, state), rtol=0, atol=1e-9)


def test_alpha_equals_the_dense_engines_where_rows_are_independent():
    rng = np.random.default_rng(3)
    features = EXPRESSIONS["(1 + A) ** 2"](rng, 10)  # 10 rows of 25 coordinates, 15 of them different
    network, targets = TwoLayer(40, threshold=0.4, dtype="float64"), rng.normal(size=(10, 1))
    engine = DenseEngine()
    ours, state = KroneckerSGD(network, features), engine.initialize(network, features)
    assert np.linalg.matrix_rank(state.rows) == 10
    for start in range(60):
        rows = np.arange(start % 5, 10, 5)
        mine, theirs = ours.forward(rows), engine.forward(state, rows)
        ours.update(ours.backward(mine, mine.outputs - targets[rows], 1.0))
        engine.update(state, engine.backward(state, theirs, theirs.outputs - targets[rows], 1.0))
    np.testing.assert_allclose(ours.alpha, alpha_of(engine, state), rtol=0, atol=1e-9)


def test_stored_values_are_those_of_the_coefficients():
    """Eager and lazy: what the trees were moved to, step by step, is w(0) plus alpha's combination of rows."""
    network, features, targets = problem()
    ours = KroneckerSGD(network, features)
    before = ours.store.nodes[ours.store.n_leaves :][:40].T.copy()
    for rows in batches(30, 8):
        batch = ours.forward(rows)
        ours.update(ours.backward(batch, (batch.outputs - targets[rows]) / 8, 2.0))
    stored = ours.store.nodes[ours.store.n_leaves :][:40].T
    assert np.abs(stored - before).max() > 0.01
    np.testing.assert_allclose(stored, before + ours.gram @ ours.alpha, rtol=0, atol=1e-12)


def test_operations_of_a_step():
    """The claim to check in the paper: n for each fired pair, n·log m for each fired neuron, whatever d."""
    counts = []
    for columns in (3, 30):
        rng = np.random.default_rng(4)
        features = Dense(rng.normal(size=(N_ROWS, columns))) * Dense(rng.normal(size=(N_ROWS, columns)))
        ours = KroneckerSGD(TwoLayer(64, threshold=0.4), features)
        rows = np.arange(8)
        before = ours.operations.copy()
        batch = ours.forward(rows)
        queried = ours.operations - before
        coefficients = ours.backward(batch, np.ones((8, 1)), 0.1)
        before = ours.operations.copy()
        ours.update(coefficients)
        spent = ours.operations - before
        pairs, neurons = sum(map(len, batch.fired)), len(set(np.concatenate(batch.fired)))
        assert neurons < pairs  # some fire on several rows of the batch, and their leaves are written once
        assert queried.comparisons <= 8 + 2 * 6 * pairs
        assert queried.multiply_adds == 2 * pairs
        assert spent == Operations(N_ROWS * (pairs + neurons), N_ROWS * neurons * 6, N_ROWS * neurons * 7)
        counts.append(spent.multiply_adds / (pairs + neurons))
    assert counts[0] == counts[1]


def test_a_row_that_a_batch_holds_twice_counts_twice():
    network, features, _ = problem()
    twice, once = KroneckerSGD(network, features), KroneckerSGD(network, features)
    for sgd, rows, slope in ((twice, [3, 3], 1.0), (once, [3], 2.0)):
        batch = sgd.forward(np.array(rows))
        sgd.update(sgd.backward(batch, np.full((len(rows), 2), slope), 0.5))
    assert np.abs(once.alpha).max() > 0
    np.testing.assert_allclose(twice.alpha, once.alpha, rtol=1e-15)
    np.testing.assert_allclose(twice.store.nodes, once.store.nodes, rtol=0, atol=1e-12)


def test_what_the_paper_does_not_have_is_refused():
    network, features, _ = problem()
    with pytest.raises(ValueError, match="train_output=False"):
        KroneckerSGD(TwoLayer(40, train_output=True), features)
    with pytest.raises(ValueError, match=r"store='heap' is not one of \['flat', 'tree'\]"):
        KroneckerSGD(network, features, store="heap")
