"""The algebra: leaves and expressions against dense coordinates, identities, and one sentence for each mistake."""

from __future__ import annotations

import io
import math
import re
from functools import partial

import joblib
import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from kronsgd import RBF, Dense, Features, Kernel, OneHot, Sparse, Tanimoto
from kronsgd.features import Constant, Power, Product, Sum
from kronsgd.features import gram as gram_module
from kronsgd.features.gram import RowGram
from kronsgd.features.known import append_rows
from kronsgd.features.serialize import compress, features_from_state, features_state, prototype
from kronsgd.parallel import threads
from kronsgd.testing import check_features

quick = settings(max_examples=25, deadline=None)


@pytest.fixture(autouse=True)
def _one_thread():
    with threads(1):
        yield


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def bits(n, d, seed=0):
    return np.random.default_rng(seed).integers(0, 2, size=(n, d))


def positive_table(n, seed=0):
    x = normal(n, n + 10, seed=seed)
    return x @ x.T


def with_new_entities(**options):
    """A kernel over 6 entities, and 3 entities that its table does not have."""
    table = positive_table(9)
    known = Kernel(table[:6, :6], **options)
    return known, known.new_entities(table[6:, :6], np.diag(table)[6:])


def sparse(n, d, seed=0, dtype=np.float64):
    return sp.random(n, d, 0.4, random_state=seed, format="csr", dtype=dtype)


LEAVES = {
    "Dense": lambda: (Dense(normal(6, 4)), Dense(normal(3, 4, seed=1))),
    "Dense float32": lambda: (Dense(normal(6, 4, dtype="f4")), Dense(normal(3, 4, seed=1, dtype="f4"))),
    "Dense as given": lambda: (Dense(normal(6, 4), normalize=False), Dense(normal(3, 4, seed=1), normalize=False)),
    "Dense with a row of zeros": lambda: (Dense(np.array([[0.0, 0.0], [3.0, 4.0]])), Dense(np.zeros((1, 2)))),
    "Sparse": lambda: (Sparse(sparse(6, 5)), Sparse(sparse(4, 5, 1))),
    "Sparse float32": lambda: (Sparse(sparse(6, 5, dtype="f4")), Sparse(sparse(4, 5, 1, dtype="f4"))),
    "Sparse as given": lambda: (Sparse(sparse(6, 5), normalize=False), Sparse(sparse(4, 5, 1), normalize=False)),
    "OneHot": lambda: (OneHot([0, 2, 1, 0], 4), OneHot([3, 1], 4)),
    "OneHot table": lambda: (OneHot([0, 1, 2])[[0, 2, 1, 0]], OneHot([0, 1, 2])[[1, 1]]),
    "Kernel": with_new_entities,
    "Kernel as given": partial(with_new_entities, normalize=False),
    "RBF": lambda: (RBF(normal(6, 3)), RBF(normal(4, 3, seed=1))),
    "RBF float32": lambda: (RBF(normal(6, 3, dtype="f4"), 0.5), RBF(normal(4, 3, seed=1, dtype="f4"), 0.5)),
    "Tanimoto": lambda: (Tanimoto(bits(6, 12)), Tanimoto(bits(4, 12, seed=1))),
}


def tables():
    known, _ = with_new_entities()
    matrix = sparse(5, 3, 3) + sp.csr_array(normal(5, 1, seed=8) * [1, 0, 1])  # no two rows are equal
    return Dense(normal(6, 4)), Sparse(matrix), known, RBF(normal(5, 2, seed=4))


def expressions():
    a, b, k, g = tables()
    rng = np.random.default_rng(5)
    i, j = rng.integers(0, 6, 12), rng.integers(0, 5, 12)
    return {
        "product": a[i] * b[j],
        "product of one table with itself": a[i] * a[i[::-1]],
        "factors over one index": a[i] * k[i] * b[j],
        "three factors": a[i] * b[j] * k[i[::-1]],
        "sum": a[i] + b[j] + k[i],
        "polynomial": (1 + a[i]) ** 2,
        "power over two indices": (a[i] * g[j] + 2) ** 3,
        "nesting": (1 + a[i]) ** 2 * (g[j] + 0.5) + k[j],
        "sum of products with a constant": a[i] * b[j] + 3 + a[j] * b[j],
        "categories": OneHot([0, 1, 2])[i % 3] * OneHot(np.arange(4))[j % 4],
    }


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


# Leaves against their formulas ----------------------------------------------------------------------------------------


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


# Identities of the algebra, on random tables -------------------------------------------------------------------------

seeds = st.integers(0, 2**32 - 1)


def random_leaf(rng, n):
    """A leaf of any kind with n rows, some through an index."""
    entities = int(rng.integers(1, 7))
    kind = rng.integers(0, 6)
    leaf = [
        lambda: Dense(rng.normal(size=(entities, rng.integers(1, 5))), normalize=bool(rng.integers(0, 2))),
        lambda: OneHot(rng.integers(0, 3, entities), 3),
        lambda: Sparse(sp.csr_array(rng.normal(size=(entities, 4)) * (rng.random((entities, 4)) < 0.5))),
        lambda: RBF(rng.normal(size=(entities, 2))),
        lambda: Tanimoto(rng.integers(0, 2, (entities, 6)).astype(float)),
        lambda: Kernel(np.eye(entities) + np.full((entities, entities), 0.3)),
    ][kind]()
    return leaf[rng.integers(0, entities, n)]


