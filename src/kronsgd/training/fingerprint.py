"""Digests of large arrays, that tell whether data are the same."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

import numpy as np

from kronsgd.features.base import Features
from kronsgd.features.serialize import features_state
from kronsgd.parallel import map_threads

__all__ = ["fingerprint"]

CHUNK = 1 << 25  # bytes that one thread reads at a time; a constant, so that the digest does not depend on the machine


def fingerprint(*values: Any) -> str:
    """Of rows, targets and weights, each a feature expression, an array or None. Cost: one pass, a few chunks of memory."""
    return _text([_of(value) for value in values])


def _of(value: Any) -> Any:
    if isinstance(value, Features):
        arrays, tree = features_state(value)
        return {"tree": tree, "arrays": {name: _digest(array) for name, array in arrays.items()}}
    array = np.asarray(value)
    return _digest(np.atleast_1d(array.astype(str) if array.dtype == object else array))


def _text(value: Any) -> str:
    return blake2b(json.dumps(value, sort_keys=True, default=repr).encode(), digest_size=32).hexdigest()


def _digest(array: Any) -> str:
    """Of the values, the shape and the type. array: may be a table that stays in its file, read some rows at a time."""
    rows = max(1, CHUNK // max(1, array.nbytes // max(1, len(array))))

    def chunk(start: int) -> str:
        part: Any = np.ascontiguousarray(array[start : start + rows]).reshape(-1).view(np.uint8)
        return blake2b(memoryview(part), digest_size=32).hexdigest()

    return _text({"dtype": array.dtype.str, "shape": array.shape, "chunks": map_threads(chunk, range(0, len(array), rows))})
