"""Tables of strings, categories, images and bags, from files and on the command line."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.arrays import normal
from helpers.cli import SMALL, call, column
from kronsgd import Bag, Categories, Dense, Patches, Spectrum
from kronsgd.datasets import read_table

PROTEINS = ["MKVLAAGIV", "MKVLA", "AAGIVGGKVL", "NA"]


def written(path, *lines):
    path.write_text("\n".join(lines) + "\n")
    return path


def test_strings(tmp_path):
    path = written(tmp_path / "p.csv", "name,sequence", *(f"P{k},{s}" for k, s in enumerate(PROTEINS)))
    leaf, ids = read_table(path, "spectrum", k=2)
    assert ids.tolist() == ["P0", "P1", "P2", "P3"]
    np.testing.assert_array_equal(leaf.inner(), Spectrum(PROTEINS, 2).inner())
    alone = written(tmp_path / "alone.csv", "sequence", *PROTEINS)
    same, ids = read_table(alone, "spectrum", like=leaf)
    assert ids.tolist() == [0, 1, 2, 3]
    np.testing.assert_array_equal(same.inner(leaf), leaf.inner())
    np.savez(tmp_path / "p.npz", features=np.array(PROTEINS), ids=[4, 5, 6, 7])
    np.testing.assert_array_equal(read_table(tmp_path / "p.npz", "spectrum", k=2)[0].inner(leaf), leaf.inner())
    path = written(tmp_path / "two.csv", "name,sequence,other", "P0,AB,CD")
    with pytest.raises(ValueError, match="one column of strings: remove the other columns"):
        read_table(path, "spectrum")


def test_categories(tmp_path):
    path = written(tmp_path / "c.csv", "id,colour,size", "7,red,1", "8,blue,2", "9,red,2")
    leaf, ids = read_table(path, "categories")
    assert ids.tolist() == [7, 8, 9]
    expected = Categories([["red", 1], ["blue", 2], ["red", 2]])
    assert leaf.known == expected.known == [["blue", "red"], ["1", "2"]]
    np.testing.assert_array_equal(leaf.inner(), expected.inner())


def test_images(tmp_path):
    images = np.random.default_rng(0).random((5, 6, 6))
    np.save(tmp_path / "x.npy", images)
    leaf, _ = read_table(tmp_path / "x.npy", "patches", size=3, n_filters=4)
    np.testing.assert_array_equal(leaf.inner(), Patches(images, 3, n_filters=4).inner())


def test_bags(tmp_path):
    items = normal(5, 2)
    rows = [f"{bag},{a},{b}" for bag, (a, b) in zip("xyxzx", items, strict=True)]
    leaf, ids = read_table(written(tmp_path / "b.csv", "text,a,b", *rows), "bag", normalize=True)
    assert ids.tolist() == ["x", "y", "z"]
    np.testing.assert_allclose(leaf.inner(), Bag(Dense(items), [0, 1, 0, 2, 0], normalize=True).inner())
    np.save(tmp_path / "b.npy", items)
    with pytest.raises(ValueError, match="does not say which bag a row is in"):
        read_table(tmp_path / "b.npy", "bag")
    with pytest.raises(ValueError, match="has 5 rows but there are 2 ids"):
        read_table(tmp_path / "b.npy", "bag", ids=["x", "y"])


def test_new_strings_and_bags_after_training(tmp_path):
    """What the run has learned makes the new entities: the same strings give the same predictions."""
    strings = written(tmp_path / "p.csv", "id,sequence", *(f"P{k},{s}" for k, s in enumerate(PROTEINS)))
    rows = [f"B{k % 3},{a},{b}" for k, (a, b) in enumerate(normal(6, 2))]
    bags = written(tmp_path / "b.csv", "bag_id,a,b", *rows)
    pairs = [(f"P{k % 4}", f"B{k % 3}") for k in range(12)]
    lines = [f"{p},{b},{y}" for (p, b), y in zip(pairs, normal(12), strict=True)]
    file = written(tmp_path / "pairs.csv", "protein,text,y", *lines)
    flags = ["--table", f"protein={strings}:spectrum,k=2,idf=true", "--table", f"text={bags}:bag,normalize=true"]
    run = ["--pairs", file, "--features", "(1 + 0.5 * protein) * text", "--target", "y", *SMALL, "--quiet"]
    call("train", *flags, *run, "--out", tmp_path / "run")
    again = written(tmp_path / "q.csv", "id,sequence", f"N,{PROTEINS[2]}")
    more = written(tmp_path / "d.csv", "bag_id,a,b", *(row.replace("B1", "M") for row in rows if row.startswith("B1")))
    asked = written(tmp_path / "asked.csv", "protein,text", "N,M", "P2,B1")
    new = ["--table", f"protein={again}", "--table", f"text={more}"]
    call("predict", tmp_path / "run", "--pairs", asked, *new, "--out", tmp_path / "out.csv")
    first, second = column(tmp_path / "out.csv", "prediction")
    assert first == pytest.approx(second, abs=1e-6)
