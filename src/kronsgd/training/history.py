"""What training has come to: records of epochs, and the place from which it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.training.stopping import Stopper, StopReason
from kronsgd.validation import check_integer, check_real

__all__ = ["History", "Position", "epoch_record"]

Array = NDArray[Any]
RECORD = {"epoch", "loss", "learning_rate", "fired", "seconds", "rows_per_second"}  # and "validation_loss", or not
MOST = 2**53  # steps, fired pairs: whole numbers that a float holds


@dataclass
class History:
    """One record for each epoch, and why training ended."""

    records: list[dict[str, float]] = field(default_factory=list)
    stop_reason: StopReason = StopReason.MAX_ITER
    n_steps: int = 0

    def column(self, name: str) -> list[float]:
        """One value of each epoch."""
        return [record[name] for record in self.records]


@dataclass
class Position:
    """Where a training is between two steps: all that its course depends on beside the engine's state and the settings."""

    epoch: int = 0  # epochs done
    batch: int = 0  # steps done of the epoch after them
    sums: Array = field(default_factory=lambda: np.zeros(2))  # summed loss and fired pairs of these steps
    seconds: float = 0.0  # that these steps took
    history: History = field(default_factory=History)
    stopper: Stopper = field(default_factory=Stopper)

    def next_epoch(self) -> None:
        """An epoch is done."""
        self.epoch, self.batch, self.sums, self.seconds = self.epoch + 1, 0, np.zeros(2), 0.0

    def numbers(self) -> dict[str, Any]:
        """All but the stopper's arrays, as JSON."""
        best = self.stopper.best
        return {
            "epoch": self.epoch, "batch": self.batch, "sums": self.sums.tolist(), "seconds": self.seconds,
            "records": self.history.records, "n_steps": self.history.n_steps,
            "best": best if np.isfinite(best) else None, "waited": self.stopper.waited,
        }  # fmt: skip

    @classmethod
    def of(cls, numbers: Mapping[str, Any], kept: dict[str, Array] | None) -> Position:
        """What `numbers` gave, with the stopper's arrays. ValueError, TypeError or KeyError where it cannot have."""
        records = [_checked(record, k) for k, record in enumerate(numbers["records"])]
        epoch = check_integer("epoch", numbers["epoch"], 0, MOST)
        if len(records) != epoch:
            raise ValueError(f"the history has {len(records)} records of {epoch} epochs")
        loss, fired = numbers["sums"]
        best = np.inf if numbers["best"] is None else check_real("best", numbers["best"], -np.inf)
        return cls(
            epoch, check_integer("batch", numbers["batch"], 0, MOST),
            np.array([check_real("loss", loss, -np.inf), check_real("fired", fired, 0)]),
            check_real("seconds", numbers["seconds"], 0),
            History(records, n_steps=check_integer("n_steps", numbers["n_steps"], 0, MOST)),
            Stopper(best, check_integer("waited", numbers["waited"], 0, MOST), kept),
        )  # fmt: skip


def _checked(record: Any, k: int) -> dict[str, float]:
    """The k'th epoch's record. ValueError or TypeError where it cannot be."""
    if not isinstance(record, dict) or record.keys() - {"validation_loss"} != RECORD:
        raise ValueError(f"the history has no record of epoch {k + 1}")
    numbers = {name: check_real(name, value, -np.inf) for name, value in record.items()}
    return {**numbers, "epoch": check_integer("epoch", record["epoch"], k + 1, k + 1)}


def epoch_record(epoch: int, sums: Array, n_rows: int, n_hidden: int, rate: float, seconds: float) -> dict[str, float]:
    """What the history keeps of an epoch, from its summed loss and number of fired pairs."""
    return {
        "epoch": epoch + 1, "loss": float(sums[0]) / n_rows, "learning_rate": rate,
        "fired": float(sums[1]) / (n_rows * n_hidden), "seconds": seconds, "rows_per_second": n_rows / max(seconds, 1e-9),
    }  # fmt: skip
