"""Threads whose number never changes a result.

BLAS splits a product over its threads in ways that change the last bits, so the library runs BLAS on one thread and
splits the work itself, at places that depend on the shapes only.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

# A thread that waits for the others must soon sleep, not spin on: on a machine with other work, spinning without end made
# small trainings sixty times slower. But it should last until a step's next loop, a tenth of a millisecond later, for waking
# up takes 30 µs. Read when Numba starts its threads; what the user has set stays.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")

__all__ = ["map_threads", "matmul", "n_threads", "threads"]

T = TypeVar("T")
R = TypeVar("R")
WORTH = 8e6  # flops that take as long as handing them to another thread
TILE = 2048  # rows of one product; a constant, so that the split never depends on the machine


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def n_threads() -> int:
    """The number of threads in use now."""
    return int(numba.get_num_threads())


@contextlib.contextmanager
def threads(n_jobs: int | None = None) -> Iterator[None]:
    """Run the block on `n_jobs` threads (None: as many as Numba may use), with BLAS on one thread per product."""
    before = n_threads()
    most = int(numba.config.NUMBA_NUM_THREADS)
    wanted = before if n_jobs is None else most if n_jobs < 0 else max(1, min(n_jobs, most))
    numba.set_num_threads(wanted)
    try:
        with _controller().limit(limits=1, user_api="blas"):
            yield
    finally:
        numba.set_num_threads(before)


def map_threads(function: Callable[[T], R], items: Iterable[T], flops: float = math.inf) -> list[R]:
    """`[function(item) for item in items]`, on the threads in use, or on one where an item's flops are not worth it."""
    items = list(items)
    if n_threads() == 1 or len(items) == 1 or flops < WORTH:
        return [function(item) for item in items]
    return list(_pool(n_threads()).map(function, items))


@cache
def _pool(size: int) -> ThreadPoolExecutor:
    """Threads that stay, because starting them takes longer than a small step."""
    return ThreadPoolExecutor(size, thread_name_prefix="kronsgd")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has the pool, but none of its threads


def matmul(a: Any, b: NDArray[Any]) -> NDArray[Any]:
    """`a @ b` by fixed tiles of rows: the same bits on any number of threads.

    Shape: a (n, k) dense or CSR, b (k, p) -> (n, p). Cost: 2·n·k·p flops.
    """
    out = np.empty((a.shape[0], b.shape[1]), dtype=np.result_type(a.dtype, b.dtype))

    def tile(start: int) -> None:
        out[start : start + TILE] = a[start : start + TILE] @ b

    map_threads(tile, range(0, a.shape[0], TILE))
    return out
