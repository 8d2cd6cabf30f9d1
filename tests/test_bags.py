"""Bags of items: sums over whatever the items are, in every form, and what trains on them."""

from __future__ import annotations

import re
import tracemalloc

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

import kronsgd as ks
from helpers.arrays import normal, positive_table, relative
from helpers.engines import steps
from helpers.features import random_expression
from kronsgd import testing
from kronsgd.engines import ENGINES
from kronsgd.features import bag as bag_module
from kronsgd.features import item_sums, summed
from kronsgd.features.growth import starts_with
from kronsgd.features.item_sums import ItemSums
from kronsgd.features.known import KnownRows
from kronsgd.network import TwoLayer
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.testing import check_engine, check_features

pytestmark = pytest.mark.usefixtures("one_thread")

FORMS = ["dense", "sparse", "items"]
OWNER = np.array([0, 1, 1, 3, 0, 0, 5, 3, 3, 1, 1, 4])  # bag 2 is empty


def sums(owner, weights, n_bags):
    """(bags, items) as an array."""
    out = np.zeros((n_bags, len(owner)))
    np.add.at(out, (owner, np.arange(len(owner))), weights)
    return out


def patches(n=12, seed=0):
    """Items that are pairs of a dense entity and a category."""
    rng = np.random.default_rng(seed)
    return ks.Dense(normal(6, 3))[rng.integers(0, 6, n)] * ks.OneHot(np.arange(5))[rng.integers(0, 5, n)]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.booleans())
def test_any_items_are_summed(seed, n, normalize):
    """⟨x, x'⟩ = S_A · K_items · S_Bᵀ for every expression over items and every form, empty bags among them."""
    rng = np.random.default_rng(seed)
    items = random_expression(rng, n)
    owner, weights = rng.integers(0, 4, n), rng.normal(size=n)
    matrix = sums(owner, weights, 5)
    expected = matrix @ np.asarray(items.inner(), dtype=np.float64) @ matrix.T
    size = max(1.0, np.abs(matrix).sum(axis=1).max() ** 2 * np.abs(items.inner()).max())
    if normalize:
        norms = np.sqrt(np.maximum(np.diag(expected), 0))
        if ((norms < 1e-4 * np.sqrt(size)) & (norms > 0)).any():
            return  # items that all but cancel: the norm is rounding
        expected = expected / np.where(norms > 0, norms, 1)[:, None] / np.where(norms > 0, norms, 1)
    for form in FORMS if bag_module.has_coordinates(items) else ["items"]:
        bags = ks.Bag(items, owner, weights, 5, normalize=normalize, form=form)
        np.testing.assert_allclose(bags.inner(), expected, atol=1e-7 * (1 if normalize else size))
        assert bags.dim == items.dim
        assert not bags.inner()[4].any()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("normalize", [False, True])
def test_conformance_with_new_bags(form, normalize):
    bags = ks.Bag(patches(), OWNER, normal(12), 7, normalize=normalize, form=form)
    new = bags.like(patches(8, seed=1), [0, 0, 2, 2, 2, 1, 1, 0], normal(8, seed=2), n_bags=4)
    check_features(bags, new)
    check_features(bags[[5, 0, 0, 2, 6, 3]] * (1 + ks.OneHot([0, 1, 2, 0, 1, 2])), new[[3, 3]] * (1 + ks.OneHot([0, 1], 3)))


@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_small_tiles_and_chunks_change_nothing(chunk, monkeypatch):
    items, weights = patches(), normal(12)
    expected = {form: ks.Bag(items, OWNER, weights, form=form).inner() for form in FORMS}
    monkeypatch.setattr(item_sums, "TILE", chunk)
    monkeypatch.setattr(item_sums, "BLOCK", chunk)
    monkeypatch.setattr(summed, "CHUNK", 15 * chunk)
    for form, inner in expected.items():
        bags = ks.Bag(items, OWNER, weights, form=form)
        np.testing.assert_allclose(bags.inner(), inner, atol=1e-12)
        np.testing.assert_allclose(bags.squared_norms(), np.diag(inner), atol=1e-12)


def test_bags_of_bags_and_of_weighted_rows():
    words = ks.Bag(0.3 * ks.RBF(normal(12, 2)) + ks.Dense(normal(12, 4)) ** 2, OWNER, n_bags=6)
    texts = ks.Bag(1 + words, [0, 1, 1, 0, 2, 2], normal(6))
    matrix = sums([0, 1, 1, 0, 2, 2], normal(6), 3)
    np.testing.assert_allclose(texts.inner(), matrix @ (1 + words.inner()) @ matrix.T, rtol=1e-10)
    check_features(texts, texts.like(1 + words[[3, 2, 0]], [0, 1, 1]))


