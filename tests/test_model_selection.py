"""Splits of pairs: what each setting promises, groups that stay together, and notices of leaks."""

from __future__ import annotations

import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.model_selection import GridSearchCV, cross_val_score

from kronsgd import Dense, Kernel, KronRegressor, Tanimoto
from kronsgd.model_selection import SETTINGS, PairKFold, PairShuffleSplit, duplicate_groups

pytestmark = pytest.mark.usefixtures("one_thread")
FULL = 12 * 9
QUICK = {"n_hidden": 32, "n_jobs": 1, "random_state": 0, "max_iter": 3}


def table(n_rows=12, n_columns=9, share=0.8, seed=0):
    """(X, i, j, y) for a share of all pairs of two tables."""
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.permutation(n_rows * n_columns)[: round(share * n_rows * n_columns)])
    i, j = np.divmod(cells, n_columns)
    a, b = rng.normal(size=(n_rows, 3)), rng.normal(size=(n_columns, 2))
    return (1 + Dense(a)[i]) * (1 + Dense(b)[j]), i, j, a[i, 0] * b[j, 0]


def assert_setting(setting, i, j, train, test):
    """What a setting promises of the entities of test and training pairs."""
    assert not set(train) & set(test)
    assert len(train)
    assert len(test)
    rows_new, columns_new = not set(i[test]) & set(i[train]), not set(j[test]) & set(j[train])
    assert rows_new == (setting in ("new rows", "both new"))
    assert columns_new == (setting in ("new columns", "both new"))
    if setting != "both new":
        assert len(train) + len(test) == len(i)
    elif len(i) == FULL:  # every pair that shares neither a row nor a column with the test is used
        np.testing.assert_array_equal(train, np.flatnonzero(~np.isin(i, i[test]) & ~np.isin(j, j[test])))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_folds(setting, share):
    X, i, j, _ = table(share=share)
    splitter = PairKFold(3, setting, random_state=1)
    folds = list(splitter.split(X))
    assert len(folds) == splitter.get_n_splits(X) == (9 if setting == "both new" else 3)
    for train, test in folds:
        assert_setting(setting, i, j, train, test)
    np.testing.assert_array_equal(np.sort(np.concatenate([test for _, test in folds])), np.arange(len(i)))
    by_ids = list(splitter.split(np.zeros((len(i), 2)), None, np.column_stack([i, j]).astype(str)))
    by_numbers = list(splitter.split(np.column_stack([i, j])))
    for (train, test), (train2, test2) in zip(folds, by_numbers, strict=True):
        np.testing.assert_array_equal(train, train2)
        np.testing.assert_array_equal(test, test2)
    assert len(by_ids) == len(folds)
    if setting in ("new rows", "new columns"):
        entity = i if setting == "new rows" else j
        sizes = [len(set(entity[test])) for _, test in folds]
        assert max(sizes) - min(sizes) <= 1
    again = list(splitter.split(X))
    assert all(np.array_equal(a[1], b[1]) for a, b in zip(folds, again, strict=True))


@pytest.mark.parametrize("setting", SETTINGS)
@pytest.mark.parametrize("share", [0.8, 1.0])
def test_shuffle_splits(setting, share):
    X, i, j, _ = table(share=share)
    splits = list(PairShuffleSplit(4, setting, train_size=0.6, random_state=0).split(X))
    assert len(splits) == 4
    for train, test in splits:
        assert_setting(setting, i, j, train, test)
    assert len({tuple(test) for _, test in splits}) == 4


def test_the_sizes_of_the_davis_split():
    """40 of 68 drugs and 300 of 442 proteins, as RLScore's tutorial has it."""
    i, j = np.divmod(np.arange(68 * 442), 442)
    pairs = np.column_stack([i, j])
    ((train, test),) = PairShuffleSplit(1, "both new", train_size=(40, 300), random_state=0).split(pairs)
    assert (len(set(i[train])), len(set(j[train]))) == (40, 300)
    assert (len(set(i[test])), len(set(j[test]))) == (28, 142)
    assert (len(train), len(test)) == (40 * 300, 28 * 142)
    ((train, test),) = PairShuffleSplit(1, "new rows", train_size=40, random_state=0).split(pairs)
    assert (len(train), len(test)) == (40 * 442, 28 * 442)


@given(st.integers(0, 10**6), st.sampled_from(SETTINGS), st.booleans())
@settings(max_examples=60, deadline=None)
def test_groups_stay_together(seed, setting, folds):
    _, i, j, _ = table(seed=seed)
    rng = np.random.default_rng(seed)
    rows, columns = rng.integers(0, 7, 12), rng.integers(0, 6, 9)
    how = {"setting": setting, "random_state": seed, "row_groups": rows, "column_groups": columns}
    splitter = PairKFold(2, **how) if folds else PairShuffleSplit(2, train_size=0.5, **how)
    try:
        splits = list(splitter.split(np.column_stack([i, j])))
    except ValueError as error:  # few groups of very different sizes
        assert "give" in str(error)  # noqa: PT017
        return
    for train, test in splits:
        if setting in ("new rows", "both new"):
            assert not set(rows[i[train]]) & set(rows[i[test]])
        if setting in ("new columns", "both new"):
            assert not set(columns[j[train]]) & set(columns[j[test]])
        if setting == "pairs":
            cells = rows[i] * 100 + columns[j]
            assert not set(cells[train]) & set(cells[test])


