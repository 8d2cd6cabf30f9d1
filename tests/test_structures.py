"""Leaves made from strings, images, categories and low-rank tables."""

from __future__ import annotations

import math
import re
from collections import Counter
from itertools import product as cartesian

import numpy as np
import pytest

import kronsgd as ks
from helpers.arrays import normal, relative
from helpers.engines import steps
from kronsgd.engines import ENGINES
from kronsgd.network import TwoLayer
from kronsgd.testing import check_features

pytestmark = pytest.mark.usefixtures("one_thread")

PROTEINS = ["MKVLAAGIV", "MKVLA", "AAGIVGGKVL", "WWWWYY", "GIVMKVL"]
TEXTS = ["a cat sat", "the cat sat on the mat", "a dog", "the dog ate the cat"]


def images(n=7, height=8, width=9, channels=None, seed=0):
    shape = (n, height, width) if channels is None else (n, height, width, channels)
    return np.random.default_rng(seed).random(shape)


MADE = {
    "k-mers": lambda: ks.Spectrum(PROTEINS, 3),
    "k-mers of several lengths": lambda: ks.Spectrum(PROTEINS, (1, 3), binary=True),
    "words with idf": lambda: ks.Spectrum(TEXTS, (1, 2), analyzer="word", sublinear=True, idf=True),
    "Patches": lambda: ks.Patches(images(), 3, n_filters=6, n_places=4),
    "Patches less their mean": lambda: ks.Patches(images(), 3, 2, n_filters=6, n_places=4, center=True),
    "Patches with components": lambda: ks.Patches(images(channels=2), 3, 2, n_filters=6, n_components=3),
    "Patches whitened": lambda: ks.Patches(images(), 3, n_filters=6, n_places=4, n_components=3, whiten=0.75),
    "Categories": lambda: ks.Categories([["a", 1], ["b", 2], ["a", None], ["c", 1]]),
    "LowRank": lambda: ks.LowRank(normal(6, 3), normal(3, 20, seed=1)),
    "LowRank of few columns": lambda: ks.LowRank(normal(6, 5), normal(5, 2, seed=1)),
}
MORE = {
    "k-mers": ["KVLKVL", "PPPP"], "k-mers of several lengths": ["KVLKVL", "A"], "words with idf": ["the cat", "unheard of"],
    "Patches": images(3, seed=1), "Patches less their mean": images(3, seed=1), "Patches whitened": images(3, seed=1),
    "Patches with components": images(3, channels=2, seed=1), "Categories": [["c", 2], ["z", 1], ["z", 9]],
    "LowRank": normal(4, 3, seed=2), "LowRank of few columns": normal(4, 5, seed=2),
}  # fmt: skip


@pytest.mark.parametrize("name", MADE)
def test_conformance_with_new_entities(name):
    leaf = MADE[name]()
    new = leaf.like(MORE[name])
    check_features(leaf, new)
    check_features(leaf[[0, 2, 2, 1]] * (1 + leaf[[1, 1, 0, 2]]), new[[1, 0]] * (1 + new[[0, 0]]))


@pytest.mark.parametrize("name", MADE)
def test_known_entities_come_back_as_they_were(name, tmp_path):
    """Before and after a model file, `like` makes of the same things the same rows."""
    leaf = MADE[name]()
    n = len(leaf)
    X = (1 + leaf)[np.arange(12) % n]
    options = {"max_iter": 1, "learning_rate_init": 1.0, "random_state": 0, "n_jobs": 1, "engine": "scan"}
    model = ks.KronRegressor(16, **options).fit(X, np.arange(12.0) % 5)
    model.save(tmp_path / "m")
    loaded = next(ks.load(tmp_path / "m").features_.leaves())
    for made in (leaf, loaded):
        np.testing.assert_array_equal(made.like(MORE[name]).inner(leaf), leaf.like(MORE[name]).inner(leaf))
    assert ks.load(tmp_path / "m").predict(X).tobytes() == model.predict(X).tobytes()


# Strings -------------------------------------------------------------------------------------------------------------


def test_spectrum_counts_k_mers():
    counts = [Counter(s[i : i + 3].lower() for i in range(len(s) - 2)) for s in PROTEINS]
    gram = np.array([[sum(a[piece] * b[piece] for piece in a) for b in counts] for a in counts], dtype=float)
    norms = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(ks.Spectrum(PROTEINS, 3).inner(), gram / norms[:, None] / norms, rtol=1e-12)


