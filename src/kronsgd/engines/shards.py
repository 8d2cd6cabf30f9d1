"""An engine's arrays as those of parts of its neurons, so that another number of ranks can go on with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["join", "part"]

Array = NDArray[Any]
COMMON = ("slice_bits", "scale", "sides", "strip_outer", "counts", "steps")  # the same for all neurons
BOUNDS = ("indptr", "tail_first")  # (m + 1,): of each neuron's own places in other arrays
OWN = {"rows": "indptr", "values": "indptr", "tail_rows": "tail_len", "tail_values": "tail_len"}  # one run for each neuron


def join(shards: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    """`Engine.arrays` of the whole network, from those of consecutive parts. Cost: a copy."""
    out: dict[str, Array] = {}
    for name in shards[0]:
        arrays = [shard[name] for shard in shards]
        if name in COMMON:
            out[name] = arrays[0]
        elif name in BOUNDS:
            ends = np.cumsum([0, *(array[-1] for array in arrays)])
            out[name] = np.concatenate([arrays[0][:1], *(array[1:] + end for array, end in zip(arrays, ends, strict=False))])
        else:
            out[name] = np.concatenate(arrays)
    return out


def part(arrays: Mapping[str, Array], first: int, beyond: int) -> dict[str, Array]:
    """The arrays of neurons first … beyond − 1 only."""
    ends = {"tail_len": np.concatenate([[0], np.cumsum(arrays["tail_len"])])} if "tail_len" in arrays else {}
    out: dict[str, Array] = {}
    for name, array in arrays.items():
        if name in COMMON:
            out[name] = array
        elif name in BOUNDS:
            out[name] = array[first : beyond + 1] - array[first]
        elif name in OWN:
            bounds = ends[OWN[name]] if OWN[name] in ends else arrays[OWN[name]]
            out[name] = array[bounds[first] : bounds[beyond]]
        else:
            out[name] = array[first:beyond]
    return out
