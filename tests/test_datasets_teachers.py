"""Planted teachers, problems, and scikit-learn's digits."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.datasets import FEATURES
from kronsgd.datasets import (
    Problem,
    load_digits,
    make_kron_teacher,
)
from kronsgd.features import Dense


@pytest.mark.parametrize("dims", [(5,), (3, 4), (2, 3, 4)])
def test_teacher_outputs_follow_from_the_dense_product(dims):
    X, y, teacher = make_kron_teacher(300, dims, n_neurons=6, noise=0.0, random_state=1)
    dense = X.dense()
    assert dense.shape == (300, int(np.prod(dims)))
    expected = np.maximum(dense @ teacher.weights.T - teacher.threshold, 0) @ teacher.output_weights
    np.testing.assert_allclose(y, expected[:, 0], atol=1e-12)
    np.testing.assert_array_equal(y, teacher(X)[:, 0])
    assert np.mean(y**2) == pytest.approx(1.0)


def test_teacher_noise_and_seeds():
    (X, y, teacher), (_, again, _) = (make_kron_teacher(4000, noise=0.5, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(y, again)
    assert np.std(y - teacher(X)[:, 0]) == pytest.approx(0.5, rel=0.05)
    assert not np.array_equal(y, make_kron_teacher(4000, noise=0.5, random_state=4)[1])


def test_teacher_classes():
    X, y, teacher = make_kron_teacher(2000, (4, 4), n_neurons=32, noise=0.0, n_classes=3, random_state=0)
    np.testing.assert_array_equal(y, teacher(X).argmax(axis=1))
    assert np.bincount(y, minlength=3).min() > 200
    assert y.dtype == np.int64


def test_teacher_bad_arguments():
    for arguments in ({"dims": ()}, {"dims": 8}, {"n_classes": 2.0}):
        with pytest.raises(TypeError, match="is not"):
            make_kron_teacher(10, **arguments)
    for arguments in ({"dims": (0, 2)}, {"n_classes": 1}, {"noise": -1}, {"n_neurons": 0}, {"dims": (1000,) * 4}):
        with pytest.raises(ValueError, match=r"out of range|stored"):
            make_kron_teacher(10, **arguments)


def test_digits_are_scikit_learns():
    problem = load_digits()
    assert problem.X.shape == (1797, 64)
    assert problem.task == "classification"
    assert np.unique(problem.y).tolist() == list(range(10))
    np.testing.assert_allclose(problem.X.squared_norms(), 1)


def test_problem_checks_its_parts():
    X = Dense(FEATURES)
    problem = Problem(X, np.arange(3), folds=[np.array([0, 2]), np.array([1])])
    assert problem.training_rows(0).tolist() == [1]
    assert problem.training_rows(1).tolist() == [0, 2]
    with pytest.raises(ValueError, match="X has 3 rows but 2 targets"):
        Problem(X, np.arange(2))
    with pytest.raises(ValueError, match="belong together"):
        Problem(X, np.arange(3), X_test=X)
    with pytest.raises(ValueError, match="task='regresion'"):
        Problem(X, np.arange(3), task="regresion")
    with pytest.raises(ValueError, match="out of range"):
        problem.training_rows(2)
