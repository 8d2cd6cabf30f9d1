"""A command that torchrun or another launcher has started as several processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib.util import find_spec

from kronsgd.distributed import thread_budget
from kronsgd.parallel import threads

__all__ = ["first_rank", "over_ranks", "process_group"]

PATIENCE = timedelta(minutes=10)  # with a rank that says nothing: it covers compilation, and the writing of a large model
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


def over_ranks() -> bool:
    """Whether this process is one of several."""
    return os.environ.get("WORLD_SIZE", "1") not in ("", "1")


def first_rank() -> bool:
    """Whether this process is the one that talks and writes."""
    return not over_ranks() or os.environ.get("RANK", "0") == "0"


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that the launcher has started, each on its share of the host's cores; alone, do nothing."""
    if not over_ranks():
        yield
        return
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(
            f"WORLD_SIZE={os.environ['WORLD_SIZE']}, but {' and '.join(missing)} are not set; start the processes with "
            "torchrun --nproc-per-node 2 -m kronsgd train ..., or unset WORLD_SIZE."
        )
    if find_spec("torch") is None:
        raise ModuleNotFoundError('training over several processes needs PyTorch; run pip install "kronsgd[torch]".')
    import torch.distributed as dist

    rank, where = os.environ["RANK"], f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))  # torch would look for it for long
        dist.init_process_group("gloo", timeout=PATIENCE)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConnectionError(
            f"rank {rank} could not join the others at {where} ({str(error).splitlines()[0]}); check that rank 0 runs there, "
            "that the port is free and open, and GLOO_SOCKET_IFNAME where a host has several networks."
        ) from error
    try:
        with threads(thread_budget()):
            yield
    finally:
        dist.destroy_process_group()
