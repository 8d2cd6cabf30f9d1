"""Leaves against their formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from helpers.arrays import normal, positive_table
from helpers.features import sparse, with_new_entities
from kronsgd import RBF, Dense, Kernel, OneHot, Sparse, Tanimoto
from kronsgd.features.serialize import features_from_state, features_state

pytestmark = pytest.mark.usefixtures("one_thread")


def test_dense_scales_rows_to_unit_norm():
    x = normal(5, 3) * 7
    x[2] = 0
    got = Dense(x).dense()
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), [1, 1, 0, 1, 1], rtol=1e-15)
    np.testing.assert_allclose(got[0], x[0] / np.linalg.norm(x[0]), rtol=1e-15)
    assert np.array_equal(Dense(x, normalize=False).dense(), x)


def test_dense_does_not_share_memory_with_the_caller():
    x = normal(3, 2)
    for make in (lambda: Dense(x, normalize=False), lambda: RBF(x)):
        leaf = make()
        before = leaf.inner()
        x[:] += 1
        assert np.array_equal(leaf.inner(), before)


def test_precision_of_tables():
    assert Dense(normal(2, 2)).dtype == np.float64
    assert Dense(np.ones((2, 2), dtype=np.float32)).dtype == np.float32
    assert Dense(np.ones((2, 2), dtype=bool)).dtype == np.float32
    assert Sparse(sp.eye(3, dtype=int)).dtype == np.float32


def test_sparse_equals_dense():
    matrix = sparse(6, 5)
    for normalize in (True, False):
        dense = Dense(matrix.toarray(), normalize=normalize)
        for form in ("csr", "csc", "coo", "lil"):
            np.testing.assert_allclose(
                Sparse(matrix.asformat(form), normalize=normalize).inner(), dense.inner(), atol=1e-15
            )


def test_sparse_adds_up_duplicates():
    matrix = sp.coo_array((np.array([1.0, 2.0, 4.0]), ([0, 0, 1], [1, 1, 0])), shape=(2, 2))
    assert np.array_equal(Sparse(matrix, normalize=False).inner(), np.array([[9.0, 0.0], [0.0, 16.0]]))


def test_columns_without_entries_take_no_memory():
    """Hashed features have as many columns as the hash has values."""
    narrow = sp.random(9, 40, 0.3, random_state=0, format="csr")
    wide = sp.csr_array((narrow.data, narrow.indices.astype(np.int64) << 50, narrow.indptr), shape=(9, 40 << 50))
    a, b = Sparse(wide), Sparse(narrow)
    assert a.inner().tobytes() == b.inner().tobytes()
    assert a[[1, 2]].inner(a[::-1]).tobytes() == b[[1, 2]].inner(b[::-1]).tobytes()


def test_sparse_from_state_to_the_last_bit():
    rng = np.random.default_rng(0)
    leaf = Sparse(sp.random(30, 200, 0.3, random_state=0))
    arrays, tree = features_state(leaf)
    loaded = features_from_state(arrays, tree)
    other = Sparse(sp.random(20, 200, 0.3, random_state=rng))
    assert np.array_equal(leaf.inner(other), loaded.inner(other))
    assert leaf.entity_keys() == loaded.entity_keys()  # else a loaded model takes its own rows for new ones


def test_onehot_equals_identity_rows():
    codes = np.array([0, 3, 1, 3])
    assert np.array_equal(OneHot(codes).dense(), np.eye(4)[codes])
    assert np.array_equal(OneHot(codes).inner(), codes[:, None] == codes)
    assert OneHot(codes, 9).dim == 9


def test_rbf_formula():
    x, z = normal(6, 3), normal(4, 3, seed=1)
    for gamma, value in ((None, 1 / 3), (0.7, 0.7)):
        expected = np.exp(-value * cdist(x, z, "sqeuclidean"))
        np.testing.assert_allclose(RBF(x, gamma).inner(RBF(z, gamma)), expected, rtol=1e-12)
    assert RBF(x).dim == math.inf


def test_rbf_of_float32_far_from_the_origin():
    """‖a‖² + ‖b‖² − 2⟨a, b⟩ loses the difference of vectors that are far from 0."""
    x = (1000 + normal(20, 10)).astype(np.float32)
    expected = np.exp(-0.1 * cdist(x.astype(np.float64), x.astype(np.float64), "sqeuclidean"))
    np.testing.assert_allclose(RBF(x).inner(), expected, atol=1e-4)


def test_tanimoto_formula():
    x = np.array([[1, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 1]])
    expected = np.array([[1, 1 / 3, 0, 0.5], [1 / 3, 1, 0, 0.5], [0, 0, 1, 0], [0.5, 0.5, 0, 1]])
    np.testing.assert_allclose(Tanimoto(x.astype(float)).inner(), expected, rtol=1e-15)
    np.testing.assert_allclose(Tanimoto(x.astype(bool)).inner(), expected, rtol=1e-6)


def test_kernel_is_scaled_to_unit_self_similarity():
    table = positive_table(5)
    root = np.sqrt(np.diag(table))
    np.testing.assert_allclose(Kernel(table).inner(), table / root[:, None] / root, rtol=1e-12)
    np.testing.assert_allclose(Kernel(table, normalize=False).inner(), table, rtol=1e-15)


def test_kernel_clips_negative_eigenvalues():
    table = np.array([[1.0, 0.9, 0.0], [0.9, 1.0, 0.9], [0.0, 0.9, 1.0]])
    assert np.linalg.eigvalsh(table)[0] < -0.2
    clipped = Kernel(table, normalize=False, psd="clip").inner()
    values, vectors = np.linalg.eigh(table)
    np.testing.assert_allclose(clipped, vectors * np.maximum(values, 0) @ vectors.T, atol=1e-14)
    scaled = Kernel(table, psd="clip").inner()
    np.testing.assert_allclose(np.diag(scaled), 1, rtol=1e-14)
    assert np.linalg.eigvalsh(scaled)[0] > -1e-14


def test_kernel_accepts_the_rounding_of_published_tables():
    table = np.round(positive_table(8) / 10, 4)
    table[0, 1] += 1e-6
    Kernel(table)


def test_new_entities_of_a_kernel():
    table = positive_table(9)
    root = np.sqrt(np.diag(table))
    known, new = with_new_entities()
    np.testing.assert_allclose(known.inner(new), (table / root[:, None] / root)[:6, 6:], rtol=1e-12)
    np.testing.assert_allclose(new.squared_norms(), 1)
    raw, raw_new = with_new_entities(normalize=False)
    np.testing.assert_allclose(raw.inner(raw_new), table[:6, 6:], rtol=1e-15)
    np.testing.assert_allclose(raw_new.squared_norms(), np.diag(table)[6:])
    projected = table[6:, :6] @ np.linalg.solve(table[:6, :6], table[:6, 6:])
    np.testing.assert_allclose(raw_new.inner(), projected, rtol=1e-10)


def test_entities_beyond_the_span_of_a_vector_kernel(monkeypatch):
    """With more entities than anchors, coordinates are projections on the anchors' span."""
    monkeypatch.setattr("kronsgd.features.kernel_leaves.MAX_ANCHORS", 4)
    leaf = RBF(normal(9, 2))
    picked = np.linspace(0, 8, 4).astype(int)
    k = leaf.inner()
    expected = k[:, picked] @ np.linalg.solve(k[np.ix_(picked, picked)], k[picked])
    coordinates = leaf.dense()
    assert coordinates.shape == (9, 4)
    np.testing.assert_allclose(coordinates @ coordinates.T, expected, atol=1e-10)


