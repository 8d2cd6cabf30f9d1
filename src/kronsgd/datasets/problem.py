"""A loaded problem: rows, targets, and which rows are held out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features import Features
from kronsgd.validation import check_choice, check_integer

__all__ = ["Problem"]

Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Problem:
    """Training rows X with targets y, and a fixed test part where the set has one.

    Shape: X (n, d), y (n,), X_test (n', d), y_test (n',). `folds`: row numbers of X that are held out in turn, for
    choosing hyper-parameters; may be empty. `task`: "regression" or "classification".
    """

    X: Features
    y: Array
    X_test: Features | None = None
    y_test: Array | None = None
    folds: list[NDArray[np.int64]] = field(default_factory=list)
    name: str = ""
    task: str = "regression"

    def __post_init__(self) -> None:
        check_choice("task", self.task, ["regression", "classification"])
        if (self.X_test is None) != (self.y_test is None):
            raise ValueError("X_test and y_test belong together; give both or neither.")
        for part, rows, targets in (("X", self.X, self.y), ("X_test", self.X_test, self.y_test)):
            if rows is not None and targets is not None and len(rows) != len(targets):
                raise ValueError(f"{part} has {len(rows)} rows but {len(targets)} targets; give one for each row.")

    def training_rows(self, fold: int) -> NDArray[np.int64]:
        """The rows of X outside fold number `fold`, ascending."""
        fold = check_integer("fold", fold, 0, len(self.folds) - 1)
        return np.setdiff1d(np.arange(len(self.X)), self.folds[fold])

    def __repr__(self) -> str:
        n_test = 0 if self.X_test is None else len(self.X_test)
        return f"Problem({self.name!r}, {self.task}, {self.X!r}, {n_test:,} test rows, {len(self.folds)} folds)"
