"""The same folds for kronsgd and for what one would use instead: scores, time and memory side by side."""

from kronsgd.compare.folds import Fold, folds_of_problem, random_folds
from kronsgd.compare.harness import Comparison, Row, compare
from kronsgd.compare.methods import METHODS

__all__ = ["METHODS", "Comparison", "Fold", "Row", "compare", "folds_of_problem", "random_folds"]
