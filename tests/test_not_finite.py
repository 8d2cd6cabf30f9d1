"""A NaN or an infinity anywhere in the data is refused where it enters, with its position."""

from __future__ import annotations

import re

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.arrays import normal
from kronsgd import RBF, Bag, Dense, Kernel, KronClassifier, KronRegressor, LowRank, OneHot, Patches, Sparse, Tanimoto
from kronsgd.datasets import read_table

pytestmark = pytest.mark.usefixtures("one_thread")

OPTIONS = {"n_hidden": 4, "max_iter": 1, "learning_rate_init": 0.1, "random_state": 0, "n_jobs": 1}
known = {"kernel": Kernel(np.eye(3) + 1), "dense": Dense(normal(5, 3)), "lowrank": LowRank(normal(5, 2), normal(2, 3))}
images = Patches(normal(3, 4, 4), 3, n_filters=2, n_places=2)
model = KronRegressor(**OPTIONS).fit(normal(9, 3), normal(9))
labels = KronClassifier(**OPTIONS).fit(normal(9, 3), np.arange(9) % 2)
pairs = KronRegressor(**OPTIONS).fit(known["dense"][[0, 1, 2, 3, 4] * 2] * OneHot(np.arange(10) % 3), normal(10))

TABLES = {
    "Dense": (Dense, (4, 3)), "RBF": (RBF, (4, 3)), "Kernel": (Kernel, (3, 3)), "Tanimoto": (Tanimoto, (4, 3)),
    "LowRank u": (lambda u: LowRank(u, normal(3, 4)), (4, 3)), "LowRank v": (lambda v: LowRank(normal(4, 3), v), (3, 5)),
    "Sparse": (lambda a: Sparse(sp.csr_array(a)), (4, 3)), "Patches": (lambda a: Patches(a, 2), (3, 4, 4)),
    "centre": (lambda row: Dense(normal(4, 3), center=row), (3,)), "scale": (lambda row: Dense(normal(4, 3), scale=row), (3,)),
    "bag weights": (lambda w: Bag(Dense(normal(4, 2)), [0, 1, 1, 0], w), (4,)),
    "new Dense": (known["dense"].like, (2, 3)), "new LowRank": (known["lowrank"].like, (2, 2)),
    "new Patches": (images.like, (2, 4, 4)),
    "new kernel values": (lambda cross: known["kernel"].new_entities(cross, [2.0, 2.0]), (2, 3)),
    "self-similarity": (lambda own: known["kernel"].new_entities(np.full((2, 3), 0.1), own), (2,)),
    "X": (lambda X: KronRegressor(**OPTIONS).fit(X, np.ones(4)), (4, 3)),
    "y": (lambda y: KronRegressor(**OPTIONS).fit(normal(4, 3), y), (4,)),
    "Y": (lambda y: KronRegressor(**OPTIONS).fit(normal(4, 3), y), (4, 2)),
    "weights": (lambda w: KronRegressor(**OPTIONS).fit(normal(4, 3), normal(4), w), (4,)),
    "weights of a classifier": (lambda w: KronClassifier(**OPTIONS).fit(normal(4, 3), [0, 1, 0, 1], w), (4,)),
    "X to predict": (model.predict, (4, 3)), "X to classify": (labels.predict_proba, (4, 3)),
    "X of a stream": (lambda X: model.partial_fit(X, np.ones(4)), (4, 3)),
    "y of a stream": (lambda y: model.partial_fit(normal(4, 3), y), (4,)),
    "weights of a stream": (lambda w: model.partial_fit(normal(4, 3), normal(4), w), (4,)),
    "a table to predict with": (lambda a: pairs.predict(known["dense"].like(a)[[0, 1]] * OneHot([0, 1], 3)), (2, 3)),
}  # fmt: skip


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.sampled_from(sorted(TABLES)), st.sampled_from([np.nan, np.inf, -np.inf]), st.sampled_from([np.float32, np.float64]),
    st.data(),
)  # fmt: skip
def test_position_is_named(name, value, dtype, data):
    make, shape = TABLES[name]
    array = np.abs(normal(*shape)).astype(dtype)
    where = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    array[where] = value
    word = "NaN" if np.isnan(value) else "infinity"
    with pytest.raises(ValueError, match=re.escape(f"{word} at position {where}")) as error:
        make(array)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in TABLES if name not in ("Tanimoto", "Kernel")])
def test_finite_ones_are_taken(name):
    make, shape = TABLES[name]
    assert make(np.minimum(np.abs(normal(*shape)), 1.0)) is not None


@pytest.mark.parametrize("value", [np.nan, -np.inf])
@pytest.mark.parametrize("kind", ["dense", "rbf", "kernel", "patches", "sparse"])
def test_mapped_tables(kind, value, tmp_path):
    array = np.ones((3, 3, 3) if kind == "patches" else (3, 3))
    array.flat[5] = value
    np.save(tmp_path / "t.npy", array)
    where = re.escape(str(tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])))
    with pytest.raises(ValueError, match=f"at position {where}"):
        read_table(tmp_path / "t.npy", kind)
    mapped = np.load(tmp_path / "t.npy", mmap_mode="r")
    make = {"dense": Dense, "rbf": RBF, "kernel": Kernel, "patches": Patches, "sparse": lambda a: Sparse(sp.csr_array(a))}[kind]
    with pytest.raises(ValueError, match=f"at position {where}"):
        make(mapped)


def test_deviation_too_small_to_divide_by():
    with pytest.raises(ValueError, match=r"once its columns are scaled, contains infinity at position \(0, 1\)"):
        Dense(np.ones((2, 2), dtype=np.float32), scale=[1.0, 1e-45])


@pytest.mark.parametrize("size", [1e-320, 1e-200, 1e200, 1e307])
def test_rows_whose_squares_are_no_numbers(size):
    """They have directions all the same; other rows keep their bits."""
    rows = normal(4, 3)
    expected = Dense(rows).array
    rows[2] = np.array([3.0, 0.0, 4.0]) * size / 4
    got = Dense(rows).array
    np.testing.assert_array_equal(got[[0, 1, 3]], expected[[0, 1, 3]])
    np.testing.assert_allclose(got[2], [0.6, 0, 0.8], rtol=1e-3 if size < 1e-300 else 1e-14)


def test_norm_beyond_floating_point():
    rows = normal(6, 3)
    rows[4] *= 1e200
    with pytest.raises(ValueError, match=r"row 4 of Dense\(6 × 3\) has a norm beyond what floating point holds"):
        KronRegressor(**OPTIONS).fit(Dense(rows, normalize=False), normal(6))
