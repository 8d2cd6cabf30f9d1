"""User tables, published sets, teachers: what is read back, and one sentence for each way a file can be wrong."""

from __future__ import annotations

import builtins
import contextlib
import gzip
import io
import os
import struct
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow
import pyarrow.parquet
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from kronsgd.datasets import (
    PairTable,
    Problem,
    UnknownNameError,
    load_davis,
    load_digits,
    load_mnist,
    load_sick,
    make_kron_teacher,
    read_pairs,
    read_table,
)
from kronsgd.datasets.files import read_npy, read_npz
from kronsgd.features import Dense, Kernel, OneHot, Power, Sparse, Tanimoto

DATA = os.environ.get("KRONSGD_DATA")
needs_data = pytest.mark.skipif(DATA is None, reason="KRONSGD_DATA does not name the folder with the published sets")
FEATURES = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])


def sentence(info) -> str:
    """The message, which must be one sentence or two at most, on one line, and as readable as the KeyError's is."""
    text = str(info.value)
    assert "\n" not in text
    assert not text.startswith(("'", '"'))
    assert text.rstrip().endswith((".", "?"))
    return text


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_parquet(path: Path, **columns) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path


# Tables of entities --------------------------------------------------------------------------------------------------


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


# Hostile files -------------------------------------------------------------------------------------------------------


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


# Tables of pairs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_pairs_are_row_numbers_targets_and_weights(tmp_path, ending):
    drugs, proteins = np.array([30, 10, 20]), ["KIT", "ABL1"]
    columns = {"p": ["ABL1", "KIT", "ABL1"], "d": [20, 30, 20], "y": [5.5, 6.0, 7.25], "w": [1, 2, 0]}
    path = tmp_path / f"pairs.{ending}"
    if ending == "parquet":
        write_parquet(path, **columns)
    else:
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        write(path, "\ufeff" + "\n".join(lines) + "\n")
    rows, y, weights = read_pairs(path, [drugs, PairTable(proteins, "proteins")], ["d", "p"], "y", weight="w")
    assert [r.tolist() for r in rows] == [[2, 0, 2], [1, 0, 1]]
    assert all(r.dtype == np.int64 for r in rows)
    np.testing.assert_array_equal(y, [5.5, 6.0, 7.25])
    np.testing.assert_array_equal(weights, [1, 2, 0])
    X = Dense(FEATURES)[rows[0]] * Dense(FEATURES[:2])[rows[1]]
    assert X.shape == (3, 4)
    assert read_pairs(path, [drugs], ["d"], "y").weights is None
    labels = read_pairs(path, [drugs, drugs], ["d", "d"], "p").y
    assert labels.tolist() == ["ABL1", "KIT", "ABL1"]
    assert read_pairs(path, [drugs], ["d"], "w").y.dtype == np.int64


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("drug,target\n1,2\n", KeyError, "has no column 'y'"),
        ("drug,yy\n1,2\n", KeyError, "Did you mean 'yy'?"),
        ("drug,y\n", ValueError, "no rows"),
        ("drug,y\n1,5\n1,NaN\n", ValueError, "no value in column 'y' at position 1"),
        ("drug,y\n1,5\n1,inf\n", ValueError, "contains infinity at position (1,)"),
        ("drug,y\n1,a\n2,\n", ValueError, "no value in column 'y' at position 1"),
        ("drug,y\n1,5\n9,6\n", KeyError, "the id '9' at position 1 is not among the 3 ids of drug"),
        ("drug,y\n1,5\n,6\n", ValueError, "contain '' at position 1"),
    ],
)
def test_bad_pairs(tmp_path, text, error, message):
    with pytest.raises(error) as info:
        read_pairs(write(tmp_path / "p.csv", text), [[1, 2, 3]], ["drug"], "y")
    assert message in sentence(info)


