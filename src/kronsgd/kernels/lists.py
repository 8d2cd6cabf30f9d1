"""One neuron's sorted list of coefficients and its tail: looked up and added to, inlined into the kernels that walk them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit

from kronsgd.kernels.bfloat16 import noise, rounded, widen
from kronsgd.kernels.simd import equal_bits, lowest_bit

__all__ = ["add_entry", "find"]

WINDOW, LOOKS = 16, 4  # entries looked at at once, first around the place that evenly spread rows would have, and how often


@njit(cache=True, error_model="numpy", inline="always")
def find(rows: Any, i: Any, low: Any, high: Any, guess: Any) -> Any:  # pragma: no cover
    """The place of row i in the sorted rows[low:high], or −1: a look around a guess and its surroundings, else bisection."""
    near = max(low, min(guess - WINDOW // 2, high - WINDOW))
    for _ in range(LOOKS):
        if near + WINDOW > len(rows):
            break
        here = equal_bits(WINDOW, rows, near, i)
        if here != 0:
            return near + lowest_bit(here) if near + lowest_bit(here) < high else -1
        if near > low and rows[near] > i:
            near = max(low, near - WINDOW)
        elif near + WINDOW < high and rows[near + WINDOW - 1] < i:
            near += WINDOW
        else:
            return -1
    length = high - low
    while length > 1:  # without branches, which would be mispredicted half of the time
        half = length >> 1
        low += half * np.int64(rows[low + half] <= i)
        length -= half
    return low if length == 1 and rows[low] == i else -1


@njit(cache=True, error_model="numpy", inline="always")
def add_entry(
    value: Any, i: Any, place: Any, r: Any, low: Any, high: Any, guess: Any, rows: Any, alpha: Any, tail_first: Any,
    tail_len: Any, tail_rows: Any, tail_alpha: Any, salt: Any,
) -> None:  # fmt: skip  # pragma: no cover
    """alpha[r, i] += value, in neuron r's sorted list rows[low:high] where it has row i's place, else at the end of its tail.

    salt: of the step, for lists of bfloat16; those of floating-point numbers do not look at it.
    Inlined, because a call would pass six arrays of seven words each.
    """
    p = find(rows, place, low, high, guess)
    if p >= 0:
        alpha[p] = rounded(alpha[p], widen(alpha[p]) + value, noise(salt, i, r))
    elif value != 0:
        end = tail_first[r] + tail_len[r]
        tail_rows[end] = i
        tail_alpha[end] = value
        tail_len[r] += 1
