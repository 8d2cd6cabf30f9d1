"""The process group that a launcher's processes form."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from importlib.util import find_spec
from typing import Any

__all__ = ["process_group"]

PATIENCE = timedelta(minutes=10)  # with a rank that says nothing: it covers compilation, and the writing of a large model
NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@contextmanager
def process_group(timeout: timedelta | float = PATIENCE) -> Iterator[None]:
    """Join the other processes that torchrun or another launcher has started, as torch.distributed's default group on gloo.

    timeout: how long to wait for ranks that start late, and later on for one that says nothing; a number is of seconds.
    ValueError where the launcher's variables are not set; ConnectionError where the others cannot be found.
    """
    timeout = timeout if isinstance(timeout, timedelta) else timedelta(seconds=timeout)
    missing = [name for name in NEEDED if name not in os.environ]
    if missing:
        raise ValueError(
            f"{' and '.join(missing)} are not set; start the processes with torchrun --nproc-per-node 2 -m kronsgd train ..., "
            "or torchrun --nproc-per-node 2 program.py."
        )
    if find_spec("torch") is None:
        raise ModuleNotFoundError('training over several processes needs PyTorch; run pip install "kronsgd[torch]".')
    torch: Any = import_module("torch")
    dist: Any = import_module("torch.distributed")
    if torch.cuda.is_available():  # a GPU for each rank of the host, for engine="torch"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
    where = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
    try:
        socket.getaddrinfo(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]))  # torch would look for it for long
        store, rank, size = next(dist.rendezvous("env://", timeout=timeout))
        # torchrun --max-restarts keeps one store, where gloo would find the addresses of ranks that have ended.
        own = dist.PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)
        with _polite_threads():
            dist.init_process_group("gloo", store=own, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, OSError, ValueError) as error:
        raise ConnectionError(
            f"rank {os.environ['RANK']} could not join the others at {where} ({str(error).splitlines()[0]}); check that rank 0 "
            "runs there, that the port is free and open, and GLOO_SOCKET_IFNAME where a host has several networks."
        ) from error
    try:
        yield
    finally:
        if dist.is_initialized():  # not where an error has ended it
            dist.destroy_process_group()


@contextmanager
def _polite_threads() -> Iterator[None]:
    """Threads that start here let the one that computes finish what it is at, on Linux.

    Where all cores are busy, gloo's thread would push it aside while it holds a lock of gloo's, and then try for that lock
    without end until its time slice is over: 4 ms, where the exchange takes a tenth of one.
    """
    known = os.sched_getscheduler(0) if sys.platform == "linux" else None
    if sys.platform != "linux" or known != os.SCHED_OTHER:
        yield
        return
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))  # of this thread; those that it starts inherit it
    try:
        yield
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
