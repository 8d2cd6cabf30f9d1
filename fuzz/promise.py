"""What a harness holds kronsgd to: one of few errors with a message of one line, bounded memory, nothing else."""

from __future__ import annotations

import resource
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from kronsgd.planner import limits

__all__ = ["Broken", "check_message", "promise"]

MOST_BYTES = 1 << 28  # that one input may add to the process's peak
MESSAGE = 4000  # characters of an error; it may quote an expression, and list a folder's or a table's names


class Broken(AssertionError):
    """kronsgd has broken its promise."""


def check_message(error: BaseException) -> None:
    """Broken unless an error or a warning is one line of a bearable length."""
    text = str(error)
    if not 10 < len(text) < MESSAGE or len(text.splitlines()) != 1:
        raise Broken(f"{type(error).__name__} with the message {text[:500]!r} of {len(text)} characters") from error


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def promise(*allowed: type[BaseException]) -> Iterator[Path]:
    """An empty folder; within, only these errors may be raised, and memory is bounded."""
    before, known = _peak(), limits.available_memory
    limits.available_memory = lambda: float(MOST_BYTES)
    try:
        with warnings.catch_warnings(), np.errstate(all="ignore"), tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            warnings.simplefilter("ignore")
            yield Path(folder)
    except allowed as error:
        check_message(error)
    finally:
        limits.available_memory = known
    if _peak() - before > MOST_BYTES:
        raise Broken(f"the peak of memory grew by {(_peak() - before) >> 20} MiB")
