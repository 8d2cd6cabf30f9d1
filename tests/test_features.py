"""The algebra: conformance of leaves and expressions, their shape, text and rows, and rows that are appended."""

from __future__ import annotations

import io
import math

import joblib
import numpy as np
import pytest

from helpers.arrays import normal
from helpers.features import LEAVES, expressions, tables, with_new_entities
from kronsgd import RBF, Dense, OneHot
from kronsgd.features import Constant, Power, Product, Sum
from kronsgd.features import gram as gram_module
from kronsgd.features.gram import RowGram
from kronsgd.features.known import append_rows
from kronsgd.features.serialize import compress, prototype
from kronsgd.testing import check_features

pytestmark = pytest.mark.usefixtures("one_thread")


# Conformance ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LEAVES)
def test_leaf(name):
    features, new = LEAVES[name]()
    check_features(features, new)


@pytest.mark.parametrize("name", LEAVES)
def test_leaf_with_a_row_index(name):
    features, new = LEAVES[name]()
    rng = np.random.default_rng(7)
    check_features(features[rng.integers(0, len(features), 9)], new[rng.integers(0, len(new), 5)])


@pytest.mark.parametrize("name", expressions())
def test_expression(name):
    features = expressions()[name]
    check_features(features, features[[0, 3, 3]])


@pytest.mark.parametrize("name", ["product", "three factors", "nesting", "polynomial"])
def test_panels_without_kept_inner_products(name, monkeypatch):
    monkeypatch.setattr(gram_module, "CACHE_BYTES", 0)
    features = expressions()[name]
    check_features(features, features[[1, 1, 4]])


def test_new_entities_inside_a_product():
    a, _, _, _ = tables()
    known, new = with_new_entities()
    check_features(a[[0, 1, 2, 3]] * known[[5, 4, 0, 0]], a[[5, 5, 0]] * new[[2, 0, 1]])


class WrongNorms(Dense):
    def entity_squared_norms(self):
        return 2 * super().entity_squared_norms()


class Crooked(Dense):
    def entity_inner(self, other, mine, others):
        return super().entity_inner(other, mine, others) + np.arange(len(self.array[mine]))[:, None]


class Forgetful(Dense):
    def entity_keys(self):
        return [b"the same"] * len(self.array)


class Half(Dense):
    def select_entities(self, entities):
        return self._over(self.array[entities] / 2)


@pytest.mark.parametrize(
    ("leaf", "message"),
    [(WrongNorms, "squared_norms"), (Crooked, "dense"), (Forgetful, "append_rows"), (Half, "compress")],
)
def test_checks_can_fail(leaf, message):
    with pytest.raises(AssertionError, match=message):
        check_features(leaf(normal(5, 3)))


# Shape, text, rows ---------------------------------------------------------------------------------------------------


def test_repr_shape_and_length():
    a, b, k, g = tables()
    i = np.zeros(1000, dtype=int)
    assert repr(a) == "Dense(6 × 4): 6 rows × 4 dimensions"
    assert repr(a[i] * b[i]) == "Dense(6 × 4) * Sparse(5 × 3): 1,000 rows × 12 dimensions"
    assert repr((1 + a) ** 2) == "(1 + Dense(6 × 4)) ** 2: 6 rows × 25 dimensions"
    assert repr((a + k) * k) == "(Dense(6 × 4) + Kernel(6 × 6)) * Kernel(6 × 6): 6 rows × 60 dimensions"
    assert repr(a**3 + 0.5) == "Dense(6 × 4) ** 3 + 0.5: 6 rows × 65 dimensions"
    assert repr(g) == "RBF(5 × 2, gamma=0.5): 5 rows × infinitely many dimensions"
    assert (a[i] * g[i]).shape == (1000, math.inf)
    big = Dense(np.ones((2, 1024))) ** 4
    assert big.shape == (2, 2**40)
    assert "1.1e+12 dimensions" in repr(big)
    assert "10^" in repr(Dense(np.ones((1, 1000000))) ** 64)
    assert len(a[i]) == 1000
    assert a.ndim == 2


