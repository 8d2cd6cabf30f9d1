"""Tables that stay in their file: the same bits as from memory, and no copy of them anywhere."""

from __future__ import annotations

import pickle
import tracemalloc

import numpy as np
import pytest

import kronsgd as ks
from kronsgd import Dense, KronRegressor
from kronsgd.datasets import read_table
from kronsgd.engines import ENGINES
from kronsgd.features import mapped
from kronsgd.features.known import KnownRows, known_rows
from kronsgd.features.mapped import MappedRows, is_mapped
from kronsgd.features.serialize import compress, features_state
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.training import train_step

TREATMENTS = [
    {}, {"normalize": False}, {"center": True}, {"center": True, "scale": True}, {"scale": True, "normalize": False}
]  # fmt: skip


@pytest.fixture
def anything_is_large(monkeypatch):
    monkeypatch.setattr(mapped, "IN_MEMORY", 0)
    monkeypatch.setattr(mapped, "CHUNK", 100)  # numbers: a few rows at a time


def saved(tmp_path, array):
    np.save(tmp_path / "table.npy", array)
    return np.load(tmp_path / "table.npy", mmap_mode="r")


def numbers(dtype, n=257, d=7):
    array = 20 * np.random.default_rng(0).standard_normal((n, d)) + 3
    return np.abs(array).astype(dtype) if np.dtype(dtype).kind in "ui" else array.astype(dtype)


def assert_rounded(ours, its):
    np.testing.assert_allclose(ours, its, rtol=0, atol=8 * np.finfo(its.dtype).eps * np.abs(its).max())


@pytest.mark.usefixtures("anything_is_large")
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "float16", ">f4", ">f8"])
@pytest.mark.parametrize("options", TREATMENTS)
def test_rows_are_those_from_memory(tmp_path, dtype, options):
    """To the last bit; their inner products to rounding, which matrix products do by the place of a row in a tile."""
    array = numbers(dtype)
    ours, twin = Dense(saved(tmp_path, array), **options), Dense(array, **options)
    assert isinstance(ours.array, MappedRows)
    assert not isinstance(twin.array, MappedRows)
    assert ours.dtype == twin.dtype == np.dtype("f8" if array.dtype.itemsize == 8 else "f4")
    assert_rounded(pickle.loads(pickle.dumps(ours)).inner(), twin.inner())
    for mine, its in ((ours.mean, twin.mean), (ours.scale, twin.scale)):
        np.testing.assert_array_equal(mine, its)
    np.testing.assert_array_equal(np.asarray(ours.array), twin.array)
    np.testing.assert_array_equal(ours.entity_squared_norms(), twin.entity_squared_norms())
    rows = np.array([5, 0, 200, 5])
    assert_rounded(ours[rows].inner(ours), twin[rows].inner(twin))
    assert_rounded(ours.inner(), twin.inner())
    np.testing.assert_array_equal(ours[rows].dense(), twin[rows].dense())
    some = ours.select_entities(np.arange(3, 250))
    assert isinstance(some.array, MappedRows)
    np.testing.assert_array_equal(np.asarray(some.array), twin.array[3:250])
    np.testing.assert_array_equal(some.select_entities(rows).entity_squared_norms(), twin.entity_squared_norms()[rows + 3])
    assert_rounded(ours.in_double_precision().inner(), twin.in_double_precision().inner())
    assert ours.entity_keys() == twin.entity_keys()
    assert known_rows(ours, twin).all()
    assert known_rows(twin, ours).all()


@pytest.mark.usefixtures("anything_is_large")
@pytest.mark.parametrize("engine", ["scan", "grid", "tree", "dense", "eager"])
def test_training_is_that_from_memory(tmp_path, engine):
    array, rng = numbers("float32"), np.random.default_rng(1)
    tables = Dense(saved(tmp_path, array)), Dense(array)
    i, j = rng.integers(250, size=(2, 300))
    y = rng.standard_normal(300)
    models = [
        KronRegressor(32, engine=engine, max_iter=2, learning_rate_init=1.0, random_state=0).fit(t[i] * t[j], y) for t in tables
    ]
    new = [t[[256, 251]] * t[[0, 255]] for t in tables]
    np.testing.assert_array_equal(models[0].predict(new[0]), models[1].predict(new[1]))
    for model, x in zip(models, new, strict=True):
        model.partial_fit(x, [1.0, 2.0])
    np.testing.assert_array_equal(models[0].predict(new[0]), models[1].predict(new[1]))
    models[0].save(tmp_path / "model")
    np.testing.assert_array_equal(ks.load(tmp_path / "model").predict(new[1]), models[1].predict(new[1]))
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(models[0])).predict(new[1]), models[1].predict(new[1]))


