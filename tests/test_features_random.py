"""Random nested expressions over every kind of leaf: all promises of the algebra, files, and steps of every engine."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from helpers.features import LEAVES
from kronsgd import RBF, Bag, Categories, Dense, LowRank, Patches, Spectrum
from kronsgd.engines import DenseEngine, EagerEngine, GridEngine, ScanEngine, TreeEngine
from kronsgd.features.grouping import coordinate_dim
from kronsgd.features.serialize import features_from_state, features_state
from kronsgd.network import TwoLayer
from kronsgd.testing import check_features

pytestmark = pytest.mark.usefixtures("one_thread")

WIDEST = 3000  # coordinates, which are written out
STEPS = 3


def learned():
    """Leaves that learn from their table, with new entities by `like`."""
    rng = np.random.default_rng(4)
    words = ["abab", "bba", "cab", "acca"]
    table = {"x": ["u", "v", "u"], "y": [1, 2, 3]}
    leaves = {
        "Dense centred and scaled": (Dense(rng.normal(size=(5, 3)), center=True, scale=True), rng.normal(size=(3, 3))),
        "LowRank": (LowRank(rng.normal(size=(5, 2)), rng.normal(size=(2, 4))), rng.normal(size=(3, 2))),
        "Spectrum": (Spectrum(words, 2, idf=True), ["ab", "cc", "bacca"]),
        "Categories": (Categories(table), {"x": ["w", "u"], "y": [2, 2]}),
        "Patches": (Patches(rng.normal(size=(4, 4, 4)), 3, n_filters=3, n_places=2), rng.normal(size=(2, 4, 4))),
    }
    return {name: (known, known.like(new)) for name, (known, new) in leaves.items()}


KINDS = {name: make() for name, make in LEAVES.items()} | learned()


@st.composite
def expressions(draw, n, n_new, depth=3, kinds=tuple(KINDS)):
    """(n rows, n_new rows over other tables) of one random expression."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    node = draw(st.sampled_from(["leaf", "product", "sum", "power", "weight", "constant", "bag"])) if depth else "leaf"
    if node == "leaf":
        known, new = KINDS[draw(st.sampled_from(kinds))]
        return known[rng.integers(0, known.n_rows, n)], new[rng.integers(0, new.n_rows, n_new)]
    if node == "bag":
        items, others = draw(expressions(2 * n, 2 * n_new, depth - 1, kinds))
        assume(coordinate_dim(items) <= WIDEST)
        owners = (rng.integers(0, k, 2 * k) for k in (n, n_new))
        bags = Bag(items, next(owners), rng.uniform(0.5, 1.5, 2 * n), n, normalize=bool(rng.integers(2)))
        return bags, bags.like(others, next(owners), n_bags=n_new)
    pair = draw(expressions(n, n_new, depth - 1, kinds))
    if node in ("product", "sum"):
        other = draw(expressions(n, n_new, depth - 1, kinds))
        return tuple(a * b if node == "product" else a + b for a, b in zip(pair, other, strict=True))
    number = rng.uniform(0.2, 2.0)
    exponent = int(rng.integers(1, 4))
    return tuple({"power": a**exponent, "weight": number * a, "constant": number + a}[node] for a in pair)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(expressions(6, 4))
def test_promises_of_the_algebra(pair):
    """Inner products are those of coordinates, symmetric and positive; slices, copies, appended and new rows agree."""
    features, new = pair
    assume(coordinate_dim(features) <= WIDEST)
    check_features(features, new)
    gram = features.inner().astype(np.float64)
    np.testing.assert_allclose(gram, gram.T, rtol=1e-6, atol=1e-12 * np.abs(gram).max(initial=0))
    arrays, tree = features_state(features)
    again = features_from_state(arrays, tree)
    assert repr(again) == repr(features)
    np.testing.assert_array_equal(again.inner(new), features.inner(new))
    np.testing.assert_array_equal(again.squared_norms(), features.squared_norms())


EXACT = tuple(name for name in KINDS if "float32" not in name)
ENGINES = [ScanEngine(), EagerEngine(), TreeEngine(), GridEngine(), GridEngine(flip=True)]


@settings(max_examples=25, deadline=None, derandomize=True)
@given(expressions(12, 3, 2, EXACT), st.integers(1, 3), st.booleans())
def test_engines_agree_with_the_dense_one(pair, rank, train_output):
    features, new = pair
    assume(coordinate_dim(features) <= WIDEST and all((rows.squared_norms() > 1e-9).all() for rows in pair))
    network = TwoLayer(10, threshold=0.2, init_rank=rank, train_output=train_output, seed=1, dtype="float64")
    expected = trained(DenseEngine(), network, features, new)
    for engine in ENGINES:
        if isinstance(engine, GridEngine) and not has_grid(features):
            continue
        for mine, its in zip(trained(engine, network, features, new), expected, strict=True):
            assert apart(mine, its) < 1e-7, engine.name  # directions of a kernel's small eigenvalues lose digits


def apart(a, b):
    return np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-3)  # no neuron may fire


def has_grid(features):
    try:
        GridEngine().initialize(TwoLayer(2), features)
    except ValueError:
        return False
    return True


def trained(engine, network, features, new):
    """Outputs of all rows and of new ones, after a few steps."""
    state = engine.initialize(network, features)
    for rows in np.random.default_rng(0).integers(0, features.n_rows, (STEPS, 4)):
        rows = np.unique(rows)
        activations = engine.forward(state, rows)
        engine.update(state, engine.backward(state, activations, activations.outputs - np.sin(rows)[:, None], 0.7, 0.01))
    return engine.outputs(state, features), engine.outputs(state, new)


def test_strategy_reaches_every_kind():
    """The strategy is worth nothing if it stops at leaves."""
    seen, sizes = set(), []

    @settings(max_examples=60, deadline=None, derandomize=True, database=None)
    @given(expressions(6, 4))
    def collect(pair):
        sizes.append(len(list(pair[0].leaves())))
        for leaf in pair[0].leaves():
            seen.add(type(leaf).__name__)

    collect()
    assert {"Bag", "Weighted", "Dense", "Kernel"} <= seen
    assert len(seen) >= 8
    assert max(sizes) >= 4


def test_kernel_of_few_dimensions_keeps_its_digits():
    """What the tolerance of the engines' test allows for is a kernel's small eigenvalues, not the engines."""
    X = RBF(np.arange(6.0)[:, None], 0.5)[np.arange(12) % 6] * Dense(np.arange(12.0).reshape(6, 2) + 1)[np.arange(12) % 5]
    network = TwoLayer(10, threshold=0.2, seed=1, dtype="float64")
    outputs = [trained(engine, network, X, X[:3])[0] for engine in (DenseEngine(), ScanEngine(), GridEngine())]
    assert max(apart(outputs[k], outputs[0]) for k in (1, 2)) < 1e-11
