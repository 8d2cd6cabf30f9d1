"""Model files: what is loaded is what was saved, and a failure while writing leaves the old file."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
from safetensors.numpy import load_file

from helpers.arrays import normal, positive_table
from helpers.modelfile import KINDS, OPTIONS, fitted, table_of
from kronsgd import (
    Dense,
    Kernel,
    KronClassifier,
    KronRegressor,
    StopReason,
    load,
)
from kronsgd.parallel import threads

ENGINES = ["scan", "dense"]


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


def test_a_parameter_set_after_fit_does_not_change_the_saved_network(tmp_path):
    model, features = fitted("scan", features=3 * Dense(normal(30, 4)))
    answers = model.predict(features)
    model.set_params(normalize=False).save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert loaded.normalize is False
    assert loaded.predict(features).tobytes() == answers.tobytes()


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("init", ["structured", "gaussian"])
def test_everything_that_a_model_says_survives(engine, init, tmp_path):
    model, features = fitted(engine, KronClassifier, init=init, train_output=True, warm_start=True, alpha=0.01)
    model.save(tmp_path / "m")
    loaded = load(tmp_path / "m")
    assert type(loaded) is KronClassifier
    of_the_machine = {"n_jobs": None, "memory_limit": "auto", "verbose": False}
    assert loaded.get_params() == {**model.get_params(), **of_the_machine}
    for name in ("engine_", "n_iter_", "loss_curve_", "stop_reason_", "learning_rate_", "threshold_"):
        assert getattr(loaded, name) == getattr(model, name), name
    assert loaded.history_ == [{k: v for k, v in r.items() if k not in ("seconds", "rows_per_second")} for r in model.history_]
    assert np.array_equal(loaded.classes_, model.classes_)
    assert np.array_equal(loaded.output_weights_, model.output_weights_)
    assert loaded.predict_proba(features).tobytes() == model.predict_proba(features).tobytes()


def test_the_file_does_not_depend_on_the_machine(tmp_path):
    """Neither on how long training took, nor on parameters that change no model."""
    fitted(n_jobs=1, verbose=False)[0].save(tmp_path / "one")
    fitted(n_jobs=2, verbose=True, memory_limit="3 GiB")[0].save(tmp_path / "other")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()


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
    if name not in ("random_state", "n_jobs"):  # threads are the machine's
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
