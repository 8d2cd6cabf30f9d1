"""Checkpoints of a fit: when one is due, what it holds, and how a fit goes on from one to the same bytes."""

from __future__ import annotations

import logging
import os
import reprlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd._version import __version__
from kronsgd.engines.base import Engine
from kronsgd.engines.shards import join, part
from kronsgd.training.checkpoint_folder import CheckpointFolder, Found
from kronsgd.training.history import Position
from kronsgd.training.horizon import MOST_EPOCHS
from kronsgd.training.loop import Saver
from kronsgd.training.stopping import StopReason
from kronsgd.validation import check_integer, check_real, check_switch

__all__ = ["Checkpoint", "Course", "Keeper"]

Array = NDArray[Any]
logger = logging.getLogger("kronsgd")
MINUTES = 10.0
WRONG = ValueError, TypeError, LookupError, RecursionError, OSError  # what a hostile file provokes


@dataclass(frozen=True)
class Checkpoint:
    """Where and how often `fit` saves what it has: every so many steps, or minutes (10 if neither is given), and at its end.

    resume: go on from the newest checkpoint in the folder, to the same bytes of the saved model as without a stop; from the
    start where there is none. False: refuse a folder that holds checkpoints.
    """

    folder: str | os.PathLike[str]
    steps: int | None = None
    minutes: float | None = None
    resume: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.folder, (str, os.PathLike)):
            raise TypeError(f"folder={self.folder!r} is not a path; give the folder for the checkpoints.")
        if self.steps is not None:
            check_integer("steps", self.steps, 1)
        if self.minutes is not None:
            check_real("minutes", self.minutes, 0, open_low=True)
        check_switch("resume", self.resume)

    @property
    def seconds(self) -> float:
        """Between two checkpoints; infinite where steps say when."""
        if self.minutes is None:
            return 60 * MINUTES if self.steps is None else np.inf
        return 60 * float(self.minutes)


@dataclass
class Course:
    """How far a fit has come, beyond what the training loop knows."""

    attempt: int = 0  # trainings that diverged before this one
    learning_rate: float = 0.0  # at this training's start
    max_iter: int = 0
    before: int = 0  # steps of the trainings that diverged
    position: Position | None = None  # None: not begun
    stop_reason: StopReason | None = None  # once training is over