def test_spectrum_options():
    assert ks.Spectrum(["aA", "Ab"], 1, lowercase=False).pieces == ["A", "a", "b"]
    assert ks.Spectrum(TEXTS, 1, analyzer="word").pieces == ["a", "ate", "cat", "dog", "mat", "on", "sat", "the"]
    assert ks.Spectrum(TEXTS, 1, analyzer="word", min_df=2, max_pieces=2).dim == 2
    assert ks.Spectrum(["ab", "ab"], 2, analyzer="char_wb").pieces == [" a", "ab", "b "]
    twice = ks.Spectrum(["aab", "ab"], 1)
    assert twice.inner()[0, 1] == pytest.approx(3 / math.sqrt(10))
    assert ks.Spectrum(["aab", "ab"], 1, binary=True).inner()[0, 1] == pytest.approx(1)
    damped = 1 + math.log(2)
    assert ks.Spectrum(["aab", "ab"], 1, sublinear=True).inner()[0, 1] == pytest.approx(
        (damped + 1) / math.sqrt(2 * (damped**2 + 1))
    )
    rare = 1 + math.log(3 / 2)  # scikit-learn's smooth idf of a piece that one of two strings has
    assert ks.Spectrum(["ab", "b"], 1, idf=True).inner()[0, 1] == pytest.approx(1 / math.sqrt(1 + rare**2))


# Images --------------------------------------------------------------------------------------------------------------


def test_patches_are_summed_patch_by_patch():
    """Against the definition, with as many filters as there are patches: then the span of the filters holds every patch."""
    x = images(2, 4, 5)
    leaf = ks.Patches(x, 3, n_filters=100, n_places=100, beta=0.5, blur=1.5)
    windows = [[x[n, i : i + 3, j : j + 3].ravel() for i, j in cartesian(range(2), range(3))] for n in range(2)]
    places = np.array(list(cartesian(range(2), range(3))))
    near = np.exp(-((places[:, None] - places) ** 2).sum(axis=2) / (2 * 1.5**2))
    p = np.array(windows) - np.mean(windows, axis=2, keepdims=True)
    norms = np.linalg.norm(p, axis=2, keepdims=True)
    gram = np.empty((2, 2))
    for a, b in cartesian(range(2), range(2)):
        cosine = (p[a] / norms[a]) @ (p[b] / norms[b]).T
        gram[a, b] = (norms[a] * norms[b].T * np.exp(0.5 * (cosine - 1)) * near).sum()
    scale = np.sqrt(np.diag(gram))
    np.testing.assert_allclose(leaf.inner(), gram / scale[:, None] / scale, atol=2e-4)


def test_nearby_shifts_are_alike():
    spot = np.zeros((4, 12, 12))
    for k, column in enumerate((2, 3, 5, 8)):
        spot[k, 4:6, column : column + 2] = 1
    alike = ks.Patches(spot, 3, n_filters=30, n_places=30, blur=1.5).inner()[0]
    assert 1 > alike[1] > alike[2] > alike[3] > 0


def test_patches_do_not_depend_on_chunks_and_repeat_by_seed(monkeypatch):
    make = lambda seed: ks.Patches(images(9), 3, n_filters=4, n_places=3, seed=seed).dense()  # noqa: E731
    first = make(1)
    assert np.array_equal(first, make(1))
    assert relative(make(2), first) > 1e-3
    monkeypatch.setattr("kronsgd.features.patches.CHUNK", 1)
    np.testing.assert_allclose(make(1), first, atol=1e-6)


def test_images_without_contrast_are_zero():
    blank = np.concatenate([images(3), np.full((1, 8, 9), 0.5)])
    leaf = ks.Patches(blank, 3, n_filters=4)
    assert leaf.squared_norms()[3] == 0
    np.testing.assert_allclose(leaf.squared_norms()[:3], 1, rtol=1e-5)


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_whitening_divides_each_component_by_its_deviation_to_a_power(power):
    """Before rows are scaled to norm 1; against principal components that were not whitened."""
    make = lambda whiten: ks.Patches(images(40), 3, n_filters=6, n_places=4, n_components=3, whiten=whiten)  # noqa: E731
    plain, white = make(0.0), make(power)
    bags = plain._bags(images(40)[..., None]) - plain.mean
    std = (bags @ plain.components.T).std(axis=0)
    expected = (bags @ plain.components.T) * (std[0] / std) ** power
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(white.dense(), expected, atol=1e-4)


# Categories and low rank ---------------------------------------------------------------------------------------------