@pytest.mark.usefixtures("anything_is_large")
def test_mistakes_in_a_mapped_table_are_refused(tmp_path):
    array = numbers("float32")
    array[100, 2] = np.nan
    with pytest.raises(ValueError, match=r"contains NaN at position \(100, 2\)"):
        Dense(saved(tmp_path, array))
    with pytest.raises(TypeError, match="dtype complex64; give numbers"):
        Dense(saved(tmp_path, array.astype(np.complex64)))
    with pytest.raises(ValueError, match="2-D array"):
        Dense(saved(tmp_path, array[0]))
    with pytest.raises(ValueError, match="has 3 columns"):
        Dense(array[:100]).like(saved(tmp_path, array[:100, :3].copy()))


@pytest.mark.usefixtures("anything_is_large")
def test_npy_files_of_users_stay_files(tmp_path):
    array = numbers("float32")
    saved(tmp_path, array)
    leaf, ids = read_table(tmp_path / "table.npy", center=True)
    assert isinstance(leaf.array, MappedRows)
    assert ids.tolist() == list(range(len(array)))
    np.testing.assert_array_equal(np.asarray(leaf.array), Dense(array, center=True).array)
    (tmp_path / "table.npy").write_bytes((tmp_path / "table.npy").read_bytes()[:-4])
    with pytest.raises(ValueError, match="cut short or damaged"):
        read_table(tmp_path / "table.npy")


def test_small_tables_are_read(tmp_path):
    table = Dense(saved(tmp_path, numbers("float32")), normalize=False).array
    assert isinstance(table, np.ndarray)
    assert not is_mapped(table)


def resident():
    """Bytes of this process that are its own, not those of files."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next((int(line.split()[1]) << 10 for line in file if line.startswith("RssAnon")), 0)


def test_nothing_copies_a_table_of_100_megabytes(tmp_path, monkeypatch):
    """Planning, fitting, predicting, keys, states and selections of half of it."""
    monkeypatch.setattr(mapped, "IN_MEMORY", 1 << 22)
    n, d = 50_000, 512
    rng = np.random.default_rng(0)
    file = np.lib.format.open_memmap(tmp_path / "large.npy", "w+", np.float32, (n, d))
    file[:] = rng.standard_normal(d).astype(np.float32)
    file[:, :2] = rng.standard_normal((n, 2))
    del file
    before = resident()
    tracemalloc.start()
    table = Dense(np.load(tmp_path / "large.npy", mmap_mode="r"), center=True)
    codes = ks.OneHot(np.arange(9))
    i, j = np.sort(rng.permutation(n)[:30_000]), rng.integers(9, size=30_000)
    X, y = table[i] * codes[j], rng.standard_normal(30_000)
    ks.plan(X, 32, engine="scan")
    model = KronRegressor(32, engine="scan", max_iter=1, random_state=0).fit(X[:300], y[:300])
    model.predict(X[1000:1100])
    used = compress(X)
    assert isinstance(next(used.leaves()).array, MappedRows)
    arrays, _ = features_state(used)
    assert sum(array.nbytes for array in arrays.values()) > 60e6
    state = ENGINES["scan"].initialize(TwoLayer(32), X)
    rows = np.arange(16)
    train_step(ENGINES["scan"], state, LOSSES["squared"], rows, y[rows, None], np.ones(16), 1.0, 0.0)
    known = KnownRows(used)
    np.testing.assert_array_equal(known.append(X[5:8]), [5, 6, 7])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 70e6
    assert resident() - before < 70e6
