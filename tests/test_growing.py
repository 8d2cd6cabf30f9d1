"""What grows with a stream: arrays, tables, row numbers, and what is made for rows and entities."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import scipy.sparse as sp

from kronsgd import RBF, Bag, Dense, Kernel, OneHot, Sparse, Tanimoto
from kronsgd.buffers import Buffers
from kronsgd.features.gram import RowGram, inverse_norms
from kronsgd.features.growth import starts_with
from kronsgd.features.known import KnownRows, append_rows
from kronsgd.features.serialize import compress
from kronsgd.growing import Growing, Room, begins_with
from kronsgd.initial import InitialWeights, StartingValues
from kronsgd.network import TwoLayer

N = 72


def test_growing_arrays_keep_what_they_have_given():
    rng = np.random.default_rng(0)
    first = rng.normal(size=(3, 2))
    growing, whole, given = Growing(first), first, []
    for count in (1, 0, 5, 2, 40, 1, 1):
        more = rng.normal(size=(count, 2))
        whole = np.concatenate([whole, more])
        given.append((growing.append(more), whole))
    for array, expected in given:
        np.testing.assert_array_equal(array, expected)
        assert begins_with(given[-1][0], array)
    assert first.shape == (3, 2)
    assert given[-1][0].flags.c_contiguous
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(growing)).array, whole)


def test_begins_with():
    array = np.arange(12.0).reshape(6, 2)
    assert begins_with(array, array[:2])
    assert begins_with(array, array[:2].copy())
    assert not begins_with(array, array[1:3])
    assert not begins_with(array[:2], array)
    assert not begins_with(array, array[:2].astype("f4"))
    assert not begins_with(array, array[:2, :1])


def test_room_is_for_the_latest_array_only():
    room, array = Room(), np.arange(3.0)
    longer = room.append("x", array, np.ones(1))
    left, right = room.append("x", longer, np.full(2, 2.0)), room.append("x", longer, np.full(2, 3.0))
    assert left.tolist() == [0, 1, 2, 1, 2, 2]
    assert right.tolist() == [0, 1, 2, 1, 3, 3]


LEAVES = {
    "Dense": lambda rng: Dense(rng.normal(size=(20, 3)), center=True),
    "Sparse": lambda rng: Sparse(sp.random_array((20, 8), density=0.4, rng=rng, format="csr")),
    "OneHot": lambda rng: OneHot(rng.integers(0, 9, 20), 9),
    "RBF": lambda rng: RBF(rng.normal(size=(20, 3))),
    "Tanimoto": lambda rng: Tanimoto(rng.integers(0, 2, size=(20, 7))),
    "Bag": lambda rng: Bag(Dense(rng.normal(size=(50, 3))) ** 2, np.arange(50) % 20),
    "Bag of a kernel": lambda rng: Bag(RBF(rng.normal(size=(50, 3))), np.sort(np.arange(50) % 20), rng.normal(size=50)),
    "weighted": lambda rng: 0.3 * Dense(rng.normal(size=(20, 3))),
    "Kernel": lambda rng: kernel_with_new_entities(rng),
}


def kernel_with_new_entities(rng):
    table = rng.normal(size=(20, 4))
    kernel = Kernel(table[:12] @ table[:12].T)
    new = kernel.new_entities(table[12:] @ table[:12].T, (table[12:] ** 2).sum(axis=1))
    return kernel.append_entities(new)


@pytest.mark.parametrize("kind", LEAVES)
def test_leaves_grow_in_place(kind):
    leaf = LEAVES[kind](np.random.default_rng(0))
    room, grown = Room(), leaf.select_entities(np.arange(10))
    for e in range(10, 20):
        before, inner = grown, grown.inner()
        grown = grown.grow(leaf.select_entities(np.array([e])), room)
        assert grown.begins_with(before)
        assert not before.begins_with(grown)
        np.testing.assert_array_equal(before.inner(), inner)
    np.testing.assert_allclose(grown.inner(), leaf.inner(), atol=1e-12)
    assert grown.entity_keys() == leaf.entity_keys()
    parts = leaf.select_entities(np.arange(10)).append_entities(leaf.select_entities(np.arange(10, 20)))
    assert grown.begins_with(parts)


def tables():
    """Two tables, and a pair of entities for each row, none of them twice; new entities come late."""
    rng = np.random.default_rng(0)
    numbers = np.random.default_rng(3).permutation(12 * 9)[:N]
    return Dense(rng.normal(size=(N, 5))), Dense(rng.normal(size=(N, 4))), numbers // 9, numbers % 9


def pairs():
    a, b, i, j = tables()
    return a[i] * b[j]


def expression(kind):
    a, b, i, j = tables()
    rng, n = np.random.default_rng(0), np.arange(N)
    sparse = Sparse(sp.random_array((12, 30), density=0.3, rng=rng, format="csr") + sp.eye_array(12, 30, format="csr"))
    return {
        "pairs": lambda: a[i] * b[j],
        "sums": lambda: (1 + a[i]) * (1 + b[j]),
        "one group": lambda: (a[n] + OneHot(n)) ** 2,
        "nested": lambda: (a[i] + b[j]) ** 2 + 1,
        "constants": lambda: (a[i] + 1) ** 3 * (b[j] + 2) + 3,
        "sparse": lambda: sparse[i] * (1 + b[j]),
        "rbf": lambda: RBF(a.array)[i] * b[j],
        "new kernel entities": lambda: kernel_with_new_entities(rng)[n % 20] * b[j],
        "parting groups": lambda: a[n // 2] * b[np.r_[: N // 2, : N // 2] // 2] + a[n // 2],
    }[kind]()


KINDS = ["pairs", "sums", "one group", "nested", "constants", "sparse", "rbf", "new kernel entities", "parting groups"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [(1, 1, 1, 5, 1, 20), (30, 30)])
@pytest.mark.parametrize("rank", [1, 3])
def test_what_has_grown_is_what_is_made_anew(kind, steps, rank):
    whole = expression(kind)
    network = TwoLayer(n_hidden=134, init_rank=rank, dtype="float64")
    first = compress(whole[:3])
    initial = InitialWeights(network, compress(whole[:10]))
    known, gram, start = KnownRows(first), RowGram(first, "float64"), StartingValues(initial, first, True, "float64")
    for step in steps:
        n = known.features.n_rows
        known.append(whole[n : n + step])
        features = known.features
        assert starts_with(features, gram.features)
        gram.extend(features)
        start.extend(features)
        rows = np.random.default_rng(n).integers(0, features.n_rows, size=7)
        fresh, anew = RowGram(features, "float64"), StartingValues(initial, features, True, "float64")
        np.testing.assert_allclose(gram.inverse_norms, fresh.inverse_norms, rtol=1e-14)
        for gram.caching in (True, False):
            np.testing.assert_allclose(gram.panel(rows, 16), fresh.panel(rows, 16), rtol=0, atol=1e-12)
        assert start(rows).tobytes() == anew(rows).tobytes()  # so that a loaded model goes on to the last bit
        out = np.zeros((2, 134, 4))
        start.fill(out, rows)
        np.testing.assert_array_equal(np.concatenate([*out.transpose(0, 2, 1)])[:7], anew(rows))


def test_rows_that_were_not_appended_are_taken_anew():
    X = pairs()
    gram = RowGram(compress(X[:20]), "float64")
    gram.extend(compress(X[::-1]))
    np.testing.assert_allclose(gram.inverse_norms, inverse_norms(X[::-1], True))
    np.testing.assert_allclose(gram.panel(np.arange(5), 16)[0, :, :5], X[::-1].inner()[:, :5], atol=1e-12)


def test_known_rows_are_those_of_append_rows():
    X = expression("sums")
    known, rows = KnownRows(compress(X[:5])), np.random.default_rng(0).integers(0, N, size=200)
    numbers = np.concatenate([known.append(X[rows[k : k + 8]]) for k in range(0, 200, 8)])
    features, expected = append_rows(compress(X[:5]), X[rows])
    np.testing.assert_array_equal(numbers, expected)
    np.testing.assert_allclose(known.features.inner(), features.inner(), atol=1e-14)


def test_buffers_that_creep_get_room():
    buffers, moved, last = Buffers(), 0, None
    for size in range(100, 1000):
        memory = buffers.take("x", (size,), "f4").ctypes.data
        moved, last = moved + (memory != last), memory
    assert moved < 20
    assert buffers._kept["x"].size < 1300
    assert Buffers().take("x", (1000,), "f4").base.size <= 4 * 1000 + 64