def test_bad_weights_and_arguments(tmp_path):
    path = write(tmp_path / "p.csv", "drug,y,w,t\n1,5,-1,a\n2,6,1,b\n")
    with pytest.raises(ValueError, match="holds the weight -1"):
        read_pairs(path, [[1, 2]], ["drug"], "y", weight="w")
    with pytest.raises(ValueError, match="holds text in the weight column 't'"):
        read_pairs(path, [[1, 2]], ["drug"], "y", weight="t")
    with pytest.raises(ValueError, match="one column for each of the 1 tables"):
        read_pairs(path, [[1, 2]], "drug", "y")
    with pytest.raises(ValueError, match=r"\.csv or \.parquet"):
        read_pairs(write(tmp_path / "p.txt", "x"), [[1, 2]], ["drug"], "y")
    damaged = tmp_path / "p.parquet"
    write_parquet(damaged, drug=[1, 2], y=[1.0, 2.0])
    damaged.write_bytes(damaged.read_bytes()[:-30])
    with pytest.raises(ValueError, match=r"not a readable \.parquet file") as info:
        read_pairs(damaged, [[1, 2]], ["drug"], "y")
    sentence(info)
    write_parquet(damaged, drug=["imatinib", "sunitinib"], y=[1.0, 2.0])
    damaged.write_bytes(damaged.read_bytes().replace(b"sunitinib", b"\xff" * 9))
    with pytest.raises(ValueError, match=r"not a readable \.parquet file"):
        read_pairs(damaged, [["imatinib"]], ["drug"], "y")
    write_parquet(damaged, drug=[1, 2], y=[1.0, float("nan")])
    with pytest.raises(ValueError, match="column 'y', contains NaN"):
        read_pairs(damaged, [[1, 2]], ["drug"], "y")


@given(st.lists(st.one_of(st.integers(-99, 99), st.text(min_size=1, max_size=3)), min_size=1, max_size=20))
@settings(deadline=None)
def test_pair_table_finds_each_id_as_a_list_would(ids):
    mixed = np.array(ids, dtype=object)
    names = [str(i) for i in ids]
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match="and again at"):
            PairTable(mixed)
    else:
        wanted = mixed[::-1]
        assert PairTable(mixed).rows(wanted).tolist() == [names.index(str(i)) for i in wanted]


def test_pair_table_ids_of_several_types_are_the_same_id():
    table = PairTable([7, 8, 9], "drugs")
    assert len(table) == 3
    for ids in ([9, 7], ["9", "7"], [9.0, 7.0], [b"9", b"7"], np.array([9, 7], dtype=np.uint8)):
        assert table.rows(ids).tolist() == [2, 0]
    assert table.rows([]).tolist() == []
    with pytest.raises(UnknownNameError, match="'007' at position 0 is not among the 3 ids of drugs"):
        table.rows(["007"])
    with pytest.raises(UnknownNameError, match="Did you mean 'imatinib'"):
        PairTable(["imatinib", "sunitinib"]).rows(["imatinb"])
    for bad, message in [([], "empty"), ([1.5], "1.5 at position 0"), ([[1]], "shape"), (["a", None], "contain None")]:
        with pytest.raises(ValueError, match=message):
            PairTable(bad)


# Teachers and problems -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [(5,), (3, 4), (2, 3, 4)])
def test_teacher_outputs_follow_from_the_dense_product(dims):
    X, y, teacher = make_kron_teacher(300, dims, n_neurons=6, noise=0.0, random_state=1)
    dense = X.dense()
    assert dense.shape == (300, int(np.prod(dims)))
    expected = np.maximum(dense @ teacher.weights.T - teacher.threshold, 0) @ teacher.output_weights
    np.testing.assert_allclose(y, expected[:, 0], atol=1e-12)
    np.testing.assert_array_equal(y, teacher(X)[:, 0])
    assert np.mean(y**2) == pytest.approx(1.0)


def test_teacher_noise_and_seeds():
    (X, y, teacher), (_, again, _) = (make_kron_teacher(4000, noise=0.5, random_state=3) for _ in range(2))
    np.testing.assert_array_equal(y, again)
    assert np.std(y - teacher(X)[:, 0]) == pytest.approx(0.5, rel=0.05)
    assert not np.array_equal(y, make_kron_teacher(4000, noise=0.5, random_state=4)[1])


