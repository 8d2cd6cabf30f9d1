"""Reading files that may be missing, cut short, or hostile.

No pickles; a size that a header claims is compared with what the file can hold before memory is taken for it; every
failure is one sentence that names the file.
"""

from __future__ import annotations

import gzip
import json
import math
import struct
import sys
import zipfile
import zlib
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.validation import check_finite, did_you_mean

__all__ = [
    "UnknownNameError", "existing_file", "known_folder", "read_idx", "read_json", "read_matrix", "read_npy", "read_npz",
    "read_text",
]  # fmt: skip

Array = NDArray[Any]
PathOrStr = str | PathLike[str]
CHUNK = 1 << 20  # bytes taken at a time from a compressed stream
MAX_RATIO = 1032  # deflate cannot expand a byte into more than this


class UnknownNameError(KeyError):
    """A KeyError whose text is its message, not the message's repr."""

    def __str__(self) -> str:
        return str(self.args[0])


def known_folder(path: PathOrStr, what: str) -> Path:
    """`path` as the Path of a folder that should hold `what`; FileNotFoundError otherwise."""
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that holds {what}.")
    return folder


def existing_file(path: PathOrStr) -> Path:
    """`path` as the Path of a non-empty file; FileNotFoundError or ValueError otherwise."""
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the path of a file in it.")
    if not path.exists():
        parent = path.parent
        near = did_you_mean(path.name, (p.name for p in islice(parent.iterdir(), 1000))) if parent.is_dir() else ""
        where = "" if parent.is_dir() else f" (there is no folder {parent} either)"
        raise FileNotFoundError(f"{path} does not exist{where}; give the path of an existing file.{near}")
    if path.stat().st_size == 0:
        raise ValueError(f"{path} is empty; write or download it again.")
    return path


def damaged(path: Path, what: str) -> ValueError:
    """The error for a file that does not hold what its kind of file holds."""
    return ValueError(f"{path} {what}; the file is cut short or damaged: write or download it again.")


def first_line(error: BaseException) -> str:
    """An underlying error as part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip(".")


def read_text(path: PathOrStr) -> str:
    """The text of a UTF-8 file, without a byte order mark."""
    path = existing_file(path)
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise damaged(path, f"is not UTF-8 text (byte {error.start})") from error


def read_json(path: PathOrStr) -> Any:
    """The value in a JSON file."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise damaged(Path(path), f"is not JSON ({first_line(error)})") from error


def read_matrix(path: PathOrStr, shape: tuple[int, int] | None = None) -> Array:
    """Numbers separated by white space, a line for each row. Shape: as asked for, in float64."""
    path = existing_file(path)
    try:
        matrix = np.loadtxt(path, dtype=np.float64, ndmin=2, comments=None)
    except ValueError as error:
        raise damaged(path, f"is not a matrix of numbers ({first_line(error)})") from error
    if shape is not None and matrix.shape != shape:
        raise damaged(path, f"has shape {matrix.shape}, expected {shape}")
    check_finite(str(path), matrix)
    return matrix


def read_idx(path: PathOrStr, n_axes: int) -> NDArray[np.uint8]:
    """A gzipped idx file of bytes (the MNIST format: big-endian sizes, then the values). Shape: as in its header."""
    path = existing_file(path)
    try:
        with gzip.open(path) as stream:
            head = stream.read(4 + 4 * n_axes)
            if len(head) < 4 + 4 * n_axes or head[:4] != bytes([0, 0, 8, n_axes]):
                raise damaged(path, f"is not an idx file of bytes with {n_axes} axes")
            shape = struct.unpack(f">{n_axes}I", head[4:])
            count, data = math.prod(shape), bytearray()
            while len(data) <= count and (chunk := stream.read(min(CHUNK, count + 1 - len(data)))):
                data += chunk  # grows with what is there, not with what the header claims
    except (OSError, EOFError, zlib.error) as error:
        raise damaged(path, f"cannot be unzipped ({first_line(error)})") from error
    if len(data) != count or count == 0:
        there = "more" if len(data) > count else f"{len(data):,}"
        raise damaged(path, f"claims {count:,} values in its header but holds {there}")
    return np.frombuffer(bytes(data), dtype=np.uint8).reshape(shape)