def test_equal_bags_are_one_row():
    """A set has no order, and what is equal to the last bit is found again in a stream, in every form."""
    items = patches()
    for form in FORMS:
        bags = ks.Bag(items, OWNER, form=form)
        again = bags.like(items[[3, 7, 8]], [0, 0, 0])
        assert again.entity_keys()[0] == bags.entity_keys()[3]
    shuffled = ks.Bag(items, OWNER, form="items").like(items[[8, 3, 7]], [0, 0, 0])
    assert shuffled.entity_keys()[0] == ks.Bag(items, OWNER, form="items").entity_keys()[3]


@pytest.mark.parametrize("form", FORMS)
def test_bags_grow_in_a_stream(form):
    bags = ks.Bag(patches(40), np.repeat(np.arange(20), 2), normal(40), form=form)
    known = KnownRows(bags[:5])
    for start in range(5, 20, 5):
        before = known.features
        known.append(bags[start : start + 5])
        assert starts_with(known.features, before)
    np.testing.assert_allclose(known.features.inner(bags), bags.inner(), atol=1e-12)


def test_the_cheapest_form_is_taken():
    """Counted by hand: D against 8 entries against (N/B)² inner products between items."""
    rng = np.random.default_rng(0)
    wide, narrow = ks.Dense(rng.normal(size=(30, 200))), ks.Dense(rng.normal(size=(30, 4)))
    three, all_in_one = np.repeat(np.arange(10), 3), np.zeros(30, dtype=int)
    codes = ks.OneHot(np.arange(30), 5000)
    assert ks.Bag(narrow, three).form == "dense"
    assert ks.Bag(wide**2, three).form == "items"  # 9 · 201 against 40,000
    assert ks.Bag(wide**2, all_in_one).form == "dense"  # 900 · 201 against 40,000
    assert ks.Bag(codes, all_in_one).form == "sparse"  # 8 · 30 against 900 and 5,000
    assert ks.Bag(ks.RBF(narrow.array), all_in_one).form == "items"  # there are no coordinates
    assert ks.Bag(ks.Kernel(positive_table(4))[[0, 1, 2, 3] * 5], np.zeros(20, dtype=int)).form == "dense"


def test_memory_of_items_is_bounded():
    """A panel of bags of 4,000 items never holds the 16 million inner products between them."""
    bags = ks.Bag(ks.RBF(normal(8000, 3)), np.repeat([0, 1], 4000))
    tracemalloc.start()
    bags.inner()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 40 * item_sums.TILE**2 * 8 / 5


def _bags_of(form):
    def make(rng, n):
        table, kernel = ks.Dense(rng.normal(size=(6, 3))), ks.RBF(3 * np.arange(4.0)[:, None], gamma=0.3)
        i = rng.integers(0, 6, 30)
        items = table[i] * (kernel[i % 4] if form == "items" else ks.OneHot(np.arange(4))[i % 4])
        bags = ks.Bag(items, np.arange(30) % 8, rng.uniform(0.5, 1.5, size=30), form=form, normalize=True)
        return bags[rng.integers(0, 8, n)] * (1 + ks.Dense(rng.normal(size=(5, 3)))[rng.integers(0, 5, n)])

    return make


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_engines_take_the_steps_of_the_dense_engine(form, engine, monkeypatch):
    monkeypatch.setitem(testing.EXPRESSIONS, "bags", _bags_of(form))
    inits = ("structured",) if engine == "grid" else ("structured", "gaussian")
    check_engine(
        ENGINES[engine], expressions=["bags"], losses=["squared"], batch_sizes=[8], inits=inits, dtypes=["float64"],
        n_steps=40,
    )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_tree_engine_takes_the_steps_of_the_dense_engine(form):
    rng = np.random.default_rng(0)
    features, targets = _bags_of(form)(rng, 30), rng.normal(size=(30, 1))
    network = TwoLayer(n_hidden=40, output_scale=1.0, dtype="float64")
    trained = {name: ENGINES[name].initialize(network, features) for name in ("tree", "dense")}
    for name, state in trained.items():
        steps(ENGINES[name], state, targets, 60)
    weights = [ENGINES[name].hidden_weights(state) for name, state in trained.items()]
    assert relative(*weights) < 1e-12
    assert relative(weights[1], trained["dense"].start) > 1e-2


def test_the_dense_engine_refuses_bags_beyond_their_span(monkeypatch):
    monkeypatch.setattr("kronsgd.features.kernel_leaves.MAX_ANCHORS", 3)
    bags = ks.Bag(ks.Dense(normal(12, 4)), OWNER, form="items")
    with pytest.raises(ValueError, match="no exact coordinates"):
        ks.KronRegressor(8, engine="dense", max_iter=1, learning_rate_init=1.0).fit(bags, np.arange(6.0))


def test_the_planner_counts_items():
    network = ks.estimators.KronRegressor(8, engine="scan", max_iter=1, learning_rate_init=1.0, n_jobs=1)
    bags = ks.Bag(ks.RBF(normal(12, 4)), OWNER, form="items")
    state = network.fit(bags, np.arange(6.0)).state_
    table = Problem.of(state.network, bags, Schedule()).tables[0]
    assert (table.entities, table.dim, table.itemsize, table.span) == (6, 4 * 4, 8, 6)  # (12 / 6)² pairs of 4 numbers


