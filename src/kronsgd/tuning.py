"""Which features to train on: kernel ridge on a grid of pairs as a quick judge of feature expressions.

A network that learns still starts from its factors' inner products, so that what is wrong with them costs a kernel method
and the network alike. Ridge takes seconds where a training takes a minute: try powers, widths, and sums of similarities
with weights by ridge, and train on the best few.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.ridge import pair_ridge
from kronsgd.validation import as_index, check_finite, check_real

__all__ = ["RidgeScore", "compare_features"]

Array = NDArray[Any]
Index = NDArray[np.int64]
TOLERANCE = 1e-5  # relative residual of conjugate gradients: scores are given to four digits
PENALTIES = (0.03, 0.1, 0.3, 1.0)


@dataclass(frozen=True)
class RidgeScore:
    """A mean squared error on held-out rows, and the penalty that it belongs to."""

    error: float
    penalty: float


def compare_features(
    candidates: Mapping[str, Features], y: ArrayLike, folds: Sequence[ArrayLike], penalties: Sequence[float] = PENALTIES
) -> dict[str, RidgeScore]:
    """The ridge score of every candidate on the same folds, best first; min(...) is the features to begin with.

    candidates: expressions for the same n rows, each a product over two sides; y (n,): targets; folds: row numbers of the
    training rows that are held out in turn; penalties: of ridge, in units of a row's squared norm of 1.
    Cost: a conjugate gradient of some hundred steps for each candidate, fold and penalty.

        found = compare_features({p: Kernel(S**p, psd="clip")[i] * B[j] for p in (0.5, 1, 2)}, y, folds)
    """
    if not candidates:
        raise ValueError("there are no candidates to compare; give at least one feature expression by name.")
    targets = np.asarray(y, dtype=np.float64)
    check_finite("y", targets)
    checked = [check_real("penalty", penalty, 0, open_low=True) for penalty in penalties]
    for name, X in candidates.items():
        if targets.shape != (len(X),):
            raise ValueError(f"candidate {name!r} has {len(X)} rows but y has shape {targets.shape}; give one number per row.")
    held = [np.unique(as_index("fold", fold, len(targets))) for fold in folds]
    if not held or not checked or not all(0 < len(fold) < len(targets) for fold in held):
        raise ValueError(f"every fold must hold out some of the {len(targets)} rows and leave some, at one penalty or more.")
    scores = {name: _score(X, targets, held, checked) for name, X in candidates.items()}
    return dict(sorted(scores.items(), key=lambda item: item[1].error))


def _score(X: Features, y: Array, folds: Sequence[Index], penalties: Sequence[float]) -> RidgeScore:
    """The penalty with the least mean squared error over `folds`, row numbers that are held out in turn."""
    errors = np.zeros(len(penalties))
    for held in folds:
        kept = np.delete(np.arange(len(y)), held)
        found = pair_ridge(X[kept], y[kept, None], X[held], penalties, TOLERANCE)
        errors += [np.mean((p[:, 0] - y[held]) ** 2) / len(folds) for p in found]
    best = int(errors.argmin())
    return RidgeScore(float(errors[best]), penalties[best])