def read_npy(path: PathOrStr, mapped: bool = False) -> Array:
    """The array in an .npy file: numbers or text, never Python objects. mapped: it stays in the file, and is read when used."""
    path = existing_file(path)
    with path.open("rb") as stream:
        shape, fortran, dtype = _checked_header(stream, path.stat().st_size, path, "")
        if not mapped or dtype.kind == "U":  # text is looked through
            stream.seek(0)
            return _read_array(stream, path.stat().st_size, path, "")
        if math.prod(shape) * dtype.itemsize > path.stat().st_size - stream.tell():
            raise damaged(path, f"ends after {path.stat().st_size:,} bytes")
        return np.memmap(path, dtype, "r", stream.tell(), shape, "F" if fortran else "C")


def read_npz(path: PathOrStr) -> dict[str, Array]:
    """The arrays in an .npz file by name: numbers or text, never Python objects."""
    path = existing_file(path)
    arrays = {}
    try:
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(member.compress_size for member in members) > path.stat().st_size:
                raise damaged(path, "claims more compressed bytes than it has")
            for member in members:
                name = member.filename.removesuffix(".npy")
                if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                    raise damaged(path, f"stores {name!r} with a compression that numpy does not write")
                limit = min(member.file_size, MAX_RATIO * member.compress_size)
                with archive.open(member) as stream:
                    arrays[name] = _read_array(stream, limit, path, f" in {name!r}")
                    stream.read(1)  # reaching the end is what checks the checksum
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise damaged(path, f"is not a readable .npz archive ({first_line(error)})") from error
    if not arrays:
        raise ValueError(f"{path} holds no arrays; write it again with numpy.savez(path, features=..., ids=...).")
    return arrays


def _read_array(stream: IO[bytes], n_bytes: int, path: Path, where: str) -> Array:
    """One array in the .npy format from a stream that can hold at most `n_bytes`."""
    shape, fortran, dtype = _checked_header(stream, n_bytes, path, where)
    size = math.prod(shape) * dtype.itemsize
    data = stream.read(size)
    if len(data) != size:
        raise damaged(path, f"ends after {len(data):,} of {size:,} bytes{where}")
    if dtype.kind == "U":
        codes = np.frombuffer(data, dtype=f"{dtype.str[0]}u4")
        if ((codes > sys.maxunicode) | ((codes >= 0xD800) & (codes < 0xE000))).any():  # Python makes text of it and then fails
            raise damaged(path, f"holds what is no text{where}")
    return np.frombuffer(data, dtype=dtype).reshape(shape, order="F" if fortran else "C")


def _checked_header(stream: IO[bytes], n_bytes: int, path: Path, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype) of an array that fits into `n_bytes`; ValueError for any other."""
    shape, fortran, dtype = _read_header(stream, path, where)
    if dtype.kind not in "fiubUS" or dtype.itemsize == 0:
        raise ValueError(
            f"{path}{where} holds {dtype}; only arrays of numbers or text are read, and Python objects never are: save "
            "it again with a plain dtype, for example .astype(float) or .astype(str)."
        )
    size = math.prod(shape) * dtype.itemsize
    if min(shape, default=1) < 0 or size > n_bytes:
        raise damaged(path, f"claims {shape} values of {dtype}{where}, {size:,} bytes, but can hold only {n_bytes:,}")
    if size == 0:
        raise ValueError(f"{path}{where} holds an empty array of shape {shape}; at least one value is needed.")
    return shape, fortran, dtype


def _read_header(stream: IO[bytes], path: Path, where: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """(shape, Fortran order, dtype)."""
    try:
        version = np.lib.format.read_magic(stream)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except (OSError, zipfile.BadZipFile, zlib.error):
        raise  # the archive's own error says more
    except Exception as error:  # on arbitrary bytes numpy's parser raises errors of many kinds
        raise damaged(path, f"has no readable .npy header{where} ({first_line(error)})") from error
    return shape, bool(fortran), dtype
