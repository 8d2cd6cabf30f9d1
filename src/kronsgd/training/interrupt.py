"""Ctrl-C between two steps, never inside one; and other signals that a program lets stop its training."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Set
from types import FrameType

__all__ = ["deferred_interrupt", "stopping_at"]

_come: set[int] = set()  # signals that are to stop training, within `stopping_at`


@contextlib.contextmanager
def stopping_at(*signums: int) -> Iterator[Set[int]]:
    """Within it these signals stop training after the step that it is at, as Ctrl-C does, and do nothing else.

    Yields those that have come. Only for the main thread, to which signals are given. What comes when training is over is noted
    only, so that what was learned can be saved; of several ranks, some hear of the end before they get the signal.
    """
    come: set[int] = set()

    def handler(signum: int, frame: FrameType | None) -> None:
        come.add(signum)
        _come.add(signum)

    previous = {signum: signal.signal(signum, handler) for signum in signums}
    try:
        yield come
    finally:
        for signum, known in previous.items():
            signal.signal(signum, known)
        _come.difference_update(signums)


@contextlib.contextmanager
def deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Yield a function that says whether Ctrl-C was pressed; a second Ctrl-C stops at once, as usual."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: bool(_come)  # Ctrl-C only reaches the main thread
        return
    pressed = False
    previous = signal.getsignal(signal.SIGINT)

    def handler(signum: int, frame: FrameType | None) -> None:
        nonlocal pressed
        if pressed:
            signal.signal(signal.SIGINT, previous)
            raise KeyboardInterrupt
        pressed = True

    signal.signal(signal.SIGINT, handler)
    try:
        yield lambda: pressed or bool(_come)
    finally:
        signal.signal(signal.SIGINT, previous)