def test_new_kernel_entities_keep_known_values_exact():
    """A new entity in the panel changes nothing for the known ones, and needs its self-similarity in the table's units."""
    rng = np.random.default_rng(0)
    gram = np.cov(rng.normal(size=(5, 40))) * 9
    table = Kernel(gram)
    with pytest.raises(ValueError, match="give self_similarity"):
        table.new_entities(gram[:1])
    with pytest.raises(ValueError, match="no kernel value may exceed"):
        table.new_entities(np.full((1, 5), 1e3), 1.0)
    new = table.new_entities(gram[:2], np.diag(gram)[:2])
    np.testing.assert_allclose(new.inner(table), table.inner()[:2], atol=1e-12)
    mixed = table.append_entities(new)
    np.testing.assert_allclose(mixed.inner()[:5, :5], table.inner(), atol=1e-12)
    np.testing.assert_allclose(mixed.inner()[5:], mixed.inner()[:2], atol=1e-9)


def test_rows_equal_to_the_centre_stay_zero():
    np.testing.assert_array_equal(Dense(np.full((3, 2), 0.1), center=True).dense(), np.zeros((3, 2)))


def test_scaled_columns_and_new_entities_in_the_same_space(caplog):
    rng = np.random.default_rng(0)
    array = rng.normal(size=(50, 4)) * [1, 10, 1000, 1] + 5
    with caplog.at_level("WARNING", logger="kronsgd"):
        Dense(array)
    assert "column 2 holds" in caplog.text
    caplog.clear()
    table = Dense(array, center=True, scale=True, normalize=False)
    assert not caplog.text
    np.testing.assert_allclose(table.dense(), (array - array.mean(axis=0)) / array.std(axis=0), atol=1e-9)
    np.testing.assert_allclose(table.like(array[:3]).dense(), table.dense()[:3], atol=1e-9)
    table.check_compatible(table.like(array[:3]))
    with pytest.raises(ValueError, match="made with other options"):
        table.check_compatible(Dense(array[:3]))
    with pytest.raises(ValueError, match="has 3 columns"):
        table.like(array[:, :3])
