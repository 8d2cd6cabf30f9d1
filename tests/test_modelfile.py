"""Model files: what is loaded is what was saved, and anything else is refused with one sentence."""

from __future__ import annotations

import json
import os
import pickle
import stat
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from kronsgd import (
    RBF,
    Dense,
    Kernel,
    KronClassifier,
    KronRegressor,
    OneHot,
    Sparse,
    StopReason,
    Tanimoto,
    load,
    modelfile,
)
from kronsgd.parallel import threads

ENGINES = ["scan", "dense"]
OPTIONS = {
    "n_hidden": 20, "n_jobs": 1, "random_state": 0, "max_iter": 2, "batch_size": 8, "learning_rate_init": 5.0,
    "output_scale": 0.3,
}  # fmt: skip


def normal(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def positive_table(n):
    x = normal(n, n + 5)
    return x @ x.T


def kernel(n=10, n_new=4):
    table = positive_table(n + n_new)
    known = Kernel(table[:n, :n])
    return known, known.new_entities(table[n:, :n], np.diag(table)[n:])


def table_of(kind):
    """(entities to train on, entities that come after loading) of one kind of leaf."""
    rng = np.random.default_rng(1)
    return {
        "Dense": lambda: (Dense(normal(10, 4)), Dense(normal(4, 4, seed=1))),
        "Dense float32": lambda: (Dense(normal(10, 4, dtype="f4")), Dense(normal(4, 4, seed=1, dtype="f4"))),
        "Sparse": lambda: tuple(Sparse(sp.random(n, 40, 0.4, random_state=n)) for n in (10, 4)),
        "OneHot": lambda: (OneHot(np.arange(10), 14), OneHot(np.arange(10, 14), 14)),
        "Kernel": kernel,
        "RBF": lambda: (RBF(normal(10, 3), 0.4), RBF(normal(4, 3, seed=1), 0.4)),
        "Tanimoto": lambda: (
            Tanimoto(rng.integers(0, 2, (10, 9)).astype(float)), Tanimoto(rng.integers(0, 2, (4, 9)).astype(float)),
        ),
    }[kind]()  # fmt: skip


KINDS = ["Dense", "Dense float32", "Sparse", "OneHot", "Kernel", "RBF", "Tanimoto"]


def fitted(engine="scan", estimator=KronRegressor, features=None, **options):
    rng = np.random.default_rng(2)
    if features is None:
        features = (1 + Dense(normal(6, 3))[rng.integers(0, 6, 20)]) * OneHot(np.arange(5))[rng.integers(0, 5, 20)]
    y = rng.normal(size=features.n_rows)
    y = y if estimator is KronRegressor else np.array(["no", "yes", "maybe"])[np.arange(len(y)) % 3]
    return estimator(**{**OPTIONS, "engine": engine, **options}).fit(features, y), features


# What is loaded is what was saved ------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("kind", KINDS)
def test_round_trip_and_new_entities(kind, engine, tmp_path):
    table, later = table_of(kind)
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, 10, 30), rng.integers(0, 4, 30)
    partner = Dense(normal(4, 2, seed=5))
    model, features = fitted(engine, features=table[i] * partner[j] + table[i])
    path = tmp_path / "model.kron"
    model.save(path)
    loaded = load(path)
    new = later[[0, 3, 1, 1]] * partner[[0, 1, 2, 3]] + later[[0, 3, 1, 1]]
    for rows in (features, features[::-1], new):
        assert model.predict(rows).tobytes() == loaded.predict(rows).tobytes()
        assert (model.fired(rows) != loaded.fired(rows)).nnz == 0
    assert model.hidden_weights().tobytes() == loaded.hidden_weights().tobytes()
    assert repr(loaded.features_) == repr(model.features_)
    loaded.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == path.read_bytes()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("init", ["structured", "gaussian"])