def random_expression(rng, n, depth=2):
    if depth == 0 or rng.random() < 0.3:
        return random_leaf(rng, n)
    left, right = random_expression(rng, n, depth - 1), random_expression(rng, n, depth - 1)
    return [left * right, left + right, left**2, 0.5 + left][rng.integers(0, 4)]


@quick
@given(seeds, st.integers(1, 9))
def test_random_expressions_conform(seed, n):
    rng = np.random.default_rng(seed)
    features = random_expression(rng, n)
    gram = np.asarray(features.inner())
    coordinates = features.dense()
    np.testing.assert_allclose(coordinates @ coordinates.T, gram, atol=1e-9 * max(1, np.abs(gram).max()))
    np.testing.assert_allclose(features.squared_norms(), np.diag(gram), rtol=1e-9, atol=1e-12)
    rows = rng.integers(0, n, 5)
    panel = RowGram(features, "float64", normalize=False).panel(rows, 4)
    flat = panel.transpose(1, 0, 2).reshape(n, -1)
    np.testing.assert_allclose(flat[:, :5], gram[:, rows], rtol=1e-9, atol=1e-12)


@quick
@given(seeds, st.integers(1, 8))
def test_semiring_identities(seed, n):
    rng = np.random.default_rng(seed)
    a, b, c = (random_expression(rng, n, 1) for _ in range(3))
    rows = rng.integers(0, n, 4)

    def equal(left: Features, right: Features):
        expected = right.inner(right[rows])
        np.testing.assert_allclose(left.inner(left[rows]), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(left.squared_norms(), right.squared_norms(), rtol=1e-9, atol=1e-12)
        assert left.dim == right.dim
        mine, theirs = (RowGram(f, "float64").panel(rows, 4) for f in (left, right))
        np.testing.assert_allclose(mine, theirs, rtol=1e-9, atol=1e-12)

    equal(a * b, b * a)
    equal(a + b, b + a)
    equal((a + b) * c, a * c + b * c)
    equal(a**2, a * a)
    equal(a**3, a * a**2)
    equal((a * b) * c, a * (b * c))
    equal((a + b) + c, a + (b + c))
    equal((a * b) ** 2, a**2 * b**2)
    equal(a + 0.5, 0.5 + a)


@quick
@given(seeds)
def test_inner_products_are_those_of_the_kronecker_product(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, 5, 3))
    features = Dense(x, normalize=False) * Dense(y, normalize=False) + 2 + Dense(z, normalize=False) ** 2
    rows = [np.concatenate([np.kron(x[i], y[i]), [2], np.kron(z[i], z[i])]) for i in range(5)]
    np.testing.assert_allclose(features.dense(), rows, rtol=1e-12)
    np.testing.assert_allclose(features.inner(), np.array(rows) @ np.array(rows).T, rtol=1e-9, atol=1e-12)


# Refusals ------------------------------------------------------------------------------------------------------------

x3 = normal(3, 2)
bad_nan, bad_inf = x3.copy(), x3.copy()
bad_nan[1, 0], bad_inf[2, 1] = np.nan, np.inf

