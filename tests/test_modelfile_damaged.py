"""Files that are no whole model are refused with one sentence."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import save_file

from helpers.modelfile import KINDS, fitted, table_of
from kronsgd import (
    load,
    modelfile,
)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Bytes of one model file with every kind of leaf in it."""
    i = np.random.default_rng(0).integers(0, 10, 20)
    leaves = [table_of(kind)[0][i] for kind in KINDS]
    features = leaves[0] * leaves[1] * leaves[2] + leaves[3] * leaves[4] + leaves[5] * leaves[6] + 0.5
    path = tmp_path_factory.mktemp("saved") / "model.kron"
    model, _ = fitted(features=features, n_hidden=6)
    model.save(path)
    return path


def assert_refused(path):
    """A ValueError of one sentence that names the file, and no other exception."""
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the text is looked at below)
        load(path)
    text = str(error.value)
    assert str(path) in text
    assert "\n" not in text
    assert text.endswith(".")
    assert "Traceback" not in text


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="no model file"):
        load(tmp_path / "nothing")
    with pytest.raises(FileNotFoundError, match="no model file"):
        load(tmp_path)


def test_truncated(saved, tmp_path):
    data = saved.read_bytes()
    path = tmp_path / "m"
    lengths = np.linspace(0, len(data) - 1, 60).astype(int).tolist()
    for length in sorted({0, 1, 7, 8, 9, 100, len(data) - 1, *lengths}):
        path.write_bytes(data[:length])
        assert_refused(path)
    path.write_bytes(data + b"\0")
    assert_refused(path)


def test_other_files(tmp_path):
    path = tmp_path / "m"
    contents = {
        "text": b"hello world, this is no model", "pickle": pickle.dumps({"a": np.ones(3)}),
        "zip": b"PK\3\4" + bytes(99), "zeros": bytes(1000), "ones": b"\xff" * 1000,
    }  # fmt: skip
    for data in contents.values():
        path.write_bytes(data)
        assert_refused(path)
    np.save(tmp_path / "m.npy", np.ones(3))
    assert_refused(tmp_path / "m.npy")
    save_file({"a": np.ones(3)}, path)
    with pytest.raises(ValueError, match="no kronsgd model"):
        load(path)


class Bomb:
    def __reduce__(self):
        return os.mkdir, (str(Path(self.path)),)


def test_pickle_is_not_executed(tmp_path):
    bomb = Bomb()
    bomb.path = tmp_path / "exploded"
    (tmp_path / "m").write_bytes(pickle.dumps(bomb))
    assert_refused(tmp_path / "m")
    assert not (tmp_path / "exploded").exists()


def header_end(data):
    return 8 + int.from_bytes(data[:8], "little")


def load_or_refuse(path):
    """Bytes that still spell a consistent model may load; it must then predict. Everything else: ValueError."""
    try:
        model = load(path)
        model.predict(model.features_[:3])
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.data())
def test_flipped_header_bytes(saved, tmp_path_factory, data):
    content = bytearray(saved.read_bytes())
    position = data.draw(st.integers(0, header_end(content) - 1))
    content[position] ^= 1 << data.draw(st.integers(0, 7))
    path = tmp_path_factory.getbasetemp() / "flipped"
    path.write_bytes(bytes(content))
    load_or_refuse(path)


