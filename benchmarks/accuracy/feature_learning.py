"""python -m benchmarks.run accuracy.feature_learning"""

from __future__ import annotations

from benchmarks.accuracy.common import record
from kronsgd.datasets import Problem, make_kron_teacher


def main() -> None:
    """Two directions out of a hundred matter: a kernel cannot know which, a network that learns features can."""
    X, y, _ = make_kron_teacher(2000, (10, 10), n_neurons=2, noise=0.1, random_state=0, n_entities=200)
    problem = Problem(X, y, name="feature learning")
    record("feature_learning", "A teacher of two directions in a hundred dimensions: the same three folds for all", problem,
           "Random pairs of 200 entities a side, 10 columns each, labelled by 2 ReLU neurons on a ⊗ b, noise 0.1 of the "
           "deviation.", n_folds=3)  # fmt: skip
