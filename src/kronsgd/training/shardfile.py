"""Arrays as one safetensors file, written and read once from end to end, with a digest on the way.

The safetensors package makes a copy of all arrays in memory before it writes, and no digest; a long run may not have room for
that. Its reader is used as it is.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open

__all__ = ["DIGEST", "flush_folder", "flush_to_disk", "open_regular", "read_shard", "write", "write_shard"]

Array = NDArray[Any]
CHUNK = 1 << 24  # bytes
DIGEST = 32  # bytes
KINDS = {"<f8": "F64", "<f4": "F32", "<i8": "I64", "<i4": "I32", "<u8": "U64", "<u2": "U16", "|b1": "BOOL", "|u1": "U8"}


def write_shard(path: Path, arrays: Mapping[str, Array]) -> tuple[int, str]:
    """Write a new file and flush it to the disk; returns (bytes, blake2b). OSError where the disk refuses."""
    header: dict[str, Any] = {}
    start, parts = 0, list[Any]()
    for name, array in arrays.items():
        kind = KINDS[array.dtype.newbyteorder("<").str]
        parts.append(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).reshape(-1).view(np.uint8))
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [start, start + array.nbytes]}
        start += array.nbytes
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # so that numbers lie at multiples of their size
    digest, size = blake2b(digest_size=DIGEST), 0
    with path.open("xb") as file:
        for part in (len(text).to_bytes(8, "little"), text, *parts):
            for first in range(0, len(part), CHUNK):
                chunk = memoryview(part)[first : first + CHUNK]
                digest.update(chunk)
                write(file, chunk)
                size += len(chunk)
        flush_to_disk(file)
    return size, digest.hexdigest()


def read_shard(path: Path, size: int, digest: str) -> dict[str, Array]:
    """The arrays of a file of this size and digest. ValueError for any other file; a link is not followed."""
    found = blake2b(digest_size=DIGEST)
    with open_regular(path) as file:
        if (own := os.fstat(file.fileno()).st_size) != size:
            raise ValueError(f"{path.name} has {own:,} bytes instead of {size:,}")
        while chunk := file.read(CHUNK):
            found.update(chunk)
    if found.hexdigest() != digest:
        raise ValueError(f"{path.name} holds other bytes than were written")
    try:
        with safe_open(path, framework="numpy") as tensors:
            return {name: tensors.get_tensor(name) for name in tensors.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, TypeError, KeyError, AttributeError) as error:  # the last: of types that numpy lacks
        raise ValueError(f"{path.name} is no safetensors file ({error})") from None


def open_regular(path: Path) -> Any:
    """A plain file, opened to read. ValueError for anything else, be it a link or a pipe."""
    try:
        plain = stat.S_ISREG(path.lstat().st_mode)
    except OSError as error:
        raise ValueError(f"{path.name} cannot be read ({error.strerror})") from None
    if not plain:
        raise ValueError(f"{path.name} is not a plain file")
    return path.open("rb")


def write(file: Any, data: Any) -> None:
    """Every byte of a checkpoint goes through here."""
    file.write(data)


def flush_to_disk(file: Any) -> None:
    """Wait until the disk has what was written."""
    file.flush()
    os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Wait until the disk has a folder's names."""
    if os.name != "posix":  # folders cannot be opened there
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
