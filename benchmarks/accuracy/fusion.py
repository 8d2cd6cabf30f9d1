"""python -m benchmarks.run accuracy.fusion"""

from __future__ import annotations

from benchmarks.accuracy.common import record
from kronsgd.datasets import Problem, make_kron_teacher


def main() -> None:
    """Three factors, labelled by a few neurons on their product."""
    X, y, _ = make_kron_teacher(2000, (6, 6, 6), n_neurons=4, noise=0.1, random_state=0, n_entities=100)
    record("fusion", "A planted interaction of three factors: the same three folds for all", Problem(X, y, name="fusion"),
           "Random triples of 100 entities a factor, 6 columns each, labelled by 4 ReLU neurons on a ⊗ b ⊗ c, noise 0.1 of "
           "the deviation.", n_folds=3)  # fmt: skip
