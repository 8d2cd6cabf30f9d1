"""Rows to train on and rows to score, the same for every method."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import KFold, StratifiedKFold

from kronsgd.compare.columns import distinct_leaves, side_by_side
from kronsgd.datasets import Problem
from kronsgd.estimators.inputs import ArrayMap
from kronsgd.features import Features
from kronsgd.validation import check_finite, check_integer

__all__ = ["Fold", "folds_of_problem", "random_folds"]

Array = NDArray[Any]
Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Fold:
    """Training rows X with targets y, and the rows that are predicted.

    Shape: X (n, d), y (n,), X_test (n', d), y_test (n',): feature expressions or plain arrays. n_classes: 0 for
    regression; classes are numbered from 0. inner: the training rows that are held out in turn to choose settings.
    """

    X: Any
    y: Array
    X_test: Any
    y_test: Array
    n_classes: int = 0
    inner: tuple[Index, ...] = field(default=())

    @cached_property
    def features(self) -> tuple[Features, Features]:
        """(training, test) rows as the network sees them; a plain array becomes (1 + Z) ** 2, scaled by training rows."""
        if isinstance(self.X, Features):
            return self.X, self.X_test
        made = ArrayMap.fit(self.X, np.ones(len(self.X)), True)
        return made(self.X), made(self.X_test)

    @cached_property
    def columns(self) -> tuple[Any, Any]:
        """(training, test) rows as columns side by side; see `kronsgd.compare.columns`."""
        if not isinstance(self.X, Features):
            return self.X, self.X_test
        leaves = distinct_leaves(self.X)
        return side_by_side(self.X, leaves), side_by_side(self.X_test, leaves)

    def check(self) -> None:
        """Raise ValueError on rows without a target, targets that are not one finite number a row, and no inner folds."""
        for part, rows, targets in (("X", self.X, self.y), ("X_test", self.X_test, self.y_test)):
            if targets.ndim != 1 or len(rows) != len(targets) or not len(targets):
                raise ValueError(
                    f"{part} has {len(rows)} rows and targets of shape {targets.shape}; give each row one target, and one "
                    "row at least."
                )
            check_finite(f"the target of {part}", targets)
            if not isinstance(rows, Features):
                check_finite(part, np.asarray(rows))
        if not self.inner:
            raise ValueError("a fold has no inner folds to choose settings on; give it row numbers of its training rows.")

    def inside(self) -> list[Fold]:
        """A fold of training rows for each of `inner`; test rows have no part in them."""
        out = []
        for held in self.inner:
            kept = np.setdiff1d(np.arange(len(self.y)), held)
            out.append(Fold(self.X[kept], self.y[kept], self.X[held], self.y[held], self.n_classes))
        return out


def random_folds(
    X: Any, y: Array, n_classes: int = 0, *, n_folds: int = 5, n_inner: int = 3, random_state: int = 0
) -> list[Fold]:
    """Folds drawn at random, with all classes in each. ValueError where there are too few rows."""
    n_folds = check_integer("n_folds", n_folds, 2)
    out = []
    for test in _held(y, n_classes, n_folds, random_state):
        train = np.setdiff1d(np.arange(len(y)), test)
        inner = _held(y[train], n_classes, n_inner, random_state + 1)
        out.append(Fold(X[train], y[train], X[test], y[test], n_classes, inner))
    return out


def folds_of_problem(problem: Problem, *, n_folds: int = 5, n_inner: int = 3, random_state: int = 0) -> list[Fold]:
    """The problem's own test rows as the one fold, its own folds inside; random folds where it has no test rows."""
    y, y_test = problem.y, problem.y_test
    n_classes = 0
    if problem.task == "classification":
        classes, y = np.unique(y.astype(str) if y.dtype == object else y, return_inverse=True)
        n_classes = len(classes)
        if y_test is not None:
            test_labels = y_test.astype(str) if y_test.dtype == object else y_test
            unknown = np.setdiff1d(test_labels, classes)
            if len(unknown):
                raise ValueError(f"the test rows have the class {str(unknown[0])!r}, which no training row has; leave it out.")
            y_test = np.searchsorted(classes, test_labels)
    if problem.X_test is None or y_test is None:
        return random_folds(problem.X, y, n_classes, n_folds=n_folds, n_inner=n_inner, random_state=random_state)
    inner = tuple(problem.folds[:n_inner]) or _held(y, n_classes, n_inner, random_state + 1)
    return [Fold(problem.X, y, problem.X_test, y_test, n_classes, inner)]


def _held(y: Array, n_classes: int, n_folds: int, seed: int) -> tuple[Index, ...]:
    """Row numbers of each part."""
    check_integer("number of folds", n_folds, 2)
    if len(y) < 2 * n_folds:
        raise ValueError(f"{len(y)} rows are too few for {n_folds} folds; give at least {2 * n_folds} rows or fewer folds.")
    if n_classes and np.bincount(y, minlength=n_classes).min() < n_folds:
        rare = int(np.bincount(y, minlength=n_classes).argmin())
        raise ValueError(
            f"class number {rare} has only {int((y == rare).sum())} rows, too few for {n_folds} folds; merge or drop rare "
            "classes, or ask for fewer folds."
        )
    kind = StratifiedKFold if n_classes else KFold
    splits = kind(n_folds, shuffle=True, random_state=seed).split(np.zeros(len(y)), y)
    return tuple(held.astype(np.int64) for _, held in splits)
