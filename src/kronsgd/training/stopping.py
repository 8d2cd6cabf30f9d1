"""Why training ended: data, with advice in each value; and when it does before all epochs are done."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Engine

__all__ = ["StopReason", "Stopper"]

Array = NDArray[Any]


class StopReason(StrEnum):
    """The value is a sentence for people; the name is for programs."""

    MAX_ITER = "all epochs are done, as many as max_iter gives or 'auto' chose; raise max_iter to train for longer."
    CONVERGED = "the training loss fell by less than tol for n_iter_no_change epochs."
    EARLY_STOPPING = "the validation loss did not fall for n_iter_no_change epochs; the best epoch's model was kept."
    DIVERGED = "the loss grew without bound; lower learning_rate_init or leave it at 'auto'."
    SILENT = "no neuron fires on any training row; lower threshold or learning_rate_init."
    INTERRUPTED = "interrupted by Ctrl-C or another signal; the model of the last finished step was kept."
    MEMORY = "what is learned outgrew memory_limit; raise it or lower n_hidden. The model of the last finished step was kept."
    PARTIAL = "one pass over the rows of partial_fit is done."

    @property
    def cut_short(self) -> bool:
        """Whether training may go on from here, with more time or memory."""
        return self in (StopReason.INTERRUPTED, StopReason.MEMORY)


@dataclass
class Stopper:
    """Watches the training loss, or the validation loss and the best model so far."""

    best: float = np.inf
    waited: int = 0  # epochs
    kept: dict[str, Array] | None = None  # the best epoch's arrays

    def after_epoch(
        self, engine: Engine, state: Any, record: dict[str, float], tol: float, n_iter_no_change: int
    ) -> StopReason | None:
        """Why training ends here, or None. With a validation loss in the record, keeps the model if it is the best."""
        validated = "validation_loss" in record
        value = record["validation_loss" if validated else "loss"]
        improved = value < self.best - (0 if validated else tol)
        self.waited = 0 if improved else self.waited + 1
        if value < self.best:
            self.best = value
            if validated:
                self.kept = None  # the old best goes before the new comes
                self.kept = {name: array.copy() for name, array in engine.arrays(state).items()}
        if self.waited < n_iter_no_change:
            return None
        return StopReason.EARLY_STOPPING if validated else StopReason.CONVERGED

    def restore_best(self, engine: Engine, state: Any) -> None:
        """Go back to the best epoch's model, if models were kept."""
        if self.kept is not None:
            engine.restore(state, self.kept)
