"""Training: batches, step sizes, the loop, and why it ended."""

from kronsgd.training.batches import BATCHINGS, epoch_batches, rows_per_step
from kronsgd.training.horizon import Horizon, automatic_horizon, best_training_time, epochs_for
from kronsgd.training.learning_rate import SCHEDULES, auto_learning_rate, schedule, schedule_mean
from kronsgd.training.loop import Diverged, History, Settings, Validation, hold_out, train, train_step
from kronsgd.training.stopping import StopReason
from kronsgd.training.stream import snapshot, train_stream

__all__ = [
    "BATCHINGS", "SCHEDULES", "Diverged", "History", "Horizon", "Settings", "StopReason", "Validation",
    "auto_learning_rate", "automatic_horizon", "best_training_time", "epoch_batches", "epochs_for", "hold_out",
    "rows_per_step", "schedule", "schedule_mean", "snapshot", "train", "train_step", "train_stream",
]  # fmt: skip
