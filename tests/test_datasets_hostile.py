"""Files that are damaged or hostile: refused with one sentence, and never executed."""

from __future__ import annotations

import contextlib
import io
import struct
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.datasets import FEATURES, sentence
from kronsgd.datasets import (
    UnknownNameError,
    read_table,
)
from kronsgd.datasets.files import read_npy, read_npz


def npy_bytes(header: str, data: bytes = b"") -> bytes:
    head = (header + "\n").encode("latin1")
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(head)) + head + data


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not an array", "no readable .npy header"),
        (b"\x93NUMPY", "no readable .npy header"),
        (npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (10**9,)}"), "no readable .npy header"),
        (npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (9999999999, 8)}", b"x" * 64), "can hold only"),
        (npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -8)}", b"x" * 64), "can hold only"),
        (npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (2, 4)}", b"x" * 63), "ends after 63 of 64"),
        (npy_bytes("{'descr': '<f8', 'fortran_order': False, 'shape': (0, 4)}"), "empty array"),
        (npy_bytes("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}", b"x" * 64), "Python objects never are"),
        (npy_bytes("{'descr': '<U0', 'fortran_order': False, 'shape': (9,)}"), "only arrays of numbers or text"),
        (npy_bytes("[" * 300, b"x" * 64), "no readable .npy header"),
    ],
)
def test_hostile_npy(tmp_path, content, message):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        read_npy(path)
    assert "x.npy" in sentence(info)
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("features.npy", content)
    with pytest.raises(ValueError, match=r"x\.npz"):
        read_npz(tmp_path / "x.npz")


def test_pickled_objects_are_never_loaded(tmp_path):
    class Bomb:
        def __reduce__(self):
            return pytest.fail, ("the pickle was executed",)

    for name, save in (("x.npy", np.save), ("x.npz", np.savez)):
        save(tmp_path / name, np.array([Bomb()], dtype=object), allow_pickle=True)
        with pytest.raises(ValueError, match="Python objects never are"):
            read_table(tmp_path / name)


@pytest.mark.parametrize("code", [0x110000, 0x7F000001, 0xD800])
@pytest.mark.parametrize("order", ["<", ">"])
def test_text_that_is_none(tmp_path, code, order):
    """NumPy makes a str of any number, and Python fails on it later."""
    data = b"".join(struct.pack(f"{order}I", c) for c in (97, code, 98, 99))
    head = f"{{'descr': '{order}U2', 'fortran_order': False, 'shape': (2,)}}"
    (tmp_path / "x.npy").write_bytes(npy_bytes(head, data))
    with pytest.raises(ValueError, match="holds what is no text") as info:
        read_table(tmp_path / "x.npy", "spectrum", k=1)
    sentence(info)
    (tmp_path / "x.npy").write_bytes(npy_bytes(head, data.replace(data[4:8], struct.pack(f"{order}I", 0x1F600))))
    assert read_npy(tmp_path / "x.npy").tolist() == ["a😀", "bc"]


def test_npz_that_is_cut_short_or_changed(tmp_path):
    path = tmp_path / "x.npz"
    np.savez(path, features=np.arange(64.0).reshape(8, 8))
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"not a readable \.npz archive") as info:
        read_table(path)
    sentence(info)
    middle = whole.index(struct.pack("<d", 33.0))
    path.write_bytes(whole[:middle] + b"\xff" + whole[middle + 1 :])
    with pytest.raises(ValueError, match="CRC"):
        read_table(path)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_changed_bytes_never_raise_anything_but_the_promised_errors(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("fuzz")
    kind = data.draw(st.sampled_from(["npy", "npz"]))
    buffer = io.BytesIO()
    if kind == "npy":
        np.save(buffer, FEATURES)
    else:
        np.savez_compressed(buffer, features=FEATURES, ids=["a", "b", "c"])
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = folder / f"x.{kind}"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    with contextlib.suppress(ValueError, TypeError, UnknownNameError):
        leaf, ids = read_table(path)
        assert np.isfinite(leaf.dense()).all()
        assert len(ids) == leaf.n_rows