def test_teacher_classes():
    X, y, teacher = make_kron_teacher(2000, (4, 4), n_neurons=32, noise=0.0, n_classes=3, random_state=0)
    np.testing.assert_array_equal(y, teacher(X).argmax(axis=1))
    assert np.bincount(y, minlength=3).min() > 200
    assert y.dtype == np.int64


def test_teacher_bad_arguments():
    for arguments in ({"dims": ()}, {"dims": 8}, {"n_classes": 2.0}):
        with pytest.raises(TypeError, match="is not"):
            make_kron_teacher(10, **arguments)
    for arguments in ({"dims": (0, 2)}, {"n_classes": 1}, {"noise": -1}, {"n_neurons": 0}, {"dims": (1000,) * 4}):
        with pytest.raises(ValueError, match=r"out of range|stored"):
            make_kron_teacher(10, **arguments)


def test_digits_are_scikit_learns():
    problem = load_digits()
    assert problem.X.shape == (1797, 64)
    assert problem.task == "classification"
    assert np.unique(problem.y).tolist() == list(range(10))
    np.testing.assert_allclose(problem.X.squared_norms(), 1)


def test_problem_checks_its_parts():
    X = Dense(FEATURES)
    problem = Problem(X, np.arange(3), folds=[np.array([0, 2]), np.array([1])])
    assert problem.training_rows(0).tolist() == [1]
    assert problem.training_rows(1).tolist() == [0, 2]
    with pytest.raises(ValueError, match="X has 3 rows but 2 targets"):
        Problem(X, np.arange(2))
    with pytest.raises(ValueError, match="belong together"):
        Problem(X, np.arange(3), X_test=X)
    with pytest.raises(ValueError, match="task='regresion'"):
        Problem(X, np.arange(3), task="regresion")
    with pytest.raises(ValueError, match="out of range"):
        problem.training_rows(2)


# Published sets, from small files in their layout --------------------------------------------------------------------


DAVIS_FILES = {
    "drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt": "10 10000 1\n100 10000 10000\n",
    "drug-drug_similarities_2D.txt": "1 0.5\n0.5 1\n",
    "target-target_similarities_WS.txt": "400 10 20\n10 100 30\n20 30 900\n",
    "folds/train_fold_setting1.txt": "[[5, 0], [2]]",
    "folds/test_fold_setting1.txt": "[3, 1]",
    "ligands_can.txt": '{"11": "C", "4": "CC"}',
}


@pytest.fixture
def davis(tmp_path):
    (tmp_path / "folds").mkdir()
    for name, text in DAVIS_FILES.items():
        write(tmp_path / name, text)
    bits = np.zeros((2, 16), dtype=np.uint8)
    bits[0, :4], bits[1, 2:8] = 1, 1
    np.savez(tmp_path / "morgan2_2048.npz", bits=np.packbits(bits, axis=1), ids=["11", "4"], n_bits=16)
    return tmp_path


def test_davis_layout(davis):
    problem = load_davis(davis)
    np.testing.assert_allclose(problem.y, [5, 8, 9])  # pairs 5, 0, 2
    np.testing.assert_allclose(problem.y_test, [7, 5])  # pairs 3, 1
    assert [fold.tolist() for fold in problem.folds] == [[0, 1], [2]]
    drug = np.array([[1, 0.25], [0.25, 1]])
    protein = np.sqrt(np.array([[1, 0.05, 20 / 600], [0.05, 1, 0.1], [20 / 600, 0.1, 1]]))
    assert np.linalg.eigvalsh(protein).min() > 0  # so that clipping leaves it alone
    pairs, test = np.array([5, 0, 2]), np.array([3, 1])
    full = np.kron(drug, protein)
    np.testing.assert_allclose(problem.X.inner(), full[np.ix_(pairs, pairs)], atol=1e-12)
    np.testing.assert_allclose(problem.X_test.inner(problem.X), full[np.ix_(test, pairs)], atol=1e-12)


