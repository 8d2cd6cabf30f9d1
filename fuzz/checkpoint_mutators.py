"""Changes of a folder of checkpoints by its structure: what files say, how long they are, which there are, what they are."""

from __future__ import annotations

import io
import json
import math
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz.checkpoints import CASES, FOLDER, LINK, PIPE

__all__ = ["change_checkpoints"]

Change = Callable[[bytes, random.Random], bytes]
Entry = tuple[str, list[int], bytes]  # dtype, shape, bytes
CODES = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}
WHOLE = [0, 1, -1, 2, 7, 63, 64, 65, 4096, 10**6, 2**31, -(2**31), 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 10**12]
REAL = [0.0, -0.0, 0.5, -1.0, 1e-300, 1e30, 1e300, -1e300, math.nan, math.inf, -math.inf]
NUMBERS = [*WHOLE, 10**300, 10**400, 0.5, 1e-300, 1e300]
WORDS = ["x", "a\nb", "../../x", "/etc/passwd", "MAX_ITER", "EARLY_STOPPING", "DIVERGED", "INTERRUPTED", "PARTIAL", "scan",
         "grid", "tree", "torch", "auto", "\ud800", "n" * 9000, "NaN", "step-000000000004"]  # fmt: skip
KEYS = ["state.rows", "state.indptr", "kept.rows", "kept.indptr", "state.strip", "state.path", "kept.sides", "x", "../x", "é",
        "loss", "validation_loss", "a\nb", ""]  # fmt: skip


def change_checkpoints(data: bytes, rng: random.Random, change_json: Any, change_bytes: Change) -> bytes:
    """A few changes of the files in a zip."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            files = {name: archive.read(name) for name in archive.namelist()}
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            _change(files, rng, change_json, change_bytes)
    except Exception:  # not a whole zip any more
        return change_bytes(data, rng)
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _change(files: dict[str, bytes], rng: random.Random, change_json: Any, change_bytes: Change) -> None:
    name = rng.choice([*sorted(files)[-3:], *files])  # rather of the newest
    kind = rng.random()
    if kind < 0.08:
        _folder(files, name, rng)
    elif name == "case":
        if kind < 0.2:
            files[name] = rng.choice(list(CASES)).encode()
    elif kind < 0.13:
        files[name] = change_bytes(files[name], rng)
    elif name.endswith(".json"):
        files[name] = _description(files[name], rng, change_json)
    elif name.endswith(".kron"):
        files[name] = _shard(files[name], rng)


def _folder(files: dict[str, bytes], name: str, rng: random.Random) -> None:
    """Which files there are, and of what kind."""
    step = f"{rng.choice(['', '', '.'])}step-{rng.choice([0, 4, 8, 9, 99, 10**12 - 1]):012d}{rng.choice(['', '-end'])}"
    kind = rng.randrange(5)
    if kind == 0:
        files.pop(name)
    elif kind == 1 and "/" in name:
        files[f"{step}/{name.split('/')[1]}"] = files[name]
    elif kind == 2 and "/" in name:
        own = name.split("/")[0]
        for old in [old for old in files if old.startswith(own + "/")]:
            files[step + old.removeprefix(own)] = files.pop(old)
    elif kind == 3 and name != "case":
        files[name] = rng.choice([LINK, LINK + b"/", PIPE, FOLDER, b""])
    else:
        files[rng.choice([".lock", step])] = rng.choice([LINK, LINK + b"/", PIPE, FOLDER])


def _description(text: bytes, rng: random.Random, change_json: Any) -> bytes:
    meta = json.loads(text)
    places = [(node, key) for node, key in _places(meta) if type(node[key]) in (int, float)]
    kind = rng.randrange(9)
    if kind < 4 and places:
        node, key = rng.choice(places)
        node[key] = rng.choice([*NUMBERS, *[node[key] + d for d in (-1, 1, 3)], node[key] * 1000, -node[key]])
    elif kind == 4:
        node, key = rng.choice(_places(meta))
        node[key] = rng.choice(WORDS)
    elif kind == 5:
        node, key = rng.choice(_places(meta))
        node[key] = json.loads("[" * (depth := rng.choice([3, 50, rng.randrange(600, 1100)])) + "]" * depth)
    elif kind == 6:
        node, _ = rng.choice([place for place in _places(meta) if isinstance(place[0], dict)])
        node[rng.choice([*KEYS, *WORDS])] = rng.choice([*NUMBERS, *WORDS, None, [], {}])
    elif kind == 7 and isinstance(meta.get("shards"), list):
        meta["shards"] = rng.choice([meta["shards"] * 2, meta["shards"][:-1], [*meta["shards"], [0, "0" * 64]]])
    else:
        meta = change_json(meta, rng)
    return json.dumps(meta).encode("utf-8", "surrogatepass")


def _places(node: Any) -> list[tuple[Any, Any]]:
    items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
    return [(node, key) for key, _ in items] + [place for _, child in items for place in _places(child)]


def _shard(data: bytes, rng: random.Random) -> bytes:
    """An array's numbers, length, type, shape or name; the header is that of what comes out."""
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    arrays = {name: (e["dtype"], e["shape"], body[slice(*e["data_offsets"])]) for name, e in header.items()}
    for _ in range(rng.choice([1, 1, 2, 4])):
        _change_array(arrays, rng)
    header, start = {}, 0
    for name, (dtype, shape, content) in arrays.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, start + len(content)]}
        start += len(content)
    if rng.random() < 0.05:
        field = rng.choice(["dtype", "shape", "data_offsets"])
        header[rng.choice(list(header))][field] = rng.choice(["F8_E4M3", "BF16", [2**60], [0, 1], 7])
    text = json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(text)) + text + b"".join(content for _, _, content in arrays.values())


