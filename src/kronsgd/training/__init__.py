"""Training: batches, step sizes, the loop, and why it ended."""

from kronsgd.training.batches import epoch_batches
from kronsgd.training.learning_rate import SCHEDULES, auto_learning_rate, schedule
from kronsgd.training.loop import Diverged, History, Settings, Validation, train, train_step
from kronsgd.training.stopping import StopReason

__all__ = [
    "SCHEDULES", "Diverged", "History", "Settings", "StopReason", "Validation", "auto_learning_rate", "epoch_batches",
    "schedule", "train", "train_step",
]  # fmt: skip