class Keeper(Saver):
    """Saves the state of one fit, and finds it again."""

    def __init__(
        self, checkpoint: Checkpoint, folder: CheckpointFolder, engine: Engine, state: Any, configuration: Mapping[str, Any],
        data: str,
    ) -> None:  # fmt: skip
        self._checkpoint, self._folder, self._engine, self._state = checkpoint, folder, engine, state
        self._configuration, self._data = dict(configuration), data
        self._saved_at, self._saved_step = time.monotonic(), 0
        self.course = Course()

    # Saving ------------------------------------------------------------------------------------------------------------

    def due(self, n_steps: int) -> bool:
        every, step = self._checkpoint.steps, self.course.before + n_steps
        by_steps = every is not None and step // every > self._saved_step // every
        return by_steps or time.monotonic() - self._saved_at >= self._checkpoint.seconds

    def save(self, position: Position) -> None:
        """Write a checkpoint, but for weights that are no longer finite: training is about to diverge."""
        self.course.position = position
        arrays = {f"state.{name}": array for name, array in self._engine.checkpoint(self._state).items()}
        if position.stopper.kept is not None and self.course.stop_reason is None:
            arrays |= {f"kept.{name}": array for name, array in position.stopper.kept.items()}
        sound = all(array.dtype.kind != "f" or bool(np.isfinite(array).all()) for array in arrays.values())
        sound = sound and bool(np.isfinite(position.sums).all())
        step = self.course.before + position.history.n_steps
        if self._state.network.exchange.total(float(not sound)) == 0:
            self._folder.write(step, self.course.stop_reason is not None, arrays, self._meta(position))
        self._saved_at, self._saved_step = time.monotonic(), step

    def finish(self, position: Position) -> None:
        """Write the last checkpoint: the fit is over, and `course` says why."""
        self.save(position)

    def _meta(self, position: Position) -> dict[str, Any]:
        c = self.course
        return {
            "kronsgd": __version__, "configuration": self._configuration, "data": self._data,
            "attempt": c.attempt, "learning_rate": c.learning_rate, "max_iter": c.max_iter, "before": c.before,
            "stop_reason": None if c.stop_reason is None else c.stop_reason.name, "position": position.numbers(),
        }  # fmt: skip

    # Going on ----------------------------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Put the state where the newest whole checkpoint has it, and `course` with it; False: there is none.

        ValueError where the checkpoint is of other data or of another configuration, or where none is whole.
        """
        for found in self._folder.candidates():
            self._check_same(found)
            error: Exception | None = None
            try:
                self._restore(found)
            except WRONG as raised:
                error = raised
            if self._folder.exchange.total(float(error is not None)) > 0:
                self._folder.warn(found.path.name, error or ValueError("on another rank"))
                continue
            self._folder.good = [found.path.name]
            self._saved_at, self._saved_step = time.monotonic(), found.step
            position = self.course.position
            assert position is not None
            logger.info(
                "going on from step %d (epoch %d of %d) of %s", found.step, position.epoch + 1, self.course.max_iter, found.path
            )
            return True
        return False

    def _check_same(self, found: Found) -> None:
        """ValueError where a checkpoint is not of this fit."""
        meta, mine, its = found.meta, self._configuration, found.configuration
        for name in [*mine, *(set(its) - set(mine))]:
            if mine.get(name) != its.get(name):
                known = name if name in mine else f"the setting {reprlib.repr(name)}"
                raise ValueError(
                    f"{known}={reprlib.repr(mine.get(name))} differs from {reprlib.repr(its.get(name))} in the checkpoint "
                    f"{found.path}; resume with the same settings, or start anew in another folder."
                )
        if meta.get("data") != self._data:
            raise ValueError(
                f"the rows, targets or weights differ from those of the checkpoint {found.path}; resume with the same data, or "
                "start anew in another folder."
            )
        if meta.get("kronsgd") != __version__:
            its_version = reprlib.repr(meta.get("kronsgd"))
            logger.warning("the checkpoint %s was made by kronsgd %s, not %s", found.path, its_version, __version__)

    def _restore(self, found: Found) -> None:
        meta, network = found.meta, self._state.network
        size = network.exchange.size
        shards = found.shards(network.exchange.rank, size)
        kept = None
        if any(name.startswith("kept.") for name in shards[0]):
            kept = self._own(shards, "kept.", len(meta["shards"]))
            self._engine.restore(self._state, kept)  # to see now, not at the end of training, whether it can be
        self._engine.resume(self._state, self._own(shards, "state.", len(meta["shards"])))
        reason = meta["stop_reason"]
        self.course = Course(
            check_integer("attempt", meta["attempt"], 0), check_real("learning_rate", meta["learning_rate"], 0),
            check_integer("max_iter", meta["max_iter"], 0), check_integer("before", meta["before"], 0, found.step),
            Position.of(meta["position"], kept), None if reason is None else StopReason[reason],
        )  # fmt: skip
        self._check_course(found)

    def _check_course(self, found: Found) -> None:
        """ValueError where the course is none that these settings can have taken to this step."""
        c = self.course
        assert c.position is not None
        check_integer("epoch", c.position.epoch, 0, c.max_iter)
        for name, value, most in (("max_iter", c.max_iter, MOST_EPOCHS), ("learning_rate_init", c.learning_rate, np.inf)):
            known = self._configuration[name]
            if value != known and (known != "auto" or value > most):
                raise ValueError(f"the course has another {name} than these settings")
        if c.before + c.position.history.n_steps != found.step:
            raise ValueError(f"the course has {c.before:,} + {c.position.history.n_steps:,} instead of {found.step:,} steps")
        if found.path.name.endswith("-end") != (c.stop_reason is not None):
            raise ValueError("its name and its reason to stop do not agree")

    def _own(self, shards: list[dict[str, Array]], prefix: str, n_shards: int) -> dict[str, Array]:
        """This rank's arrays of those with a prefix, from its own shard or from all."""
        chosen = [{k.removeprefix(prefix): v for k, v in shard.items() if k.startswith(prefix)} for shard in shards]
        network = self._state.network
        exchange = network.exchange
        if n_shards == exchange.size:
            return chosen[0]
        blocks = network.whole.blocks
        first = int(blocks[exchange.share(len(blocks) - 1)[0]])
        return part(join(chosen), first, first + network.n_hidden)
