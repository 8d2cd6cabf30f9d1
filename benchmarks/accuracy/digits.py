"""python -m benchmarks.run accuracy.digits"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.accuracy.common import record
from kronsgd.datasets import load_digits


def main() -> None:
    """scikit-learn's digits, five folds."""
    problem = load_digits()
    record("digits", "digits: the same five folds for all", replace(problem, X=(1 + problem.X) ** 2), "x = centred pixels.",
           seeds=1)  # fmt: skip