def test_a_flipped_bit_in_the_numbers_is_seen(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "m"
    for position in np.linspace(header_end(content), len(content) - 1, 60).astype(int):
        path.write_bytes(content[:position] + bytes([content[position] ^ 16]) + content[position + 1 :])
        with pytest.raises(ValueError, match="m is damaged: it holds other numbers than were saved; take a copy"):
            load(path)


@pytest.mark.parametrize("change", [
    lambda arrays: arrays | {"a": arrays["b"], "b": arrays["a"]},
    lambda arrays: arrays | {"a": arrays["a"].reshape(3, 2)},
    lambda arrays: arrays | {"a": arrays["a"].view("f4")},
])  # fmt: skip
def test_arrays_that_changed_places_are_seen(change, tmp_path):
    path = tmp_path / "m"
    modelfile.write_model(path, {"a": np.arange(6, dtype="i4").reshape(2, 3), "b": np.ones((2, 3), "i4")}, {"é": [1, 1e-320]})
    with safe_open(path, framework="numpy") as file:
        arrays, header = {name: file.get_tensor(name) for name in ("a", "b")}, file.metadata()
    save_file(arrays, path, metadata=header)
    assert modelfile.read_model(path)[1] == {"é": [1, 1e-320], "format": 1}
    save_file(change(arrays), path, metadata=header)
    with pytest.raises(ValueError, match="is damaged"):
        modelfile.read_model(path)
    save_file(arrays, path, metadata={modelfile.KEY: header[modelfile.KEY].replace('"format": 1', '"format": 2')})
    with pytest.raises(ValueError, match="update kronsgd"):  # its digest may be another one
        modelfile.read_model(path)


def test_a_description_nested_up_to_the_limit_is_refused(tmp_path):
    path = tmp_path / "m"
    for depth in range(700, 1000):  # some can just be read, and not be written again
        text = '{"format": 1, "digest": "x", "a": ' + "[" * depth + "]" * depth + "}"
        save_file({"a": np.ones(1)}, path, metadata={modelfile.KEY: text})
        with pytest.raises(ValueError, match=r"is damaged|is not JSON"):
            modelfile.read_model(path)


def test_what_is_written_can_be_read_in_any_byte_order(tmp_path):
    numbers = np.arange(6).reshape(2, 3)
    modelfile.write_model(tmp_path / "m", {"a": numbers.astype(">f8"), "b": numbers.astype(">i4").T}, {"x": {1: 2, "1": 3}})
    arrays, meta = modelfile.read_model(tmp_path / "m")
    np.testing.assert_array_equal(arrays["a"], numbers)
    np.testing.assert_array_equal(arrays["b"], numbers.T)
    assert meta["x"] == {"1": 3}


def test_a_description_that_was_edited_is_seen(saved, tmp_path):
    content, path = saved.read_bytes(), tmp_path / "m"
    text = b'\\"max_iter\\": '
    place = content.index(text) + len(text)
    path.write_bytes(content[:place] + (b"7" if content[place] != ord("7") else b"8") + content[place + 1 :])
    with pytest.raises(ValueError, match="is damaged"):
        load(path)


def rewritten(saved, path, change_arrays=None, change_meta=None):
    """The same file with some arrays or parts of the description changed."""
    arrays, meta = modelfile.read_model(saved)
    if change_arrays is not None:
        change_arrays(arrays)
    if change_meta is not None:
        change_meta(meta)
    text = json.dumps(meta)
    save_file({k: np.ascontiguousarray(v) for k, v in arrays.items()}, path, metadata={modelfile.KEY: text})
    return path


def test_rewritten_unchanged_loads(saved, tmp_path):
    rows = load(saved).features_
    assert np.array_equal(load(rewritten(saved, tmp_path / "m")).predict(rows), load(saved).predict(rows))


def test_missing_arrays(saved, tmp_path):
    for name in modelfile.read_model(saved)[0]:
        if name.endswith(".index") and name.startswith("features"):
            continue  # a leaf without an index has its entities as rows
        path = rewritten(saved, tmp_path / "m", lambda arrays, name=name: arrays.pop(name))
        assert_refused_or_equal(path, name)


def assert_refused_or_equal(path, name):
    if name.startswith("basis") and name.endswith(".index"):  # a basis needs the entities only
        load_or_refuse(path)
    else:
        assert_refused(path)


def names_of(saved, end):
    return [name for name in modelfile.read_model(saved)[0] if name.endswith(end)]


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        (".index", "a row index"), (".indices", "columns of a sparse table"), (".indptr", "rows of a sparse table"),
        (".codes", "entities of a kernel"), ("state.rows", "rows of coefficients"), ("state.indptr", "lists"),
        ("state.tail_rows", "rows in tails"), ("state.tail_len", "lengths of tails"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("value", [-1, 10**6])
def test_indices_out_of_range(saved, end, kind, value, tmp_path):
    found = [name for name in names_of(saved, end) if name.startswith(("features", "state"))]
    assert found, kind
    for name in found:

        def change(arrays, name=name):
            arrays[name] = arrays[name].copy()
            arrays[name].flat[-1] = value

        if not modelfile.read_model(saved)[0][name].size:
            continue
        assert_refused(rewritten(saved, tmp_path / "m", change))


@pytest.mark.parametrize("end", [".index", ".codes", ".indices", "state.rows", "state.indptr"])
def test_indices_that_are_not_whole_numbers(saved, end, tmp_path):
    for name in names_of(saved, end):
        if name.startswith("basis"):
            continue

        def change(arrays, name=name):
            arrays[name] = arrays[name].astype(np.float64) + 0.5

        assert_refused(rewritten(saved, tmp_path / "m", change))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_arrays_that_are_not_finite(saved, value, tmp_path):
    for name, array in modelfile.read_model(saved)[0].items():
        if array.dtype.kind != "f" or not array.size:
            continue

        def change(arrays, name=name):
            arrays[name] = arrays[name].copy()
            arrays[name].flat[0] = value

        assert_refused(rewritten(saved, tmp_path / "m", change))


def test_arrays_of_another_shape(saved, tmp_path):
    for name, array in modelfile.read_model(saved)[0].items():
        if name.startswith("basis") or array.size < 2:
            continue
        for shorter in (array.reshape(-1)[:-1], array[None]):
            path = rewritten(saved, tmp_path / "m", lambda arrays, n=name, a=shorter: arrays.update({n: a}))
            assert_refused(path)


DESCRIPTIONS = {
    "another format": lambda m: m.update(format=2),
    "no format": lambda m: m.pop("format"),
    "an unknown class": lambda m: m.update({"class": "Evil"}),
    "an unknown engine": lambda m: m.update(engine="hash"),
    "an unknown parameter": lambda m: m["params"].update(n_hiden=3),
    "an unknown leaf": lambda m: m["features"]["children"][0].update(kind="Mystery"),
    "a leaf that is not a leaf": lambda m: m["features"].update(kind="Leaf"),
    "no features": lambda m: m.pop("features"),
    "features as text": lambda m: m.update(features="A * B"),
    "no children": lambda m: m["features"].update(children=[]),
    "another number of neurons": lambda m: m["network"].update(n_hidden=8),
    "a huge number of neurons": lambda m: m["network"].update(n_hidden=10**15),
    "a huge number of outputs": lambda m: m["network"].update(n_outputs=10**15),
    "no outputs": lambda m: m["network"].update(n_outputs=0),
    "outputs as text": lambda m: m["network"].update(n_outputs="1"),
    "a negative seed": lambda m: m["network"].update(seed=-1),
    "a threshold that is not a number": lambda m: m["network"].update(threshold=float("nan")),
    "an unknown start": lambda m: m["network"].update(init="zeros"),
    "an unknown precision": lambda m: m["network"].update(dtype="int8"),
    "an infinite count of epochs": lambda m: m.update(n_iter=float("inf")),
    "an unknown reason to stop": lambda m: m.update(stop_reason="BORED"),
    "a scale of NaN": lambda m: m["own"].update(y_scale=[float("nan")]),
    "two means": lambda m: m["own"].update(y_mean=[0.0, 1.0]),
    "a mean as text": lambda m: m["own"].update(y_mean=["x"]),
    "no own state": lambda m: m.pop("own"),
    "a step that is not a number": lambda m: m.update(learning_rate=float("nan")),
    "a history as a number": lambda m: m.update(history=3),
}


@pytest.mark.parametrize("name", DESCRIPTIONS)
def test_inconsistent_description(saved, name, tmp_path):
    assert_refused(rewritten(saved, tmp_path / "m", change_meta=DESCRIPTIONS[name]))


def test_description_of_another_kind(saved, tmp_path):
    arrays, _ = modelfile.read_model(saved)
    for text in ("", "not json", "[]", "3", "null", '{"format": 1}', "[" * 100_000):
        save_file(arrays, tmp_path / "m", metadata={modelfile.KEY: text})
        assert_refused(tmp_path / "m")


def test_format_number_is_explained(saved, tmp_path):
    path = rewritten(saved, tmp_path / "m", change_meta=lambda m: m.update(format=7))
    with pytest.raises(ValueError, match="has format 7; this version of kronsgd reads format 1: update kronsgd"):
        load(path)
