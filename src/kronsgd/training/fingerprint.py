"""Digests of large arrays, that tell whether data are the same."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.serialize import features_state
from kronsgd.parallel import map_threads

__all__ = ["fingerprint"]

Array = NDArray[Any]
CHUNK = 1 << 25  # bytes that one thread reads at a time; a constant, so that the digest does not depend on the machine


def fingerprint(features: Features, **others: Array) -> str:
    """Of rows and of arrays that belong to them. Cost: one pass over their memory."""
    arrays, tree = features_state(features)
    parts = {name: _digest(array) for name, array in {**arrays, **others}.items()}
    return _text({"tree": tree, "arrays": parts})


def _text(value: Mapping[str, Any]) -> str:
    return blake2b(json.dumps(value, sort_keys=True, default=repr).encode(), digest_size=32).hexdigest()


def _digest(array: Array) -> str:
    """Of the values, the shape and the type."""
    flat: Any = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    memory = memoryview(flat)
    chunks = map_threads(
        lambda start: blake2b(memory[start : start + CHUNK], digest_size=32).hexdigest(), range(0, len(memory), CHUNK)
    )
    return _text({"dtype": array.dtype.str, "shape": array.shape, "chunks": chunks})
