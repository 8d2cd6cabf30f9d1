"""Identities of the algebra, on random tables."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.features import random_expression
from kronsgd import Dense, Features
from kronsgd.features.gram import RowGram

pytestmark = pytest.mark.usefixtures("one_thread")


quick = settings(max_examples=25, deadline=None)

seeds = st.integers(0, 2**32 - 1)


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
    w, v = rng.uniform(0.1, 3.0, 2)
    equal(w * (a + b), w * a + w * b)
    equal(w * (a * b), a * (w * b))
    equal((w * a) * (v * b), (w * v) * (a * b))
    equal(w * a**2, a * (a * w))
    equal(w * (v * (1 + a)), (w * v) * (1 + a))


@quick
@given(seeds)
def test_a_weight_multiplies_inner_products(seed):
    rng = np.random.default_rng(seed)
    a, b = random_expression(rng, 6), random_expression(rng, 6)
    weighed = 0.3 * a + b * np.float64(0.7)
    first, second = (np.asarray(x.inner(), dtype=np.float64) for x in (a, b))
    np.testing.assert_allclose(weighed.inner(), 0.3 * first + 0.7 * second, rtol=1e-9, atol=1e-12)
    coordinates = weighed.dense()
    np.testing.assert_allclose(coordinates @ coordinates.T, weighed.inner(), rtol=1e-7, atol=1e-9)
    assert weighed.dim == (a + b).dim


@quick
@given(seeds)
def test_inner_products_are_those_of_the_kronecker_product(seed):
    rng = np.random.default_rng(seed)
    x, y, z = rng.normal(size=(3, 5, 3))
    features = Dense(x, normalize=False) * Dense(y, normalize=False) + 2 + Dense(z, normalize=False) ** 2
    rows = [np.concatenate([np.kron(x[i], y[i]), [2], np.kron(z[i], z[i])]) for i in range(5)]
    np.testing.assert_allclose(features.dense(), rows, rtol=1e-12)
    np.testing.assert_allclose(features.inner(), np.array(rows) @ np.array(rows).T, rtol=1e-9, atol=1e-12)