def test_davis_fingerprints_and_expression(davis):
    problem = load_davis(davis, drugs="morgan", drug_power=1, expression=lambda drug, protein: 1 + drug * protein)
    leaf = next(problem.X.leaves())
    assert isinstance(leaf, Tanimoto)
    np.testing.assert_allclose(leaf.inner()[0], [1, 0.25, 0.25])  # drugs 1, 0, 0: two shared bits of eight
    assert problem.X.expression().startswith("1 + Tanimoto")
    assert isinstance(load_davis(davis, drugs="morgan").X.children[0], Power)
    assert isinstance(load_davis(davis).X.children[0], Kernel)
    with pytest.raises(ValueError, match="give a whole number"):
        load_davis(davis, drugs="morgan", drug_power=1.5)
    with pytest.raises(ValueError, match="Did you mean 'morgan'"):
        load_davis(davis, drugs="organ")
    with pytest.raises(ValueError, match="out of range"):
        load_davis(davis, protein_power=0)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt", "10 0 1\n1 1 1\n", "Kd of 0 nM"),
        ("drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt", "10 1 1\n1 1", "not a matrix of numbers"),
        ("drug-drug_similarities_2D.txt", "1 0.5\n", "has shape (1, 2), expected (2, 2)"),
        ("drug-drug_similarities_2D.txt", "1 -0.5\n-0.5 1\n", "similarity of -0.5"),
        ("target-target_similarities_WS.txt", "0 1 1\n1 1 1\n1 1 1\n", "with itself is 0"),
        ("folds/train_fold_setting1.txt", "[[5, 0], [2", "is not JSON"),
        ("folds/train_fold_setting1.txt", "[" * 100_000, "is not JSON"),
        ("folds/train_fold_setting1.txt", "[[5, 6], [2]]", "numbers from 0 to 5"),
        ("folds/train_fold_setting1.txt", "[[5, 0.5], [2]]", "numbers from 0 to 5"),
        ("folds/train_fold_setting1.txt", "[[5, 3], [2]]", "shares a pair"),
        ("folds/test_fold_setting1.txt", "{}", "numbers from 0 to 5"),
        ("folds/test_fold_setting1.txt", "", "is empty"),
        ("ligands_can.txt", '{"4": "CC", "11": "C"}', "in the order of ligands_can.txt"),
    ],
)
def test_davis_damaged(davis, name, text, message):
    write(davis / name, text)
    with pytest.raises(ValueError, match=r"damaged|is empty") as info:
        load_davis(davis, drugs="morgan" if "ligands" in name else "similarity")
    assert message in sentence(info)
    (davis / name).unlink()
    with pytest.raises(FileNotFoundError, match="does not exist") as info:
        load_davis(davis, drugs="morgan" if "ligands" in name else "similarity")
    assert name in sentence(info)


def idx(values: np.ndarray, shape: tuple[int, ...] | None = None) -> bytes:
    """A gzipped idx file, whose header may lie."""
    shape = values.shape if shape is None else shape
    head = bytes([0, 0, 8, len(shape)]) + struct.pack(f">{len(shape)}I", *shape)
    return gzip.compress(head + values.astype(np.uint8).tobytes())


