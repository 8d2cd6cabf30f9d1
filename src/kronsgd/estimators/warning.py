"""What both ways to train say when they fail."""

from __future__ import annotations

import warnings
from typing import Any

from sklearn.exceptions import ConvergenceWarning

from kronsgd.training import StopReason

__all__ = ["warn_of_divergence"]


def warn_of_divergence(model: Any, call: str) -> None:
    """Say that the loss grew without bound in `call`."""
    message = (
        f"learning_rate_init={model.learning_rate_:.3g}: {StopReason.DIVERGED.value} The model is as it was before {call}."
    )
    warnings.warn(message, ConvergenceWarning, stacklevel=5)