REFUSED = {
    "NaN": (lambda: Dense(bad_nan), ValueError, r"Dense\(array\) contains NaN at position \(1, 0\)"),
    "infinity": (lambda: RBF(bad_inf), ValueError, r"contains infinity at position \(2, 1\)"),
    "NaN in a sparse matrix": (lambda: Sparse(sp.csr_array(bad_nan)), ValueError, "NaN"),
    "NaN in a kernel": (lambda: Kernel(np.full((2, 2), np.nan)), ValueError, "NaN"),
    "one dimension": (lambda: Dense(np.ones(3)), ValueError, r"shape \(3,\).*reshape"),
    "no rows": (lambda: Dense(np.ones((0, 3))), ValueError, "at least one row"),
    "no columns": (lambda: Dense(np.ones((3, 0))), ValueError, "at least one row and one column"),
    "no columns in a sparse matrix": (lambda: Sparse(sp.csr_array((3, 0))), ValueError, "at least one row"),
    "text": (lambda: Dense(np.array([["a"]])), TypeError, "dtype"),
    "complex": (lambda: RBF(np.ones((2, 2)) * 1j), TypeError, "dtype complex128"),
    "objects": (lambda: Dense(np.array([[object()]])), TypeError, "dtype object"),
    "an array as sparse": (lambda: Sparse(x3), TypeError, "use Dense"),
    "text categories": (lambda: OneHot(["a", "b"]), TypeError, r"numpy\.unique"),
    "float categories": (lambda: OneHot([0.0, 1.0]), TypeError, "category numbers"),
    "no categories": (lambda: OneHot(np.zeros(0, dtype=int)), TypeError, "non-empty"),
    "a category below 0": (lambda: OneHot([0, -1]), ValueError, "category -1 is outside 0 to 0"),
    "a category too large": (lambda: OneHot([0, 5], 3), ValueError, "category 5 is outside 0 to 2"),
    "a kernel that is not square": (lambda: Kernel(np.ones((2, 3))), ValueError, "square"),
    "a kernel that is not symmetric": (
        lambda: Kernel([[1.0, 0.5], [0.2, 1.0]]), ValueError, r"entry \(0, 1\) is 0.5 but \(1, 0\) is 0.2",
    ),
    "a kernel that is not positive": (
        lambda: Kernel([[1.0, 2.0], [2.0, 1.0]]), ValueError, r"smallest eigenvalue is -1.*psd=\"clip\"",
    ),
    "self-similarity of 0": (lambda: Kernel([[1.0, 0.0], [0.0, 0.0]]), ValueError, "entity 1 has self-similarity 0"),
    "an unknown psd": (lambda: Kernel(np.eye(2), psd="clp"), ValueError, "Did you mean 'clip'"),
    "new entities with too few columns": (
        lambda: Kernel(np.eye(3)).new_entities(np.ones((1, 2))), ValueError, "cross has 2 columns; give .* 3 entities",
    ),
    "new entities with a NaN": (lambda: Kernel(np.eye(1)).new_entities([[np.nan]]), ValueError, "cross contains NaN"),
    "fingerprints that are not binary": (lambda: Tanimoto([[0.0, 0.5]]), ValueError, "contains 0.5; .* 0 and 1 only"),
    "gamma of 0": (lambda: RBF(x3, gamma=0.0), ValueError, "gamma=0.0 is out of range"),
    "gamma as text": (lambda: RBF(x3, gamma="scale"), TypeError, "gamma='scale' is not a number"),
    "an exponent of 0": (lambda: Dense(x3) ** 0, ValueError, "whole number from 1 to 64"),
    "a fractional exponent": (lambda: Dense(x3) ** 0.5, ValueError, "whole number from 1 to 64"),
    "an exponent of True": (lambda: Dense(x3) ** True, ValueError, "whole number"),
    "an infinite constant": (lambda: Dense(x3) + math.inf, ValueError, "constant of inf"),
    "a constant of 0": (lambda: 0 + Dense(x3), ValueError, "constant of 0"),
    "mismatched rows in a product": (
        lambda: Dense(x3) * Dense(normal(4, 2)), ValueError, r"has 3 rows but .* has 4: a product pairs row with row",
    ),
    "mismatched rows in a sum": (lambda: Dense(x3) + 1 + Dense(normal(4, 2)), ValueError, "a sum pairs row with row"),
    "a row outside": (lambda: Dense(x3)[[0, 3]], IndexError, r"row number 3 at position 1 is outside .* \(0 to 2\)"),
    "a row far below": (lambda: Dense(x3)[-4], IndexError, "row number -4"),
    "a mask of another length": (lambda: Dense(x3)[[True, False]], IndexError, r"mask of shape \(2,\)"),
    "rows by name": (lambda: Dense(x3)[["a"]], IndexError, "translate names into row numbers"),
    "rows by floats": (lambda: Dense(x3)[[0.0]], IndexError, "float64"),
    "iteration": (lambda: list(Dense(x3)), TypeError, "slice it"),
    "an accidental array": (lambda: np.asarray(Dense(x3) * Dense(x3)), TypeError, r"4 dimensions.*\.dense\(\)"),
    "an array as the other side": (lambda: Dense(x3).inner(x3), TypeError, "ndarray"),
    "another dimension": (lambda: Dense(x3).inner(Dense(normal(3, 5))), ValueError, "not of the model's space"),
    "another expression": (lambda: (Dense(x3) * Dense(x3)).inner(Dense(x3) + Dense(x3)), ValueError, "built on"),
    "another constant": (lambda: (1 + Dense(x3)).inner(2 + Dense(x3)), ValueError, "not of the model's space"),
    "another exponent": (lambda: (Dense(x3) ** 2).inner(Dense(x3) ** 3), ValueError, "not of the model's space"),
    "another gamma": (lambda: RBF(x3, 1.0).inner(RBF(x3, 2.0)), ValueError, "gamma=2"),
    "another kernel table": (lambda: Kernel(np.eye(2)).inner(Kernel(np.ones((2, 2)))), ValueError, "not of the model's space"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    make, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        make()
    text = str(error.value)
    assert re.search(message, text, flags=re.DOTALL), text
    assert "\n" not in text
    assert text.endswith((".", ")", "?"))


def test_operators_with_other_types():
    a = Dense(x3)
    for wrong in (lambda: a * 2, lambda: a * x3, lambda: x3 * a, lambda: a + "1", lambda: "1" + a):
        with pytest.raises(TypeError):
            wrong()


def test_constant_alone():
    assert Constant(3).dense().tolist() == [[3.0]]
    assert Constant(3).inner().tolist() == [[9.0]]
    assert repr(Constant(3)) == "3: 1 rows × 1 dimensions"


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
