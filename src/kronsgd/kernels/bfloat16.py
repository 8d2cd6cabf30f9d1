"""bfloat16 numbers, the upper 16 bits of float32, in uint16 arrays: for loops that take floating-point arrays as they are.

A number that is added to again and again is rounded up or down at random, with chances that keep its mean: what is added is
soon smaller than the distance to the next bfloat16 number, and would be lost each time if the nearest one were taken. The
random bits are a hash of what is rounded and when, the same on any number of threads and ranks.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import overload
from numpy.typing import NDArray

__all__ = ["HALF", "NO_SALT", "noise", "rounded", "salt_of", "to_bfloat16", "to_float", "widen"]

NO_SALT = np.uint64(0)  # where nothing is rounded at random
HALF = 1 << 15  # as `noise`: to the nearest
NAN = 0x7FC0
STEP, ROW, NEURON = np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F), np.uint64(0xD6E8FEB86659FD93)  # odd
FIRST, SECOND = np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB)  # splitmix64's (Steele, Lea, Flood 2014)


def widen(value: Any) -> Any:
    """In a kernel: a number of a coefficients' array as one to compute with."""
    raise NotImplementedError("kernels only")


def rounded(old: Any, value: Any, noise: Any) -> Any:
    """In a kernel: `value` in place of a coefficients' array's number `old`, of which only the type counts.

    0 ≤ noise < 2^16 is added behind the last bit that bfloat16 keeps.
    """
    raise NotImplementedError("kernels only")


@overload(widen, strict=False)  # which would compare annotations
def _widen(value: Any) -> Any:
    if value == types.uint16:
        return lambda value: np.uint32(np.uint32(value) << np.uint32(16)).view(np.float32)
    return lambda value: value


@overload(rounded, strict=False)
def _rounded(old: Any, value: Any, noise: Any) -> Any:
    if old != types.uint16:
        return lambda old, value, noise: value

    def narrow(old: Any, value: Any, noise: Any) -> Any:
        bits = np.int64(np.float32(value).view(np.uint32)) + np.int64(noise)
        return np.uint16(bits >> 16) if value == value else np.uint16(NAN)

    return narrow


@njit(cache=True, inline="always")
def noise(salt: Any, i: Any, r: Any) -> Any:  # pragma: no cover
    """16 random bits for row i and neuron r in the step that `salt` stands for."""
    h = salt + np.uint64(i) * ROW + np.uint64(r) * NEURON
    h = (h ^ (h >> np.uint64(30))) * FIRST
    h = (h ^ (h >> np.uint64(27))) * SECOND
    return h >> np.uint64(48)


def salt_of(step: int, first_neuron: int) -> np.uint64:
    """For `noise`, where neuron r is number first_neuron + r of the whole network."""
    return np.uint64((step * int(STEP) + first_neuron * int(NEURON)) % 2**64)


def to_float(values: NDArray[Any]) -> NDArray[Any]:
    """An array of bfloat16 numbers as float32; any other as it is."""
    return (values.astype(np.uint32) << 16).view(np.float32) if values.dtype == np.uint16 else values


def to_bfloat16(values: NDArray[Any]) -> NDArray[np.uint16]:
    """The nearest bfloat16 numbers; NaN stays NaN."""
    bits = (values.astype(np.float32).view(np.uint32).astype(np.int64) + HALF) >> 16
    return np.where(np.isnan(values), NAN, bits).astype(np.uint16)