def test_second_order_pooling_learns():
    """Sets whose items are correlated or not, which no sum of the items themselves tells."""
    rng = np.random.default_rng(0)
    n = 200
    label = rng.integers(0, 2, n)
    first = rng.normal(size=(n, 20))
    second = np.where(label[:, None] == 1, first, rng.normal(size=(n, 20)))
    items = ks.Dense(np.stack([first.ravel(), second.ravel()], axis=1), normalize=False) ** 2
    bags = ks.Bag(items, np.repeat(np.arange(n), 20), normalize=True)
    model = ks.KronClassifier(256, random_state=0, n_jobs=1).fit(bags[:150], label[:150])
    assert model.score(bags[150:], label[150:]) > 0.95


table = ks.Dense(normal(3, 2))
REFUSED = {
    "an array": (lambda: ks.Bag(normal(3, 2), [0, 1, 1]), TypeError, "wrap an array in Dense"),
    "no items": (lambda: ks.Bag(table[[]], []), ValueError, "at least one is needed"),
    "too few owners": (lambda: ks.Bag(table, [0, 1]), ValueError, r"shape \(2,\); .* 3 items"),
    "owners that are not whole": (lambda: ks.Bag(table, [0.0, 1.0, 1.0]), ValueError, "owner is float64"),
    "an owner below 0": (lambda: ks.Bag(table, [0, -1, 1]), ValueError, r"owner\[1\] is -1, but bags are numbered 0 to 1"),
    "an owner too large": (lambda: ks.Bag(table, [0, 1, 4], n_bags=4), ValueError, r"owner\[2\] is 4.*raise n_bags"),
    "no bags": (lambda: ks.Bag(table, [0, 0, 0], n_bags=0), ValueError, "n_bags=0 is out of range"),
    "weights with NaN": (lambda: ks.Bag(table, [0, 0, 0], [1, np.nan, 1]), ValueError, "weights contains NaN"),
    "too few weights": (lambda: ks.Bag(table, [0, 0, 0], [1.0]), ValueError, r"weights is float64 of shape \(1,\)"),
    "weights as text": (lambda: ks.Bag(table, [0, 0, 0], ["a"] * 3), ValueError, "weights is <U1"),
    "an unknown form": (lambda: ks.Bag(table, [0, 0, 0], form="item"), ValueError, "Did you mean 'items'"),
    "coordinates of a kernel": (lambda: ks.Bag(ks.RBF(normal(3, 2)), [0, 0, 0], form="dense"), ValueError, "use form="),
    "new items of another space": (
        lambda: ks.Bag(table, [0, 0, 0]).like(ks.Dense(normal(3, 4)), [0, 0, 0]), ValueError, "2 dimensions.* 4",
    ),
    "bags made otherwise": (
        lambda: ks.Bag(table, [0, 0, 0]).inner(ks.Bag(table, [0, 0, 0], form="items")), ValueError, "make it with .like",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    make, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        make()
    assert re.search(message, str(error.value), flags=re.DOTALL), error.value


def test_sparse_coordinates_equal_dense_ones():
    rng = np.random.default_rng(0)
    s = ks.Sparse(sp.random(6, 9, 0.3, random_state=0, format="csr"))
    i = rng.integers(0, 6, 12)
    items = (0.5 + s[i]) ** 2 * (ks.OneHot(np.arange(6))[i] + 2 + ks.Kernel(positive_table(6))[i])
    dense, sparse = (ks.Bag(items, OWNER, form=form) for form in ("dense", "sparse"))
    np.testing.assert_allclose(sparse.dense(), dense.dense(), atol=1e-12)


@pytest.mark.parametrize("wrap", [lambda s: 0.3 * s, lambda s: 2 * (ks.OneHot(np.arange(6))[:6] * (0.3 * s))])
def test_sparse_sums_of_weighted_rows_never_become_dense(wrap):
    """12 items of 100,000 columns with 3 entries each; as a dense array they would take 10 MB."""
    matrix = sp.random(6, 100_000, 3e-5, random_state=0, format="csr")
    tracemalloc.start()
    bags = ks.Bag(wrap(ks.Sparse(matrix))[np.arange(12) % 6], OWNER, form="sparse")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**20
    assert bags.squared_norms().max() > 0.1


def test_item_sums_are_kept_once_per_different_item():
    bags = ks.Bag(ks.RBF(normal(4, 2))[[0, 1, 0, 3, 3, 3]], [0, 0, 0, 1, 1, 0], form="items").table
    assert isinstance(bags, ItemSums)
    assert bags.items.n_rows == 3
    assert bags.bags.toarray().tolist() == [[2, 1, 1], [0, 0, 2]]