def test_crosses_are_shares_of_equal_columns():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 3, (8, 5))
    share = (table[:, None] == table).mean(axis=2)
    for degree in (1, 2, 3):
        np.testing.assert_allclose(ks.crosses(table, degree).inner(), (1 + share) ** degree, rtol=1e-12)
    known = ks.Categories({f"column {c}": table[:, c] for c in range(5)})
    new = ks.crosses(known.like(table[:3]))
    np.testing.assert_allclose(new.inner(ks.crosses(known)), (1 + share[:3]) ** 2, rtol=1e-12)


def test_whole_numbers_are_one_category_however_they_are_written():
    for table in ([[1.0, "a"], [2, "b"]], [["1", "a"], ["2", "b"]]):
        assert ks.Categories(table).known == [["1", "2"], ["a", "b"]]


@pytest.mark.parametrize("shape", [(3, 20), (5, 2), (4, 4)])
def test_low_rank_equals_its_rows(shape):
    u, v = normal(6, shape[0]), normal(*shape, seed=1)
    np.testing.assert_allclose(ks.LowRank(u, v).inner(), ks.Dense(u @ v).inner(), atol=1e-12)
    assert ks.LowRank(u, v).n_coordinates == min(shape)


# Products of three and more factors ------------------------------------------------------------------------------------


def _many_factors(n):
    rng = np.random.default_rng(0)
    pick = lambda size: rng.integers(0, size, n)  # noqa: E731
    i = pick(5)
    a, b = ks.Spectrum(PROTEINS, 2), ks.LowRank(normal(6, 2), normal(2, 9, seed=1))
    c, d = ks.Categories([["x", "u"], ["y", "u"], ["z", "v"]]), ks.OneHot(np.arange(4))
    return {
        "three tables": a[i] * (1 + b[pick(6)]) * c[pick(3)],
        "four tables": a[i] * b[pick(6)] * (1 + c[pick(3)]) * (1 + d[pick(4)]),
        "five factors over three tables": a[i] * (1 + a[i]) * b[pick(6)] ** 2 * (0.5 + c[pick(3)]),
        "weighted terms": (0.3 * a[i] + 0.7) * (0.2 * b[pick(6)]) * (1 + 2 * c[pick(3)]),
    }


@pytest.mark.parametrize("name", _many_factors(2))
@pytest.mark.parametrize("engine", ["scan", "grid", "tree"])
def test_many_factors_in_every_engine(name, engine):
    features = _many_factors(36)[name]
    targets = np.random.default_rng(1).normal(size=(36, 1))
    network = TwoLayer(n_hidden=30, output_scale=1.0, dtype="float64", threshold=0.0)
    weights = []
    for each in (engine, "dense"):
        state = ENGINES[each].initialize(network, features)
        start = ENGINES[each].hidden_weights(state)
        steps(ENGINES[each], state, targets, 50)
        weights.append(ENGINES[each].hidden_weights(state))
    assert relative(*weights) < 1e-11
    assert relative(weights[1], start) > 1e-3  # as in check_engine: it trains


# Mistakes ------------------------------------------------------------------------------------------------------------

