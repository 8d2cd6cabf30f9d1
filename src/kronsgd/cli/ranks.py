"""A command that torchrun or another launcher has started as several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kronsgd import distributed
from kronsgd.distributed import thread_budget
from kronsgd.parallel import threads

__all__ = ["first_rank", "from_first", "over_ranks", "process_group"]


def over_ranks() -> bool:
    """Whether this process is one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def first_rank() -> bool:
    """Whether this process is the one that talks and writes."""
    return not over_ranks() or os.environ.get("RANK", "0") == "0"


def from_first(value: Any) -> Any:
    """What the first process has found, for only it need see the folder of the run. Every process calls it."""
    return distributed.TorchExchange().broadcast(value) if over_ranks() else value


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that the launcher has started, each on its share of the host's cores; alone, do nothing."""
    if not over_ranks():
        yield
        return
    with distributed.process_group(), threads(thread_budget()):
        yield