def _change_array(arrays: dict[str, Entry], rng: random.Random) -> None:
    name, kind = rng.choice(list(arrays)), rng.randrange(10)
    dtype, shape, content = arrays[name]
    array = np.frombuffer(content, CODES.get(dtype, "|u1")).copy()
    if kind < 5 and array.size:
        arrays[name] = dtype, shape, _numbers(array, rng).tobytes()
    elif kind == 5:
        row = array.itemsize * max(math.prod(shape[1:]), 1) if shape else array.itemsize
        n = max(len(content) // row + rng.choice([-1, 1, -(len(content) // row), 8, 40]), 0)
        content = (content * (1 + n * row // max(len(content), 1)) + bytes(n * row))[: n * row]
        arrays[name] = dtype, [n, *shape[1:]], content
    elif kind == 6:
        other = rng.choice(list(CODES))
        with np.errstate(all="ignore"):
            arrays[name] = other, shape, array.astype(CODES[other]).tobytes()
    elif kind == 7:
        n = len(content) // array.itemsize
        arrays[name] = dtype, rng.choice([[n], [1, n], [n, 1], [], [n, 1, 1], [0, 2**40], [*shape, 1], shape[::-1]]), content
    elif kind == 8:
        del arrays[name]
    else:
        rest = name.partition(".")[2]
        arrays[rng.choice([*KEYS, f"kept.{rest}", f"state.{rest}", *arrays])] = arrays[name]


def _numbers(array: Any, rng: random.Random) -> Any:
    """One number, or all, of an array."""
    place = slice(None) if rng.random() < 0.1 else rng.randrange(len(array))
    if array.dtype.kind == "f":
        with np.errstate(all="ignore"):
            array[place] = -array[place] if rng.random() < 0.2 else rng.choice(REAL)
    elif array.dtype.kind == "b":
        array[place] = not np.any(array[place])
    else:
        near = isinstance(place, int) and rng.random() < 0.6
        value, most = (int(array[place]) + rng.choice([-2, -1, 1, 2]) if near else rng.choice(WHOLE)), np.iinfo(array.dtype)
        array[place] = min(max(value, most.min), most.max)
    return array
