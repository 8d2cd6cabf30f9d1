"""Changes of an input by its structure: of JSON in a header, of arrays' values, shapes and types, of lengths, of text."""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

import numpy as np

from fuzz.checkpoint_mutators import change_checkpoints

__all__ = ["MUTATORS"]

NUMBERS = [
    0, 1, -1, 2, 3, 64, 127, 255, 1024, 2**16, 2**31 - 1, 2**31, 2**40, 2**63 - 1, 2**63, 10**30, -(2**31), 0.5, 1e-300, 1e300,
    1e-9, float("nan"), float("inf"), float("-inf"),
]  # fmt: skip
VALUES = [
    *NUMBERS, None, True, False, "", "x", "0", "float64", "float32", "gaussian", "structured", "grid", "tree", "eager", "dense",
    "scan", [], {}, [1], [[1]], "\u0000", "a\nb", "../outside.npz", "@OUTSIDE@", "tables/link.npz", "model.kron", "é",
]  # fmt: skip
KINDS = [
    "Dense", "Sparse", "OneHot", "Kernel", "RBF", "Tanimoto", "Bag", "ItemSums", "LowRank", "Patches", "Spectrum",
    "Categories", "Weighted", "Derived", "SpanLeaf", "VectorKernel", "Leaf", "Product", "Sum", "Power", "Constant",
]  # fmt: skip
DTYPES = ["F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "U16", "U32", "U64", "BOOL", "BF16"]
NUMPY = ["<f8", ">f8", "<f4", "<f2", "<i8", ">i8", "<i4", "<u8", "|u1", "|b1", "<U3", "|S3", "|O", "<c16", "<M8[s]", "|V8"]
PIECES = [
    "a", "b", "c", "(", ")", "+", "*", "**", "1", "2", "64", "0.5", "1e200", "1e308", " ", "-", "a ** 64", "(a + 1) ** 9", "((",
    "1" * 400, ".", "e", "_", "\n", "#", "'", "lambda", "[a]", "a.b", "a()", "1e-300 *", "é", "\x00",
]  # fmt: skip
TOML = [
    "[tables.a]\n", "[pairs]\n", "[model]\n", "[search]\n", "[data]\n", "[features]\n", "[validation]\n", "[ensemble]\n",
    "file = 'x'\n", "kind = 'dense'\n", "n_hidden = 8\n", "expression = 'a'\n", "= 1\n", "[[tables]]\n", "a = ", "'", '"', "[",
    "{", "1979-05-27", "1e999", "nan", "0x" + "f" * 40, "[" * 99, "\\u0000", "loss = ['a']\n", "a.b.c = 1\n", '"" = 1\n',
]  # fmt: skip
CSV = ["a,b,y,w\n", "a,1,2.5,1\n", ",", "\n", '"', "nan", "1e999", "-1", "\x00", "7.0", "7", "\r", ";", "1" * 50, "é", "\t"]


def _bytes(data: bytes, rng: random.Random) -> bytes:
    """A few bytes changed, inserted, removed, or the end cut off."""
    out = bytearray(data)
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, kind = rng.randrange(len(out) + 1), rng.randrange(5)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and at < len(out):
            out[at] = rng.choice([0, 1, 127, 128, 255, rng.randrange(256)])
        elif kind == 2:
            out[at:at] = rng.randbytes(rng.choice([1, 2, 8]))
        elif kind == 3:
            del out[at : at + rng.choice([1, 2, 8, 64])]
        else:
            del out[at:]
    return bytes(out)


def _text(pieces: list[str]) -> Callable[[bytes, random.Random], bytes]:
    """Pieces of a language put into a text, parts of it removed or repeated."""

    def change(data: bytes, rng: random.Random) -> bytes:
        text = data.decode("utf-8", "replace")
        for _ in range(rng.choice([1, 1, 2, 5])):
            a, b = sorted(rng.randrange(len(text) + 1) for _ in range(2))
            kind = rng.randrange(5)
            if kind == 0:
                text = text[:a] + rng.choice(pieces) + text[a:]
            elif kind == 1:
                text = text[:a] + text[min(b, a + 9) :]
            elif kind == 2:
                text = text[:a] + text[a:b] * rng.choice([2, 3]) + text[b:]
            elif kind == 3:
                text = f"({text})" + rng.choice(["** 2", "** 64", "* a", "+ 1", ""]) if "**" in pieces else text + text[a:b]
            else:
                text = text[:a] + str(rng.choice(NUMBERS)) + text[b:]
        return text.encode("utf-8", "replace")[: 1 << 14]

    return change


def _json(value: Any, rng: random.Random) -> Any:
    """One place in a tree changed: another value, removed, repeated, wrapped deeper, or moved to where another was."""
    places: list[tuple[Any, Any]] = []

    def visit(node: Any) -> None:
        items = list(node.items()) if isinstance(node, dict) else list(enumerate(node)) if isinstance(node, list) else []
        for key, child in items:
            places.append((node, key))
            visit(child)

    visit(value)
    if not places:
        return rng.choice(VALUES)
    node, key = rng.choice(places)
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1:
        other, its = rng.choice(places)
        node[key] = json.loads(json.dumps(other[its])) if its in other else 0
    elif kind == 2 and isinstance(node, list):
        node.extend([node[key]] * rng.choice([1, 2, 50]))
    elif kind == 3 and isinstance(node[key], dict):
        for _ in range(rng.choice([1, 3, 9, 400])):
            kind_of, exponent = rng.choice(["Power", "Sum", "Product"]), rng.choice([1, 2, 64])
            node[key] = {"kind": kind_of, "children": [node[key]], "parameter": exponent}
    elif kind == 4 and key == "kind":
        node[key] = rng.choice(KINDS)
    else:
        node[key] = rng.choice(VALUES)
    return value


def _safetensors(data: bytes, rng: random.Random) -> bytes:
    """A model file: its description, an array, or the header that places the arrays."""
    try:
        size = struct.unpack("<Q", data[:8])[0]
        header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            header = _change_model(header, body, rng)
        text = json.dumps(header).encode()
    except Exception:  # not a whole file any more
        return _bytes(data, rng)
    return struct.pack("<Q", len(text)) + text + bytes(body)


def _change_model(header: dict[str, Any], body: bytearray, rng: random.Random) -> dict[str, Any]:
    names = [name for name in header if name != "__metadata__"]
    kind = rng.randrange(11)
    if kind == 10:
        header = _nested(header, rng)
    elif kind < 5:
        meta = _json(json.loads(header["__metadata__"]["kronsgd"]), rng)
        header["__metadata__"]["kronsgd"] = json.dumps(meta)
    elif kind < 8:
        entry = header[rng.choice(names)]
        _change_numbers(body, *entry["data_offsets"], entry["dtype"], rng)
    elif kind == 8:
        entry = header[rng.choice(names)]
        width = {"4": 4, "6": 2, "2": 4, "8": 1}.get(entry["dtype"][-1], 1)
        entry["dtype"] = rng.choice([d for d in DTYPES if rng.random() < 0.3 or d[1:] == entry["dtype"][1:]] or DTYPES)
        count = (entry["data_offsets"][1] - entry["data_offsets"][0]) // max(width, 1)
        if rng.random() < 0.5:
            entry["shape"] = rng.choice([[count], [1, count], [count, 1], [0, 2**40], [], [1, 1, count]])
    else:
        a, b = rng.choice(names), rng.choice(names)
        header[a], header[b] = header[b], header[a]
    return header


def _nested(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The features inside other nodes, and their arrays' names with them."""
    meta, levels = json.loads(header["__metadata__"]["kronsgd"]), rng.choice([1, 1, 2, 3, 50, 150, 250])
    kind, exponent = rng.choice(["Power", "Sum", "Product"]), rng.choice([1, 2, 3, 64])
    for tree in ("features", "basis"):
        for _ in range(levels):
            meta[tree] = {"kind": kind, "children": [meta[tree]], "parameter": exponent}
        for name in [name for name in header if name.split(".")[0] == tree]:
            header[tree + ".0" * levels + name.removeprefix(tree)] = header.pop(name)
    header["__metadata__"]["kronsgd"] = json.dumps(meta)
    return header


def _change_numbers(body: bytearray, start: int, end: int, dtype: str, rng: random.Random) -> None:
    """One number, or all, of an array in place."""
    code = {"F64": "<f8", "F32": "<f4", "I64": "<i8", "I32": "<i4"}.get(dtype)
    if code is None or end <= start:
        return
    array = np.frombuffer(bytes(body[start:end]), code).copy()
    with np.errstate(all="ignore"):
        place = slice(None) if rng.random() < 0.1 else rng.randrange(len(array))
        near = [int(array[place]) + d for d in (-1, 1)] if isinstance(place, int) and code[1] == "i" else []
        value = rng.choice([*NUMBERS, *near * 12])
        if code[1] == "i":
            value = int(min(max(value if value == value else 0, np.iinfo(code).min), np.iinfo(code).max))
        array[place] = value
    body[start:end] = array.tobytes()


def _npy(data: bytes, rng: random.Random) -> bytes:
    """The header of an .npy file, or its bytes."""
    if rng.random() < 0.5 or not data.startswith(b"\x93NUMPY") or len(data) < 10:
        return _bytes(data, rng)
    size = struct.unpack("<H", data[8:10])[0]
    shape = rng.choice(["(3,)", "(3, 2)", "(1000000000,)", "(2, 100000, 100000)", "(0, 5)", "()", "(-1,)", "(True,)", "(6, 1)"])
    order = rng.choice(["False", "True", "0"])
    text = f"{{'descr': '{rng.choice(NUMPY)}', 'fortran_order': {order}, 'shape': {shape}, }}\n".encode()
    return data[:8] + struct.pack("<H", len(text)) + text + data[10 + size :]


def _archive(data: bytes, rng: random.Random) -> bytes:
    """A member of a zip, by what it holds, or the archive's own bytes."""
    if rng.random() < 0.3:
        return _bytes(data, rng)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        name = rng.choice(list(members))
        if rng.random() < 0.1:
            members[rng.choice(list(members))] = members.pop(name)
        else:
            members[name] = _member(name, members[name], rng)
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w", rng.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as archive:
            for name, content in members.items():
                archive.writestr(name, content)
        return out.getvalue()
    except Exception:  # not a whole archive any more
        return _bytes(data, rng)


def _member(name: str, content: bytes, rng: random.Random) -> bytes:
    if name.endswith(".json") and rng.random() < 0.9:
        return json.dumps(_json(json.loads(content), rng)).encode()
    if name.endswith(".kron"):
        return _safetensors(content, rng)
    return _archive(content, rng) if name.endswith(".npz") else _npy(content, rng)


def _table(data: bytes, rng: random.Random) -> bytes:
    head, _, content = data.partition(b"\n")
    suffix, _, kind = head.partition(b" ")
    if rng.random() < 0.2:
        kinds = [b"dense", b"sparse", b"onehot", b"kernel", b"rbf", b"tanimoto", b"spectrum", b"categories", b"patches", b"bag"]
        kind = rng.choice(kinds)
    change = {b"npy": _npy, b"npz": _archive, b"csv": _text(CSV), b"txt": _text(CSV)}.get(suffix, _bytes)
    return suffix + b" " + kind + b"\n" + (change if rng.random() < 0.9 else _bytes)(content, rng)


def _checkpoint(data: bytes, rng: random.Random) -> bytes:
    """A folder of checkpoints."""
    return change_checkpoints(data, rng, _json, _bytes)


MUTATORS: dict[str, Callable[[bytes, random.Random], bytes]] = {
    "model": _safetensors, "run_folder": _archive, "table": _table, "pairs": _text(CSV), "config": _text(TOML),
    "expression": _text(PIECES), "checkpoint": _checkpoint,
}  # fmt: skip
