"""Features of sentence pairs."""

from __future__ import annotations

import numpy as np
import pytest

import kronsgd as ks
from helpers.datasets import sentence
from kronsgd.datasets import SentenceSpace
from kronsgd.datasets.text import stem, word_vectors, words
from kronsgd.testing import check_features

SENTENCES = [
    "A man is playing a guitar",
    "A woman is playing a guitar",
    "There is no man playing a guitar",
    "A guitar is being played by a man",
    "Dogs aren't running",
    "A zebra sleeps",
]


@pytest.fixture(scope="module")
def space():
    return SentenceSpace(SENTENCES, known=range(5))


def test_words_and_stems():
    assert words("The dog isn't wet, is it?") == ["the", "dog", "is", "not", "wet", "is", "it"]
    assert {stem(word) for word in ("slicing", "sliced", "slices")} == {"slic"}
    assert [stem(word) for word in ("running", "runs", "is", "kissing")] == ["run", "run", "is", "kiss"]


def test_word_vectors_are_close_for_words_that_stand_together():
    rng = np.random.default_rng(0)
    topics = [["sea", "boat", "sail", "wave", "fish"], ["guitar", "singer", "stage", "flute", "drum"]]
    text = [list(rng.permutation(topics[k % 2])[:3]) for k in range(100)]
    vocabulary, vectors = word_vectors(text, n_components=2)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1)
    cosines = vectors @ vectors.T
    same = np.array([[(a in topics[0]) == (b in topics[0]) for a in vocabulary] for b in vocabulary])
    assert cosines[same].min() > 0.9
    assert cosines[~same].max() < 0.1


def test_too_few_words_for_vectors():
    with pytest.raises(ValueError, match="2 different words") as info:
        word_vectors([["a", "b"]])
    sentence(info)


def test_nothing_to_learn_from():
    with pytest.raises(ValueError, match="no sentences to learn from") as info:
        SentenceSpace(SENTENCES, known=np.zeros(0, dtype=int))
    sentence(info)


def test_replaced_words(space):
    """Man → woman: what is common to the two sentences is not in the row, and neither is how often a word occurs."""
    d = space.replaced([0, 3], [1, 3]).dense()
    man, woman = (space.vocabulary.index(word) for word in ("man", "woman"))
    expected = np.sqrt(space.weights[[man, woman]]) * [1, -1]
    np.testing.assert_allclose(d[0, [man, woman]], expected / np.linalg.norm(expected), rtol=1e-6)
    assert np.flatnonzero(d[0]).tolist() == sorted([man, woman])
    assert not d[1].any()


def test_squared_replacements_are_pairs_of_words_in_any_order(space):
    first, second = np.array([0, 0, 1, 2, 5, 3]), np.array([1, 2, 3, 4, 0, 3])
    d = space.replaced(first, second)
    pairs = np.einsum("ij,ik->ijk", d.dense(), d.dense()).reshape(len(first), -1)
    np.testing.assert_allclose((d**2).inner(), pairs @ pairs.T, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal((d**2).inner(space.replaced(second, first) ** 2), (d**2).inner())
    check_features(1 + d**2)


def test_overlap_is_symmetric(space):
    i, j = np.triu_indices(len(SENTENCES))
    table = space.overlap(i, j)
    assert np.isfinite(table).all()
    np.testing.assert_allclose(table, space.overlap(j, i), rtol=1e-12, atol=1e-12)


def test_overlap_orders_pairs(space):
    """The same sentence before one with a replaced word before one of other words, on the cosines of whole sentences."""
    same, replaced, other = space.overlap([0, 0, 0], [0, 1, 5])[:, :3]
    np.testing.assert_allclose(same, 1)
    assert (same > replaced).all()
    assert (replaced > other).all()


def test_unknown_words_have_their_own_column(space):
    assert {"zebra", "sleep"} <= set(space.vocabulary)
    unseen = space.vocabulary.index("zebra")
    assert space.weights[unseen] == space.weights.max()
    assert not space.vectors[unseen].any()
    assert space.vectors[space.vocabulary.index("guitar")].any()


def test_learning_costs_of_replacements():
    """Pairs of one replaced word each, whose score depends on the two words only: new pairs of the same words are predicted."""
    rng = np.random.default_rng(0)
    nouns, verbs = ["man", "woman", "dog", "cat", "boat", "car"], ["sees", "hears", "likes", "finds", "draws"]
    costs = rng.normal(size=(len(nouns), len(nouns)))
    costs += costs.T
    sentences = [f"The {noun} {verb} the {other}" for noun in nouns for verb in verbs for other in ("tree", "road", "lake")]
    i, j = (rng.integers(len(sentences), size=1500) for _ in range(2))
    j = j // 15 * 15 + i % 15  # the same verb and object
    i, j = i[i != j], j[i != j]
    y = costs[i // 15, j // 15]
    X = SentenceSpace(sentences).replaced(i, j) ** 2
    model = ks.KronRegressor(128, random_state=0).fit(X[:400], y[:400])
    assert model.score(X[400:], y[400:]) > 0.95