@pytest.fixture
def mnist(tmp_path):
    rng = np.random.default_rng(0)
    for part, n in (("train", 7), ("t10k", 3)):
        (tmp_path / f"{part}-images-idx3-ubyte.gz").write_bytes(idx(rng.integers(0, 256, (n, 4, 5))))
        (tmp_path / f"{part}-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(n)))
    return tmp_path


def test_mnist_layout(mnist):
    problem = load_mnist(mnist, center=False)
    pixels = np.random.default_rng(0).integers(0, 256, (7, 4, 5)).reshape(7, 20)
    centred = load_mnist(mnist)
    moved = pixels / 255 - (pixels / 255).mean(axis=0)
    np.testing.assert_allclose(
        centred.X.dense(), moved / np.linalg.norm(moved, axis=1, keepdims=True), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_array_equal(centred.X_test.mean, centred.X.mean)  # test rows are centred by the training rows' mean
    np.testing.assert_allclose(problem.X.dense(), pixels / np.linalg.norm(pixels, axis=1, keepdims=True), rtol=1e-6)
    assert problem.X.dense().dtype == np.float32
    assert problem.y.tolist() == list(range(7))
    assert problem.X_test.shape == (3, 20)
    few = load_mnist(mnist, n_train=2)
    assert (few.X.n_rows, few.y.tolist(), few.X_test.n_rows) == (2, [0, 1], 3)
    with pytest.raises(ValueError, match="at most 7"):
        load_mnist(mnist, n_train=8)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"not gzip at all", "cannot be unzipped"),
        (idx(np.ones((7, 4, 5)))[:-9], "cannot be unzipped"),
        (idx(np.ones((7, 4, 5)), (2**32 - 1, 2**32 - 1, 28)), "claims"),
        (idx(np.ones((7, 4, 5)), (6, 4, 5)), "holds more"),
        (idx(np.ones((7, 4, 5)), (0, 4, 5)), "claims 0 values"),
        (idx(np.ones(7)), "with 3 axes"),
        (gzip.compress(b"\0\0"), "with 3 axes"),
    ],
)
def test_mnist_damaged(mnist, content, message):
    (mnist / "train-images-idx3-ubyte.gz").write_bytes(content)
    with pytest.raises(ValueError, match=message) as info:
        load_mnist(mnist)
    assert "train-images-idx3-ubyte.gz" in sentence(info)


def test_mnist_labels_must_fit(mnist):
    (mnist / "train-labels-idx1-ubyte.gz").write_bytes(idx(np.arange(6)))
    with pytest.raises(ValueError, match="a label from 0 to 9 for each of the 7 images"):
        load_mnist(mnist)
    with pytest.raises(FileNotFoundError, match="give the folder that holds the MNIST files"):
        load_mnist(mnist / "nowhere")


SICK_HEADER = "pair_ID\tsentence_A\tsentence_B\trelatedness_score\tentailment_judgment"
SICK_FILES = {
    "SICK_train.txt": ["1\tA dog runs\tA cat runs\t3.5\tNEUTRAL", "2\tA dog sleeps\tA dog runs\t2\tCONTRADICTION"],
    "SICK_trial.txt": ["4\tA cat runs\tA dog runs\t3.4\tNEUTRAL"],
    "SICK_test_annotated.txt": ["3\tA zebra runs\tA dog runs\t5\tENTAILMENT"],
}


@pytest.fixture
def sick(tmp_path):
    for name, lines in SICK_FILES.items():
        end = "\r\n" if "test" in name else "\n"  # as published
        (tmp_path / name).write_bytes((end.join([SICK_HEADER, *lines]) + end).encode())
    return tmp_path


def test_sick_layout(sick):
    pairs = load_sick(sick)
    assert pairs.sentences == ["A dog runs", "A cat runs", "A dog sleeps", "A zebra runs"]
    assert pairs.first.tolist() == [0, 2, 1, 3]
    assert pairs.second.tolist() == [1, 0, 0, 0]
    assert pairs.scores.tolist() == [3.5, 2, 3.4, 5]
    assert pairs.labels.tolist() == ["NEUTRAL", "CONTRADICTION", "NEUTRAL", "ENTAILMENT"]
    assert {part: rows.tolist() for part, rows in pairs.parts.items()} == {"train": [0, 1], "trial": [2], "test": [3]}
    first, second = pairs.X.leaves()
    assert first.dim == 4  # cat, dog, runs, sleeps: zebra is in no train sentence
    np.testing.assert_allclose(pairs.X.inner(), first.inner() * second.inner(), rtol=1e-6)