flat = images(2)
REFUSED = {
    "one string": (lambda: ks.Spectrum("MKV"), TypeError, "is one string, 'MKV'"),
    "no strings": (lambda: ks.Spectrum([]), ValueError, "strings is empty"),
    "an empty string": (lambda: ks.Spectrum(["ab", " "]), ValueError, r"strings\[1\] is ' '; give non-empty text"),
    "a string that is missing": (lambda: ks.Spectrum(PROTEINS).like(["ab", None]), ValueError, r"strings\[1\] is None"),
    "strings that are too short": (lambda: ks.Spectrum(["ab", "c"], 3), ValueError, r"length 3 .*smaller k"),
    "k of 0": (lambda: ks.Spectrum(PROTEINS, 0), ValueError, "k=0 is out of range"),
    "k turned round": (lambda: ks.Spectrum(PROTEINS, (3, 1)), ValueError, "k=1 is out of range; .* at least 3"),
    "an unknown analyzer": (lambda: ks.Spectrum(PROTEINS, analyzer="words"), ValueError, "Did you mean 'word'"),
    "other pieces": (
        lambda: ks.Spectrum(["abc", "abd"]).inner(ks.Spectrum(["abc", "xyz"])), ValueError, "make it with .like",
    ),
    "flat rows as images": (lambda: ks.Patches(flat.reshape(2, -1)), ValueError, r"shape \(2, 72\); .*reshape"),
    "images with NaN": (lambda: ks.Patches(flat * np.nan), ValueError, "images contains NaN"),
    "images as text": (lambda: ks.Patches(flat.astype(str)), ValueError, "images is <U"),
    "a patch larger than the image": (lambda: ks.Patches(flat, 9), ValueError, "size=9 is larger than images of 8 × 9 pixels"),
    "a stride of 0": (lambda: ks.Patches(flat, 3, 0), ValueError, "stride=0 is out of range"),
    "too many components": (lambda: ks.Patches(flat, 3, n_components=3), ValueError, "n_components=3 .* at most 2"),
    "whitening without components": (lambda: ks.Patches(flat, 3, whiten=0.5), ValueError, "whiten=0.5 .* give n_components"),
    "images that are all flat": (lambda: ks.Patches(np.ones((2, 5, 5)), 3), ValueError, "no patch .* has any contrast"),
    "images of another size": (lambda: ks.Patches(flat, 3).like(flat[:, :5]), ValueError, r"\(5, 9, 1\), known .* \(8, 9, 1\)"),
    "categories without columns": (lambda: ks.Categories(["a", "b"]), ValueError, "a column for each variable"),
    "columns of different lengths": (lambda: ks.Categories({"a": [1, 2], "b": [1]}), ValueError, "equally many"),
    "a number that is no category": (lambda: ks.Categories([[0.5], [1.0]]), ValueError, "column 0 holds 0.5"),
    "a column without categories": (lambda: ks.Categories([[None], [""]]), ValueError, "column 0 .* no category"),
    "new rows with fewer columns": (lambda: ks.Categories([[1, 2]]).like([[1]]), ValueError, "has 1 columns"),
    "factors that do not fit": (lambda: ks.LowRank(normal(3, 2), normal(3, 2)), ValueError, "u has 2 columns but v has 3"),
    "new factors that do not fit": (
        lambda: ks.LowRank(normal(3, 2), normal(2, 4)).like(normal(3, 3)), ValueError, "has 3 columns; .* 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refusal(name):
    make, kind, message = REFUSED[name]
    with pytest.raises(kind) as error:
        make()
    assert re.search(message, str(error.value), flags=re.DOTALL), error.value


def test_named_columns_are_found_by_name(tmp_path):
    table = {"colour": ["red", "blue", "red"], "region": ["n", "s", "s"]}
    known = ks.Categories(table)
    turned = {"region": table["region"], "more": ["a", "b", "c"], "colour": table["colour"]}
    assert np.array_equal(known.like(turned).inner(known), known.inner())
    with pytest.raises(ValueError, match=r"no column 'region'; it needs \['colour', 'region'\]. Did you mean 'regoin'"):
        known.like({"colour": ["red"], "regoin": ["n"]})
    model = ks.KronRegressor(16, max_iter=1, random_state=0).fit(1 + known, [0.0, 1.0, 2.0])
    model.save(tmp_path / "named.kron")
    loaded = ks.load(tmp_path / "named.kron")
    assert np.array_equal(loaded.predict(1 + known.like(turned)), model.predict(1 + known))


def test_strings_without_a_piece_are_told(caplog):
    known = ks.Spectrum(["abcd", "ab"], k=3)
    assert "1 of 2 strings have no known piece of lengths [3, 3], the first at position 1" in caplog.text
    caplog.clear()
    known.like(["abc"])
    assert not caplog.text
    known.like(["abc", "xyz"])
    assert "the first at position 1" in caplog.text


def test_ids_as_owners_are_refused_before_memory_is():
    with pytest.raises(ValueError, match=r"owner\[1\] is 900000000000 for 2 items.*number bags from 0"):
        ks.Bag(ks.Dense(np.eye(2)), [7, 900_000_000_000])


def test_crosses_of_other_features_are_refused():
    with pytest.raises(TypeError, match=r"crosses are of columns of categories, not of Dense\(2 × 2\)"):
        ks.crosses(ks.Dense(np.eye(2)), 2)


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        ([1.0, 2.0, 3.0], [0, 1, 2], "none of the 3 rows have such a partner"),
        ([1.0, 1.0, 1.0], [0, 0, 1], "none of the 3 rows have such a partner"),
        ([1.0, 2.0, 3.0], [0, 0, np.nan], "groups has no value at position 2"),
    ],
)
def test_ranking_without_anything_to_rank(y, groups, message):
    with pytest.raises(ValueError, match=message):
        ks.KronRegressor(16, loss="ranking", max_iter=1).fit(ks.Dense(np.eye(3)), y, groups=groups)


def test_missing_values_of_data_frames_are_no_categories():
    pandas = pytest.importorskip("pandas")
    columns = {"a": (["x", None, "y"], "string"), "b": ([1, 2, None], "Int64")}
    frame = pandas.DataFrame({name: pandas.array(values, dtype=kind) for name, (values, kind) in columns.items()})
    assert ks.Categories(frame).known == [["x", "y"], ["1", "2"]]