def test_groups_by_id():
    ids = np.array([["a", "x"], ["b", "x"], ["c", "x"], ["d", "y"]])
    groups = {"a": "one", "b": "one", "c": 2, "d": 3}
    for train, test in PairKFold(3, "new rows", random_state=0, row_groups=groups).split(ids):
        assert (0 in train) == (1 in train)
        assert (0 in test) == (1 in test)
    with pytest.raises(ValueError, match="no group for the entity 'd'"):
        next(PairKFold(2, "new rows", row_groups={"a": 1, "b": 1, "c": 1}).split(ids))
    with pytest.raises(ValueError, match="give a dict"):
        next(PairKFold(2, "new rows", row_groups=[0, 1]).split(ids))


@pytest.mark.parametrize("setting", SETTINGS)
def test_through_scikit_learn(setting):
    X, i, j, y = table(20, 16)
    splitter = PairKFold(2, setting, random_state=0)
    n = splitter.get_n_splits()
    over_expression = cross_val_score(KronRegressor(**QUICK), X, y, cv=splitter)
    assert over_expression.shape == (n,)
    over_array = cross_val_score(
        KronRegressor(**QUICK), np.column_stack([i, j]) / 20.0, y, groups=np.column_stack([i, j]), cv=splitter
    )
    assert np.isfinite(over_array).all()
    search = GridSearchCV(KronRegressor(**QUICK), {"output_scale": [0.1, 0.3]}, cv=splitter).fit(X, y)
    first = search.cv_results_["split0_test_score"][0]
    assert first == pytest.approx(over_expression[0])


# Leaks -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tables", "expected"),
    [
        ([Dense(np.array([[1.0, 2], [3, 4], [1, 2]]))], [0, 1, 0]),
        ([Kernel(np.array([[1, 0.2, 1], [0.2, 1, 0.2], [1, 0.2, 1]]))], [0, 1, 0]),
        ([Tanimoto(np.array([[1, 0, 1], [1, 1, 1], [1, 0, 1]]))], [0, 1, 0]),
        ([["MKV", "MKV", "MK"]], [0, 0, 1]),
        ([np.array([[0.0, 1], [-0.0, 1], [1, 1]])], [0, 0, 1]),
        ([np.array([[1, 2], [1, 2], [1, 1]]), ["a", "b", "b"]], [0, 1, 2]),  # equal in all, or not equal
    ],
    ids=["dense", "kernel", "tanimoto", "texts", "array", "two descriptions"],
)
def test_duplicates(tables, expected, caplog):
    with caplog.at_level(logging.WARNING, logger="kronsgd"):
        np.testing.assert_array_equal(duplicate_groups(*tables), expected)
    assert ("2 of 3 entities equal another one" in caplog.text) == (len(set(expected)) < 3)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_notice_where_new_entities_have_twins_in_training(setting, caplog):
    rng = np.random.default_rng(0)
    i, j = np.divmod(np.arange(100), 10)
    features = rng.normal(size=(10, 3))
    features[5:] = features[:5]  # every row entity has a twin
    a = Dense(features)
    X = a[i] * Dense(rng.normal(size=(10, 2)))[j]
    cold = setting in ("new rows", "both new")
    with caplog.at_level(logging.WARNING, logger="kronsgd"):
        list(PairKFold(3, setting, random_state=0).split(X))
        assert ("row_groups=duplicate_groups(table)" in caplog.text) == cold
        assert "column_groups" not in caplog.text
        caplog.clear()
        groups = duplicate_groups(a, notice=False)
        for train, test in PairKFold(3, setting, random_state=0, row_groups=groups).split(X):
            assert not cold or not set(i[train] % 5) & set(i[test] % 5)
        assert caplog.text == ""


def test_pairs_that_were_measured_several_times(caplog):
    i, j = np.array([0, 0, 0, 1, 1, 2, 3]), np.array([0, 0, 1, 0, 1, 1, 0])
    pairs = np.column_stack([i, j])
    with caplog.at_level(logging.WARNING, logger="kronsgd"):
        for train, _ in PairKFold(3, random_state=0).split(pairs):
            assert (0 in train) == (1 in train)
        assert caplog.text == ""
        list(PairKFold(7, random_state=0, repeats="apart").split(pairs))
        assert "up to 1 test rows of a fold repeat a pair" in caplog.text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PairKFold(2, "new row"), "Did you mean 'new rows'"),
        (lambda: PairKFold(1), "n_splits=1 is out of range"),
        (lambda: PairKFold(repeats="both"), "repeats='both' is not known"),
        (lambda: PairShuffleSplit(setting="pairs", train_size=(3, 4)), "is not for setting='pairs'"),
        (lambda: PairShuffleSplit(train_size=1.0), "leaves nothing to test"),
        (lambda: PairShuffleSplit(train_size=0), "train_size=0 is out of range"),
        (lambda: next(PairShuffleSplit(1, "new rows", train_size=12).split(table()[0])), "12 of 12 row entities leaves none"),
        (lambda: next(PairKFold(13, "new rows").split(table()[0])), "n_splits=13 is more than the 12 row entities"),
        (lambda: next(PairKFold(2).split(np.ones((5, 3)))), r"groups=numpy.column_stack\(\[i, j\]\)"),
        (lambda: next(PairKFold(2).split(Dense(np.eye(4)))), "1 different row indices"),
        (lambda: next(PairKFold(3, "both new").split(np.array([[0, 0], [1, 1], [2, 2]]))), "leaves no test pairs"),
        (lambda: next(PairKFold(2, "new rows", row_groups=[0, 1]).split(table()[0])), r"row_groups has shape \(2,\)"),
        (lambda: duplicate_groups(), "needs something to compare"),
        (lambda: duplicate_groups(["a"], ["a", "b"]), r"the tables have \[1, 2\] entities"),
        (lambda: duplicate_groups(np.ones(3)), "cannot compare entities"),
    ],
)  # fmt: skip
def test_mistakes_are_one_sentence(make, message):
    with pytest.raises(ValueError, match=message) as error:
        make()
    assert "\n" not in str(error.value)
