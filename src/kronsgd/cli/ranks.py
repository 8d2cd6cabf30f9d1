"""A command that torchrun or another launcher has started as several processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Set
from contextlib import contextmanager
from typing import Any

from kronsgd import distributed
from kronsgd.distributed import thread_budget
from kronsgd.parallel import threads
from kronsgd.training import stopping_at

__all__ = ["first_rank", "from_first", "on_any_rank", "over_ranks", "process_group", "signals_deferred"]


def over_ranks() -> bool:
    """Whether this process is one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def first_rank() -> bool:
    """Whether this process is the one that talks and writes."""
    return not over_ranks() or os.environ.get("RANK", "0") == "0"


def from_first(value: Any) -> Any:
    """What the first process has found, for only it need see the folder of the run. Every process calls it."""
    return distributed.TorchExchange().broadcast(value) if over_ranks() else value


def on_any_rank(wish: bool) -> bool:
    """Whether some process wishes it. Every process calls it."""
    return distributed.TorchExchange().total(float(wish)) > 0 if over_ranks() else wish


@contextmanager
def signals_deferred() -> Iterator[Set[int]]:
    """SIGTERM stops training after its step, and nothing else; yields the signals that have come to this process.

    So does Ctrl-C where there are several: their launcher gives it to one after the other, but they stop together.
    """
    with stopping_at(signal.SIGTERM, *([signal.SIGINT] if over_ranks() else [])) as come:
        yield come


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that the launcher has started, each on its share of the host's cores; alone, do nothing."""
    if not over_ranks():
        yield
        return
    with distributed.process_group(), threads(thread_budget()):
        yield
