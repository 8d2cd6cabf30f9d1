"""Training: batches, step sizes, the loop, and why it ended."""

from kronsgd.training.batches import BATCHINGS, epoch_batches, rows_per_step
from kronsgd.training.checkpoint import Checkpoint, Course, Keeper
from kronsgd.training.checkpoint_folder import CheckpointFolder, Found, checkpoints_in
from kronsgd.training.fingerprint import fingerprint
from kronsgd.training.history import History, Position
from kronsgd.training.horizon import Horizon, automatic_horizon, best_training_time, epochs_for
from kronsgd.training.interrupt import stopping_at
from kronsgd.training.learning_rate import SCHEDULES, auto_learning_rate, schedule, schedule_mean
from kronsgd.training.loop import Diverged, Saver, Settings, Validation, hold_out, train, train_step
from kronsgd.training.stopping import StopReason
from kronsgd.training.stream import snapshot, train_stream

__all__ = [
    "BATCHINGS", "SCHEDULES", "Checkpoint", "CheckpointFolder", "Course", "Diverged", "Found", "History", "Horizon", "Keeper",
    "Position", "Saver", "Settings", "StopReason", "Validation", "auto_learning_rate", "automatic_horizon",
    "best_training_time", "checkpoints_in", "epoch_batches", "epochs_for", "fingerprint", "hold_out", "rows_per_step",
    "schedule", "schedule_mean", "snapshot", "stopping_at", "train", "train_step", "train_stream",
]  # fmt: skip