def test_sick_problems(sick):
    pairs = load_sick(sick)
    problem = pairs.problem()
    assert (problem.task, problem.y.tolist(), problem.y_test.tolist()) == ("regression", [3.5, 2, 3.4], [5])
    assert [fold.tolist() for fold in problem.folds] == [[2]]
    other = Dense(np.arange(1.0, 5)[:, None], normalize=False)
    problem = pairs.problem("entailment", X=other)
    assert (problem.task, problem.y_test.tolist()) == ("classification", ["ENTAILMENT"])
    assert problem.X_test.dense().tolist() == [[4.0]]
    with pytest.raises(ValueError, match="Did you mean 'entailment'"):
        pairs.problem("entailmnt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\tA\tB\t3\tNEUTRAL\n", "does not start with the header"),
        (SICK_HEADER + "\n", "does not start with the header"),
        (SICK_HEADER + "\n1\tA\tB\t3", "has 4 fields instead of 5 in line 2"),
        (SICK_HEADER + "\n1\tA\tB\tx\tNEUTRAL", "relatedness 'x' in line 2"),
        (SICK_HEADER + "\n1\tA\tB\tnan\tNEUTRAL", "relatedness 'nan' in line 2"),
        (SICK_HEADER + "\n1\tA\tB\t3\tNEUTR", "label 'NEUTR' in line 2"),
        ("\udcff", "is not UTF-8"),
    ],
)
def test_sick_damaged(sick, text, message):
    (sick / "SICK_train.txt").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=r"SICK_train\.txt") as info:
        load_sick(sick)
    assert message in sentence(info)


# Published sets themselves -------------------------------------------------------------------------------------------


@needs_data
def test_davis_as_published():
    problem = load_davis(Path(DATA) / "davis")
    assert problem.X.shape == (25_046, 68 * 442)
    assert [len(fold) for fold in problem.folds] == [5010, 5009, 5009, 5009, 5009]
    assert problem.X_test.n_rows == 5010
    y = np.concatenate([problem.y, problem.y_test])
    assert (y.min(), round(y.max(), 1)) == (5.0, 10.8)
    assert np.mean(y == 5.0) == pytest.approx(0.696, abs=5e-4)
    pairs = [np.stack([leaf.index for leaf in rows.leaves()], axis=1) for rows in (problem.X, problem.X_test)]
    assert len(np.unique(np.concatenate(pairs), axis=0)) == 68 * 442  # every pair once
    np.testing.assert_allclose(problem.X.squared_norms(), 1)


@needs_data
def test_davis_fingerprints_as_published():
    problem = load_davis(Path(DATA) / "davis", drugs="morgan", drug_power=1)
    drug, protein = problem.X.leaves()
    assert (drug.array.shape, protein.n_entities) == ((68, 2048), 442)


@needs_data
def test_mnist_as_published():
    problem = load_mnist(Path(DATA) / "mnist", n_train=500)
    assert (problem.X.shape, problem.X_test.shape) == ((500, 784), (10_000, 784))
    assert problem.y[:5].tolist() == [5, 0, 4, 1, 9]
    assert problem.y_test[:5].tolist() == [7, 2, 1, 0, 4]
    cosine = problem.X_test.inner(problem.X)
    assert np.mean(problem.y[cosine.argmax(axis=1)] == problem.y_test) > 0.8  # images and labels belong together


@needs_data
def test_sick_as_published():
    pairs = load_sick(Path(DATA) / "sick")
    assert {part: len(rows) for part, rows in pairs.parts.items()} == {"train": 4500, "trial": 500, "test": 4927}
    first, second = pairs.X.leaves()
    cosine = np.asarray(first.matrix[first.index].multiply(second.matrix[second.index]).sum(axis=1)).ravel()
    test = pairs.parts["test"]
    assert np.corrcoef(cosine[test], pairs.scores[test])[0, 1] > 0.6  # scores and sentences belong together
    assert set(np.unique(pairs.labels)) == {"CONTRADICTION", "ENTAILMENT", "NEUTRAL"}
