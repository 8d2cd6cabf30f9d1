"""Ridge on a grid of pairs: equal to dense kernel ridge, and a judge that finds the features a teacher used."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from kronsgd import Dense, Kernel
from kronsgd.tuning import compare_features

RNG = np.random.default_rng(0)
N = 120
A, B = Dense(RNG.normal(size=(9, 4))), Dense(RNG.normal(size=(11, 5)))
ROW, COLUMN = RNG.integers(9, size=N), RNG.integers(11, size=N)  # some pairs are there twice
Y = RNG.normal(size=N)
FOLDS = [np.arange(0, 40), np.arange(40, 80), np.arange(80, 120)]


@pytest.mark.parametrize("expression", [lambda a, b: a * b, lambda a, b: (1 + a) * (2 + b) ** 2, lambda a, b: (a + a * a) * b])
def test_score_is_the_mean_over_the_folds_of_dense_kernel_ridge_at_the_best_penalty(expression):
    X = expression(A[ROW], B[COLUMN])
    gram = X.inner()
    norms = np.sqrt(np.diag(gram))
    gram = gram / norms[:, None] / norms
    errors = {}
    for penalty in (0.1, 1.0, 10.0):
        each = []
        for held in FOLDS:
            train = np.setdiff1d(np.arange(N), held)
            mean, dense = Y[train].mean(), KernelRidge(alpha=penalty, kernel="precomputed")
            p = dense.fit(gram[np.ix_(train, train)], Y[train] - mean).predict(gram[np.ix_(held, train)]) + mean
            each.append(np.mean((p - Y[held]) ** 2))
        errors[penalty] = np.mean(each)
    score = compare_features({"x": X}, Y, FOLDS, list(errors))["x"]
    assert score.penalty == min(errors, key=errors.__getitem__)
    np.testing.assert_allclose(score.error, errors[score.penalty], rtol=2e-5)
    assert len(set(errors.values())) == 3


def test_finds_the_power_and_the_missing_part_of_a_teacher():
    rng = np.random.default_rng(1)
    points = rng.normal(size=(30, 2))
    similarity = np.exp(-((points[:, None] - points) ** 2).sum(axis=2) / 4)
    other = Dense(rng.normal(size=(25, 3)))
    i, j = (cells.ravel() for cells in np.indices((30, 25)))
    own = np.eye(30)
    truth = np.linalg.cholesky(similarity**3 + own) @ rng.normal(size=(30, 3)) @ other.dense().T
    y = truth.ravel() + 0.01 * rng.normal(size=truth.size)
    candidates = {"first": similarity, "cube": similarity**3, "cube and own": similarity**3 + own}
    order = rng.permutation(len(y))
    expressions = {name: Kernel(gram, psd="clip")[i] * other[j] for name, gram in candidates.items()}
    found = compare_features(expressions, y, np.array_split(order, 4), (0.01, 0.1))
    assert list(found) == ["cube and own", "cube", "first"]
    assert found["cube and own"].error < 0.5 * found["first"].error


def test_mistakes():
    X = A[ROW] * B[COLUMN]
    with pytest.raises(ValueError, match="at least one feature expression"):
        compare_features({}, Y, FOLDS)
    with pytest.raises(ValueError, match="candidate 'x' has 120 rows but y has shape"):
        compare_features({"x": X}, Y[:-1], FOLDS)
    with pytest.raises(ValueError, match="NaN"):
        compare_features({"x": X}, np.where(np.arange(N) == 3, np.nan, Y), FOLDS)
    for folds in ([], [[]], [np.arange(N)]):
        with pytest.raises(ValueError, match="every fold must hold out some"):
            compare_features({"x": X}, Y, folds)
    with pytest.raises(IndexError, match="outside fold"):
        compare_features({"x": X}, Y, [[N]])
    with pytest.raises(ValueError, match="penalty=0"):
        compare_features({"x": X}, Y, FOLDS, (0,))
    with pytest.raises(ValueError, match="no grid of pairs"):
        compare_features({"x": A[ROW] + B[COLUMN]}, Y, FOLDS)