def test_products_and_sums_are_flat():
    a, _, k, _ = tables()
    assert isinstance((a * k) * a, Product)
    assert len((a * (k * a)).children) == len(((a * k) * a).children) == 3
    assert len((a + (k + 1)).children) == 3
    assert isinstance(2 + a, Sum)
    assert isinstance(a**2, Power)
    assert (np.float64(2.0) + a).expression() == "2 + Dense(6 × 4)"


def test_index_is_shared_not_copied():
    a = tables()[0]
    assert a[[1, 2]][[0]].array is a.array


def test_mask_slice_and_list_pick_the_same_rows():
    a, b, _, _ = tables()
    features = a[[0, 1, 2, 3, 4]] * b
    mask = np.array([False, True, False, True, False])
    for rows in (mask, slice(1, 5, 2), [1, 3], np.array([-4, -2]), (np.array([1, 3]), Ellipsis), np.uint8([1, 3])):
        assert np.array_equal(features[rows].inner(), features.inner()[np.ix_([1, 3], [1, 3])])
    assert features[0].n_rows == 1
    assert features[[]].inner(features).shape == (0, 5)


@pytest.mark.parametrize("name", ["product", "nesting", "polynomial"])
def test_joblib_round_trip(name):
    features = expressions()[name]
    buffer = io.BytesIO()
    joblib.dump(features, buffer)
    buffer.seek(0)
    copied = joblib.load(buffer)
    assert repr(copied) == repr(features)
    assert np.array_equal(copied.inner(features), features.inner())


def test_compress_and_prototype_keep_only_what_is_needed():
    a = tables()[0]
    features = a[[5, 2, 5]] * RBF(normal(6, 2))[[1, 1, 4]]
    small = compress(features)
    assert [leaf.n_entities for leaf in small.leaves()] == [2, 2]
    assert np.array_equal(small.inner(), features.inner())
    basis = prototype(small)
    assert [leaf.n_entities for leaf in basis.leaves()] == [1, 2]
    np.testing.assert_allclose(basis.coordinates(features), small.dense(), atol=1e-12)


def test_pickled_panels_are_equal():
    import pickle

    features = expressions()["three factors"]
    row_gram = RowGram(features, "float32")
    rows = np.arange(5)
    expected = row_gram.panel(rows, 16)
    assert np.array_equal(pickle.loads(pickle.dumps(row_gram)).panel(rows, 16), expected)


# append_rows ---------------------------------------------------------------------------------------------------------


def test_append_rows_shares_entities_and_rows():
    a, b = Dense(normal(6, 4)), OneHot(np.arange(5))
    first, second = a[[0, 1]] * b[[0, 1]], a[[1, 0, 5, 5]] * b[[1, 1, 4, 4]]
    merged, numbers = append_rows(compress(first), second)
    assert numbers.tolist() == [1, 2, 3, 3]
    assert merged.n_rows == 4
    np.testing.assert_allclose(merged[numbers].inner(), second.inner(), atol=1e-14)


def test_append_rows_finds_rows_of_equal_entities():
    """A table that names one entity twice: rows that are known must not be stored a second time."""
    features = Dense(np.array([[1.0, 2.0], [1.0, 2.0], [3.0, 4.0]]))[[1, 2, 1]] * OneHot([0, 1, 1])
    merged, numbers = append_rows(features, features)
    assert merged.n_rows == 3
    np.testing.assert_allclose(merged[numbers].inner(), features.inner())


def test_append_rows_of_another_precision_twice():
    """A stream in float64 into a float32 table: the same rows are stored once."""
    features, stream = Dense(normal(3, 2, dtype="f4")), Dense(normal(4, 2, seed=1))
    once, _ = append_rows(features, stream)
    twice, _ = append_rows(once, stream)
    assert twice.n_rows == once.n_rows == 7


def test_constant_alone():
    assert Constant(3).dense().tolist() == [[3.0]]
    assert Constant(3).inner().tolist() == [[9.0]]
    assert repr(Constant(3)) == "3: 1 rows × 1 dimensions"
