"""Why training ended: data, with advice in each value."""

from __future__ import annotations

from enum import StrEnum

__all__ = ["StopReason"]


class StopReason(StrEnum):
    """The value is a sentence for people; the name is for programs."""

    MAX_ITER = "all epochs are done, as many as max_iter gives or 'auto' chose; raise max_iter to train for longer."
    CONVERGED = "the training loss fell by less than tol for n_iter_no_change epochs."
    EARLY_STOPPING = "the validation loss did not fall for n_iter_no_change epochs; the best epoch's model was kept."
    DIVERGED = "the loss grew without bound; lower learning_rate_init or leave it at 'auto'."
    SILENT = "no neuron fires on any training row; lower threshold or learning_rate_init."
    INTERRUPTED = "interrupted by the user; the model of the last finished step was kept."
    PARTIAL = "one pass over the rows of partial_fit is done."
