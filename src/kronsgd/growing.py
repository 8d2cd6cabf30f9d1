"""Arrays that take more rows at their end, at a cost that does not depend on how many they have."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Growing", "Room", "begins_with"]

Array = NDArray[Any]


class Growing:
    """An array with spare room behind its rows. What it has given before stays as it is."""

    def __init__(self, array: Array) -> None:
        self._memory, self._used, self._moved = array, len(array), False

    def __reduce__(self) -> tuple[Any, ...]:
        return Growing, (self.array,)

    @property
    def array(self) -> Array:
        """The rows so far: a C-contiguous view."""
        return self._memory[: self._used]

    def append(self, rows: Array) -> Array:
        """The array with `rows` behind it. Cost: theirs, and now and then a copy of all into twice the room.

        The first time there is no spare room: one that is extended once takes no more memory than it needs.
        """
        used = self._used + len(rows)
        if used > len(self._memory):
            memory = np.empty((used * (1 + self._moved), *self._memory.shape[1:]), dtype=self._memory.dtype)
            memory[: self._used] = self.array
            self._memory, self._moved = memory, True
        self._memory[self._used : used] = rows
        self._used = used
        return self.array


class Room:
    """The memory of a table's arrays while it grows, by name."""

    def __init__(self) -> None:
        self._kept: dict[str, Growing] = {}
        self._parts: dict[str, Room] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return Room, ()

    def append(self, name: str, array: Array, more: Array) -> Array:
        """`array` with `more` behind it, in the array's precision; in place where this room has given `array`."""
        kept = self._kept.get(name)
        if kept is None or len(kept.array) != len(array) or not _same_memory(kept.array, array):
            kept = self._kept[name] = Growing(array)
        return kept.append(more)

    def part(self, name: str) -> Room:
        """The room of a table that is a part of this one."""
        return self._parts.setdefault(name, Room())


def begins_with(array: Array, known: Array) -> bool:
    """Whether the first rows of `array` are those of `known`. Cost: none where it has grown from it in place."""
    if array.shape[1:] != known.shape[1:] or array.dtype != known.dtype or len(array) < len(known):
        return False
    return _same_memory(array, known) or np.array_equal(array[: len(known)], known)


def _same_memory(a: Array, b: Array) -> bool:
    """Whether the rows that both have are the same bytes of memory."""
    return a.ctypes.data == b.ctypes.data and a.strides == b.strides and a.dtype == b.dtype
