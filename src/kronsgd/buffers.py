"""Memory that is reused from step to step, so that training allocates nothing that grows with the problem."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Buffers"]

CACHE_LINE = 64  # bytes
SPARE = 4  # an array that grows by less than a quarter gets a quarter more, for it may well go on growing


class Buffers:
    """Named scratch arrays. What `take` gives holds nothing between the phases of a step. Never pickled."""

    def __init__(self) -> None:
        self._kept: dict[str, NDArray[Any] | None] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """A C-contiguous array of this shape, with whatever it held before."""
        size = math.prod(shape)
        kept = self._kept.get(name)
        if kept is None or kept.size < size or kept.dtype != dtype:
            creeping = kept is not None and kept.dtype == dtype and size * SPARE <= kept.size * (SPARE + 1)
            kept = self._kept[name] = None  # the old memory goes before the new comes
            kept = self._kept[name] = _aligned(size + creeping * (size // SPARE), np.dtype(dtype))
        return kept[:size].reshape(shape)

    def take_other(self, name: str, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
        """As `take`, but not the memory of the last call, which stays as it is."""
        last = self._kept.pop(name, None)
        if (name_of_other := f"{name}, the other") in self._kept:
            self._kept[name] = self._kept.pop(name_of_other)
        if last is not None:
            self._kept[name_of_other] = last
        return self.take(name, shape, dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Buffers, ()


def _aligned(size: int, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Numbers from the start of a cache line on: a vector that straddles two lines takes twice as long to load."""
    memory = np.empty(size * dtype.itemsize + CACHE_LINE, dtype=np.uint8)
    start = -memory.ctypes.data % CACHE_LINE
    return memory[start : start + size * dtype.itemsize].view(dtype)
