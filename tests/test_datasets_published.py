"""Published sets: from small files in their layout, and the sets themselves where KRONSGD_DATA names them."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from helpers.datasets import sentence, write
from kronsgd.datasets import (
    load_davis,
    load_mnist,
    load_sick,
)
from kronsgd.features import Dense, Kernel, Power, Tanimoto

DATA = os.environ.get("KRONSGD_DATA") or None  # an empty text counts as unset
needs_data = pytest.mark.skipif(DATA is None, reason="KRONSGD_DATA does not name the folder with the published sets")


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


def test_davis_added_similarities(davis):
    write(davis / "proteins.txt", '{"AB": "MK", "ABC": "MK", "X": "ML"}')  # pairs of letters: ^A AB B$; ^A AB BC C$; ^X X$
    problem = load_davis(davis, drug_power=1, protein_power=1, fingerprints=0.5, names=2)
    drug, protein = (leaf.with_index(None).inner() for leaf in problem.X.leaves())
    np.testing.assert_allclose(drug[0], [1, (0.5 + 0.5 * 0.25) / (1 + 0.5)])  # two shared bits of eight
    np.testing.assert_allclose(protein[0], [1, (0.05 + 2 * 2 / 5) / (1 + 2), (20 / 600) / 3])
    with pytest.raises(ValueError, match="leave it out"):
        load_davis(davis, drugs="morgan", fingerprints=1)
    with pytest.raises(ValueError, match=r"names=-1\.0 is out"):
        load_davis(davis, names=-1)
    for text in ('["AB"]', '{"AB": "MK"}'):
        write(davis / "proteins.txt", text)
        with pytest.raises(ValueError, match="3 proteins by name"):
            load_davis(davis, names=1)


@pytest.mark.parametrize(("split", "n_drugs", "n_proteins"), [("drugs", 40, 303), ("proteins", 42, 300), ("both", 40, 300)])
def test_davis_split_by_entity(davis, split, n_drugs, n_proteins):
    kd = np.random.default_rng(0).uniform(1, 1e4, (42, 303))
    np.savetxt(davis / "drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt", kd)
    np.savetxt(davis / "drug-drug_similarities_2D.txt", np.eye(42))
    np.savetxt(davis / "target-target_similarities_WS.txt", np.eye(303))
    problem = load_davis(davis, split=split)
    known = [leaf.index for leaf in problem.X.leaves()]
    new = [leaf.index for leaf in problem.X_test.leaves()]
    assert [len(np.unique(side)) for side in known] == [n_drugs, n_proteins]
    assert len(problem.y) == n_drugs * n_proteins
    np.testing.assert_allclose(problem.y_test, 9 - np.log10(kd)[new[0], new[1]])
    state = np.random.RandomState(1)  # as the tutorial draws them
    for side, (name, n, kept) in enumerate((("drugs", 42, 40), ("proteins", 303, 300))):
        order = list(range(n))
        if split in (name, "both"):
            state.shuffle(order)
            assert set(known[side]) == set(order[:kept])
            assert set(new[side]) == set(order[kept:])
        else:
            assert set(new[side]) == set(known[side]) == set(order)
    held_side = 1 if split == "proteins" else 0
    np.testing.assert_array_equal(np.sort(np.concatenate(problem.folds)), np.arange(len(problem.y)))
    for k, fold in enumerate(problem.folds):
        assert not set(known[held_side][fold]) & set(known[held_side][problem.training_rows(k)])


def test_davis_split_needs_enough_entities(davis):
    with pytest.raises(ValueError, match="has 2 and 3; use split=\"setting1\""):
        load_davis(davis, split="both")
    with pytest.raises(ValueError, match="split='drug' is not known"):
        load_davis(davis, split="drug")


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


def test_sick_warns_of_files_cut_between_lines(sick, caplog):
    load_sick(sick)
    assert "SICK_train.txt has 2 pairs, the published file 4,500; download it again" in caplog.text


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
