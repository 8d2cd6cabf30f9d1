"""Model files: one safetensors file of arrays with a JSON header and a digest of both. Loading never executes anything."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

__all__ = ["FORMAT", "read_model", "write_model"]

Array = NDArray[Any]
FORMAT = 1
KEY = "kronsgd"


def write_model(path: str | os.PathLike[str], arrays: Mapping[str, Array], meta: Mapping[str, Any]) -> None:
    """Write arrays and JSON, whole or not at all: aside first, flushed to disk, then renamed over `path`.

    meta: under any names but "format" and "digest".
    """
    path = Path(path)
    plain = {  # safetensors scrambles others
        name: np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")) for name, array in arrays.items()
    }
    header = json.loads(json.dumps({**meta, "format": FORMAT}, allow_nan=False, default=_plain))
    data = save(plain, metadata={KEY: json.dumps({**header, "digest": _digest(header, plain)})})
    handle, aside = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(aside, 0o666 & ~_umask())
        os.replace(aside, path)
    except BaseException as error:
        Path(aside).unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:  # a full disk names no file
            raise OSError(error.errno, os.strerror(error.errno), str(path)) from None
        raise


def read_model(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """(arrays, JSON) of a model file. FileNotFoundError, or ValueError for anything but a whole kronsgd model.

    A file that states no digest is read, too.
    """
    path = Path(path)
    if path.is_dir() and (path / "model.kron").is_file():
        raise ValueError(f"{path} is a folder; give the model file in it, {path / 'model.kron'}.")
    if not path.is_file():
        raise FileNotFoundError(f"no model file at {path}; give the path that was passed to save().")
    try:
        with safe_open(path, framework="numpy") as file:
            header = (file.metadata() or {}).get(KEY)
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, TypeError, ValueError, KeyError) as error:
        raise ValueError(
            f"{path} is not a whole kronsgd model ({error}); it may be truncated or of another kind: save the model again "
            "with model.save(path)."
        ) from None
    if header is None:
        raise ValueError(f"{path} holds arrays but no kronsgd model; give a file written by model.save(path).")
    try:
        meta = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the description inside {path} is not JSON ({error}); save the model again.") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        found = meta.get("format") if isinstance(meta, dict) else None
        raise ValueError(f"{path} has format {found!r}; this version of kronsgd reads format {FORMAT}: update kronsgd.")
    if _is_damaged(meta, arrays):
        raise ValueError(f"{path} is damaged: it holds other numbers than were saved; take a copy, or save the model again.")
    return arrays, meta


def _is_damaged(meta: dict[str, Any], arrays: Mapping[str, Array]) -> bool:
    """Whether the digest, which is taken out of `meta`, is of something else."""
    digest = meta.pop("digest", None)
    try:
        return digest is not None and digest != _digest(meta, arrays)
    except RecursionError:
        return True


def _digest(meta: Mapping[str, Any], arrays: Mapping[str, Array]) -> str:
    """Of the description, as JSON gives it back, and of all arrays. Cost: a second for a gigabyte or so."""
    out = blake2b(json.dumps(meta).encode(), digest_size=32)
    for name in sorted(arrays):
        array = arrays[name]
        out.update(f"{name} {array.dtype.str} {array.shape}".encode())
        out.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return out.hexdigest()


def _plain(value: Any) -> Any:
    """A NumPy scalar as a Python one, for JSON."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be written to a model file")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
