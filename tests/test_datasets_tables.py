"""User tables of entities: what is read back, and one sentence for each way a file can be wrong."""

from __future__ import annotations

import builtins
import sys

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from helpers.datasets import FEATURES, sentence, write, write_parquet
from kronsgd.datasets import (
    UnknownNameError,
    read_pairs,
    read_table,
)
from kronsgd.datasets.files import read_npy
from kronsgd.features import Dense, OneHot, Sparse


def test_npy_rows_are_numbered_or_named(tmp_path):
    path = tmp_path / "drugs.npy"
    np.save(path, FEATURES)
    leaf, ids = read_table(path)
    assert isinstance(leaf, Dense)
    np.testing.assert_array_equal(ids, [0, 1, 2])
    np.testing.assert_allclose(leaf.dense(), [[0.6, 0.8], [1, 0], [0, 1]])
    leaf, ids = read_table(path, ids=["a", "b", "c"], normalize=False)
    assert ids.tolist() == ["a", "b", "c"]
    np.testing.assert_array_equal(leaf.dense(), FEATURES)


@pytest.mark.parametrize("dtype", ["<f4", ">f8", "<i2", "|b1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_of_every_layout_is_what_numpy_reads(tmp_path, dtype, order):
    path = tmp_path / "x.npy"
    np.save(path, np.asarray(np.arange(12).reshape(3, 4) % 2, dtype=dtype, order=order))
    np.testing.assert_array_equal(read_npy(path), np.load(path))


def test_npz_with_features_and_ids(tmp_path):
    path = tmp_path / "drugs.npz"
    np.savez_compressed(path, features=FEATURES, ids=["x", "y", "z"], other=np.zeros(2))
    leaf, ids = read_table(path)
    assert ids.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(leaf.inner(), Dense(FEATURES).inner())
    np.savez(path, anything=FEATURES, names=[7, 8, 9])
    assert read_table(path, ids="names")[1].tolist() == [7, 8, 9]
    with pytest.raises(UnknownNameError) as info:
        read_table(path, ids="name")
    assert "Did you mean 'names'?" in sentence(info)
    with pytest.raises(KeyError) as info:
        read_table(path)
    assert "has no array 'features'" in sentence(info)


def test_sparse_npz_is_read_and_its_indices_are_checked(tmp_path):
    matrix = sp.random_array((5, 7), density=0.4, random_state=0, format="csr")
    path = tmp_path / "words.npz"
    sp.save_npz(path, matrix)
    leaf, ids = read_table(path, kind="sparse", normalize=False)
    assert isinstance(leaf, Sparse)
    assert ids.tolist() == list(range(5))
    np.testing.assert_allclose(leaf.dense(), matrix.toarray(), rtol=1e-6)
    with pytest.raises(ValueError, match='kind="sparse"') as info:
        read_table(path, kind="dense")
    sentence(info)
    arrays = dict(np.load(path))
    arrays["indices"] = arrays["indices"] + 1000
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="valid sparse matrix") as info:
        read_table(path, kind="sparse")
    sentence(info)
    sp.save_npz(path, matrix.tocsc())
    with pytest.raises(ValueError, match=r"\.tocsr\(\)"):
        read_table(path, kind="sparse")


def test_csv_first_column_is_ids_if_text_or_named_id(tmp_path):
    path = write(tmp_path / "t.csv", "name,a,b\nx,3,4\ny,1,0\nz,0,2\n")
    leaf, ids = read_table(path)
    assert ids.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(leaf.dense(), Dense(FEATURES).dense())
    for header in ("id", "ID", "drug_id"):
        leaf, ids = read_table(write(path, f"{header},a,b\n30,3,4\n10,1,0\n20,0,2\n"))
        assert ids.tolist() == [30, 10, 20]
        assert leaf.dim == 2
    leaf, ids = read_table(write(path, "a,b\n3,4\n1,0\n0,2\n"))
    assert (ids.tolist(), leaf.dim) == ([0, 1, 2], 2)
    leaf, ids = read_table(write(path, "a,key,b\n3,q,4\n1,r,0\n0,s,2\n"), ids="key")
    assert (ids.tolist(), leaf.dim) == (["q", "r", "s"], 2)


def test_ids_with_leading_zeros_stay_as_written(tmp_path):
    table = write(tmp_path / "t.csv", "id,a\n007,1\n7,2\n")
    _, ids = read_table(table)
    assert ids.tolist() == ["007", "7"]
    pairs = write(tmp_path / "p.csv", "drug,y\n007,1\n7,2\n007,3\n")
    assert read_pairs(pairs, [ids], ["drug"], "y").rows[0].tolist() == [0, 1, 0]


def test_parquet_equals_csv(tmp_path):
    table = write(tmp_path / "t.csv", "id,a,b\n30,3.5,4\n10,1,0\n20,0,2\n")
    other = write_parquet(tmp_path / "t.parquet", id=[30, 10, 20], a=[3.5, 1, 0], b=[4, 0, 2])
    (leaf, ids), (leaf2, ids2) = read_table(table), read_table(other)
    np.testing.assert_array_equal(ids, ids2)
    np.testing.assert_array_equal(leaf.dense(), leaf2.dense())


def test_parquet_of_pandas_categories_and_index(tmp_path):
    frame = pd.DataFrame({"name": pd.Categorical(["u", "v", "u"]), "y": [1.0, 2.0, 3.0]})
    frame.to_parquet(tmp_path / "p.parquet")
    assert read_pairs(tmp_path / "p.parquet", [["u", "v"]], ["name"], "y").rows[0].tolist() == [0, 1, 0]


def test_every_kind_of_leaf(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.eye(3))
    for kind in ("dense", "sparse", "kernel", "rbf", "tanimoto"):
        leaf, _ = read_table(path, kind=kind)
        assert type(leaf).__name__.lower() == kind
        assert leaf.n_rows == 3
    assert read_table(path, kind="rbf", gamma=0.25)[0].gamma == 0.25
    np.save(path, np.array([2, 0, 2]))
    leaf, _ = read_table(path, kind="onehot", n_categories=4)
    assert isinstance(leaf, OneHot)
    np.testing.assert_array_equal(leaf.dense(), np.eye(4)[[2, 0, 2]])
    with pytest.raises(ValueError, match="Did you mean 'dense'") as info:
        read_table(path, kind="dens")
    sentence(info)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("id,a\n", "has a header but no rows"),
        ("id,a,a\n1,2,3\n", "two columns named 'a'"),
        ("id,a\n1,2\n1,3\n", "'1' of t.csv occurs at position 0 and again at 1"),
        ("id,a\n1,2\n2,\n", "no value in column 'a' at position 1"),
        ("id,a\n,2\n2,3\n", "contain '' at position 0"),
        ("id,a\n1,x\n2,y\n", "holds text in column 'a', for example 'x'"),
        ("id,a\n1,2\n2\n", "is not a readable .csv file"),
        ("id\n1\n2\n", "no columns besides the ids 'id'"),
        ("a,b\n1,2001-02-03\n", "only numbers and text are read"),
        ("a,b\n1,inf\n", "contains infinity"),
        ("\n\n", "has no columns"),
    ],
)
def test_bad_tables(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as info:
        read_table(write(tmp_path / "t.csv", text))
    assert "t.csv" in sentence(info)


def test_bad_paths_and_ids(tmp_path):
    np.save(tmp_path / "drugs.npy", FEATURES)
    with pytest.raises(FileNotFoundError, match=r"Did you mean 'drugs\.npy'\?") as info:
        read_table(tmp_path / "drug.npy")
    sentence(info)
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        read_table(tmp_path / "nowhere" / "drugs.npy")
    with pytest.raises(ValueError, match="is a folder"):
        read_table(tmp_path)
    with pytest.raises(ValueError, match=r"ending '\.txt'"):
        read_table(write(tmp_path / "x.txt", "1"))
    with pytest.raises(ValueError, match="3 rows but there are 2 ids"):
        read_table(tmp_path / "drugs.npy", ids=[1, 2])
    with pytest.raises(ValueError, match="just one array"):
        read_table(tmp_path / "drugs.npy", ids="names")
    with pytest.raises(UnknownNameError, match="Did you mean 'name'"):
        read_table(write(tmp_path / "t.csv", "name,a\nx,1\n"), ids="nam")


def test_missing_pyarrow_is_named(tmp_path, monkeypatch):
    real = builtins.__import__

    def without_pyarrow(name, *args, **kwargs):
        if name.split(".")[0] == "pyarrow":
            raise ModuleNotFoundError("No module named 'pyarrow'", name="pyarrow")
        return real(name, *args, **kwargs)

    for name in [name for name in sys.modules if name.split(".")[0] == "pyarrow"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(ModuleNotFoundError, match=r"pip install kronsgd\[tables\]") as info:
        read_table(write(tmp_path / "t.csv", "id,a\n1,2\n"))
    sentence(info)


def test_a_first_column_that_may_hold_ids_is_told(tmp_path, caplog):
    path = write(tmp_path / "users.csv", "number,a,b\n5,0.1,1\n6,0.2,0\n7,0.3,2\n")
    leaf, ids = read_table(path)
    assert (leaf.dim, ids.tolist()) == (3, [0, 1, 2])
    assert "column 'number' of users.csv is taken as a feature" in caplog.text
    caplog.clear()
    assert read_table(path, ids="number")[1].tolist() == [5, 6, 7]
    read_table(write(tmp_path / "ages.csv", "age,a\n31,0.1\n29,0.2\n40,0.3\n"))
    assert not caplog.text