def test_everything_that_a_model_says_survives(engine, init, tmp_path):
    model, features = fitted(engine, KronClassifier, init=init, train_output=True, warm_start=True, alpha=0.01)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is KronClassifier
    assert loaded.get_params() == model.get_params()
    for name in ("engine_", "n_iter_", "loss_curve_", "history_", "stop_reason_", "learning_rate_", "threshold_"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert np.array_equal(loaded.classes_, model.classes_)
    assert np.array_equal(loaded.output_weights_, model.output_weights_)
    assert loaded.predict_proba(features).tobytes() == model.predict_proba(features).tobytes()


def test_plain_arrays(tmp_path):
    x = normal(30, 4) * 5 + 2
    for dtype in (np.float32, np.float64):
        model = KronRegressor(**OPTIONS).fit(x.astype(dtype), x[:, 0] * x[:, 1])
        model.save(tmp_path / "m")
        loaded = load(tmp_path / "m")
        assert loaded.n_features_in_ == 4
        assert np.array_equal(loaded.predict(x.astype(dtype)), model.predict(x.astype(dtype)))
        with pytest.raises(ValueError, match="3 features"):
            loaded.predict(x[:, :3])


def test_several_outputs(tmp_path):
    x = normal(30, 4)
    model = KronRegressor(**OPTIONS).fit(x, x[:, :3])
    model.save(str(tmp_path / "m"))
    assert np.array_equal(load(str(tmp_path / "m")).predict(x), model.predict(x))


@pytest.mark.parametrize("names", [[3, 5], [1.0, 2.0, 3.0], ["a", "bb"], [False, True]])
@pytest.mark.parametrize("as_objects", [False, True])
def test_names_of_classes(names, as_objects, tmp_path):
    y = np.array(names, dtype=object if as_objects else None)[np.arange(12) % len(names)]
    if as_objects and not isinstance(names[0], str):
        pytest.skip("scikit-learn takes objects only as text")
    x = normal(12, 2)
    model = KronClassifier(**OPTIONS).fit(x, y)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.classes_.dtype == model.classes_.dtype
    assert np.array_equal(loaded.predict(x), model.predict(x))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_iter", np.int64(2)), ("n_hidden", np.int64(20)), ("init_rank", np.int64(2)), ("batch_size", np.int32(8)),
        ("alpha", np.float32(0.5)), ("antisymmetric", np.bool_(True)), ("warm_start", np.bool_(True)),
        ("random_state", np.int64(3)), ("random_state", np.random.RandomState(3)), ("n_jobs", np.int64(1)),
    ],
)  # fmt: skip
def test_parameters_that_are_numpy_numbers(name, value, tmp_path):
    """As in a grid of parameters made by numpy."""
    model, features = fitted(**{name: value})
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert np.array_equal(loaded.predict(features), model.predict(features))
    if name != "random_state":
        assert getattr(loaded, name) == value


def test_diverged_and_untrained_models_are_saved(tmp_path):
    model, features = fitted(max_iter=0)
    model.save(tmp_path / "m")
    assert load(tmp_path / "m").stop_reason_ is StopReason.MAX_ITER
    with pytest.warns(UserWarning, match="grew"):
        model, features = fitted(learning_rate_init=1e9, max_iter=50, n_iter_no_change=100)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.stop_reason_ is StopReason.DIVERGED
    assert np.array_equal(loaded.predict(features), model.predict(features))


def test_unused_entities_are_not_saved(tmp_path):
    table = Dense(normal(1000, 50))
    model, _ = fitted(features=table[[3, 7, 900]])
    model.save(tmp_path / "m")
    assert load_file(tmp_path / "m")["features.array"].shape == (3, 50)


def test_large_kernel_under_the_dense_engine(tmp_path):
    """Loading computes the kernel's root again, with as many threads as BLAS likes."""
    table = positive_table(300)
    model, features = fitted("dense", features=Kernel(table)[np.arange(300)], batch_size=64)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    with threads(1):
        assert np.array_equal(loaded.state_.rows, model.state_.rows)
    assert np.array_equal(loaded.predict(features), model.predict(features))


# Anything else is refused --------------------------------------------------------------------------------------------


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


# Writing -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("function", ["fsync", "replace", "chmod"])
def test_failure_while_writing_leaves_the_old_file(function, monkeypatch, tmp_path):
    path = tmp_path / "m"
    first, features = fitted()
    first.save(path)
    old = path.read_bytes()
    second, _ = fitted(max_iter=1)

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr(os, function, fail)
    with pytest.raises(OSError, match="disk full"):
        second.save(path)
    monkeypatch.undo()
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["m"]  # nothing is left behind
    second.save(path)
    assert np.array_equal(load(path).predict(features), second.predict(features))


def test_mode_of_the_file_follows_the_umask(tmp_path):
    before = os.umask(0o027)
    try:
        fitted()[0].save(tmp_path / "m")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "m").stat().st_mode) == 0o640
