"""Ranks as threads of this process that compute in turn, and fail where they do not say the same kind of thing to each other.

Processes would wait for ever instead.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from kronsgd.exchange import Exchange
from kronsgd.parallel import threads


class Table:
    """Where all ranks lay what they have to say, and take what the others have said."""

    def __init__(self, size: int) -> None:
        self.barrier, self.turn, self.said = threading.Barrier(size, timeout=20), threading.Lock(), [("", None)] * size

    def swap(self, rank: int, what: str, value: Any) -> list[Any]:
        self.said[rank] = what, value
        self.turn.release()
        try:
            self.barrier.wait()
            said = list(self.said)
            self.barrier.wait()  # until all have read
        finally:
            self.turn.acquire()
        assert len({what for what, _ in said}) == 1, f"ranks say different things: {[what for what, _ in said]}"
        return [value for _, value in said]


class InTurn(Exchange):
    """One rank's exchange. `numbers` keeps what every `gather` has summed."""

    shared = True

    def __init__(self, rank: int, table: Table) -> None:
        self.rank, self.size, self.table = rank, len(table.said), table
        self.wish = self.stop = False
        self.numbers: list[list[float]] = []

    def share(self, n_blocks: int) -> tuple[int, int]:
        return n_blocks * self.rank // self.size, n_blocks * (self.rank + 1) // self.size

    def gather(self, partial: Any, axis: int, numbers: Any, meanwhile: Any = lambda: None) -> tuple[Any, list[float]]:
        meanwhile()
        shape = tuple(np.delete(partial.shape, axis))
        said = self.table.swap(self.rank, f"gather {shape}", (partial.copy(), self.wish, list(numbers)))
        parts, wishes, heads = zip(*said, strict=True)
        self.stop = any(wishes)
        self.numbers.append([sum(column) for column in zip(*heads, strict=True)])
        return np.concatenate(parts, axis), self.numbers[-1]

    def total(self, number: float) -> float:
        return float(sum(self.table.swap(self.rank, "total", number)))

    def fold(self, parts: Any) -> Any:
        every = self.table.swap(self.rank, "fold", [part.copy() for part in parts])
        return super().fold(part for own in every for part in own)

    def collect(self, arrays: Any) -> Any:
        every = self.table.swap(self.rank, "collect", {name: array.copy() for name, array in arrays.items()})
        return None if self.rank else every

    def broadcast(self, value: Any) -> Any:
        return self.table.swap(self.rank, "broadcast", value)[0]

    def barrier(self) -> None:
        self.table.swap(self.rank, "barrier", None)

    def agreed(self, wish: bool) -> bool:
        self.wish = wish
        return self.stop


def in_turn(size: int, work: Callable[[InTurn], Any]) -> list[Any]:
    """What `work(exchange)` returns on each rank; raises what one of them has raised."""
    table = Table(size)

    def rank(k: int) -> Any:
        with table.turn:
            try:
                with threads(1):
                    result = work(InTurn(k, table))
                table.swap(k, "the end", None)
                return result
            except BaseException:
                table.barrier.abort()
                raise

    with ThreadPoolExecutor(size) as pool:
        calls = [pool.submit(rank, k) for k in range(size)]
    failed = [error for error in (call.exception() for call in calls) if error is not None]
    if failed:
        raise next((error for error in failed if not isinstance(error, threading.BrokenBarrierError)), failed[0])
    return [call.result() for call in calls]
