"""Splits of pairs for cross-validation: known entities, new ones on either side, or new ones on both."""

from kronsgd.model_selection.duplicates import duplicate_groups
from kronsgd.model_selection.entities import SETTINGS
from kronsgd.model_selection.splits import PairKFold, PairShuffleSplit

__all__ = ["SETTINGS", "PairKFold", "PairShuffleSplit", "duplicate_groups"]
