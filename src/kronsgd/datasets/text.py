"""Pairs of English sentences as features, learned from the sentences alone: no embeddings or word lists from outside."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import ArrayLike, NDArray
from scipy.sparse.linalg import svds

from kronsgd.datasets.overlap import overlap_of
from kronsgd.features import Sparse
from kronsgd.validation import as_index, check_integer

__all__ = ["SentenceSpace", "stem", "word_vectors", "words"]

Array = NDArray[Any]
SUFFIXES = ("ing", "ed", "ly", "es", "er", "s")
WINDOW, DIMENSIONS = 5, 150  # of word vectors


def words(sentence: str) -> list[str]:
    """Lower-case words; n't is the word not."""
    return re.findall(r"\w+", sentence.lower().replace("n't", " not"))


def stem(word: str) -> str:
    """The word without one common suffix: plays, played, playing → play; slicing, sliced, slices → slic."""
    for suffix in SUFFIXES:
        if word.endswith(suffix) and len(word) - len(suffix) >= 3:
            word = word[: -len(suffix)]
            break
    if len(word) > 3 and word[-1] == word[-2] and word[-1] not in "sl":
        word = word[:-1]
    return word[:-1] if len(word) > 3 and word[-1] in "ey" else word


def word_vectors(
    sentences: Sequence[Sequence[str]], n_components: int = DIMENSIONS, window: int = WINDOW, seed: int = 0
) -> tuple[list[str], Array]:
    """(words in order, their vectors (words, n_components) of norm 1) from which words stand near each other.

    Parameters: sentences: lists of words; window: neighbours on each side, weighted by 1 / distance.
    The vectors are the singular vectors, times the root of the singular values, of the positive pointwise mutual information
    with context counts to the power 0.75. Fewer components where there are not enough words.
    Source: Levy, Goldberg and Dagan 2015, TACL 3, 211, sections 2 and 3. ValueError for fewer than three words.
    """
    n_components, window = check_integer("n_components", n_components, 1), check_integer("window", window, 1)
    vocabulary = sorted({word for sentence in sentences for word in sentence})
    if len(vocabulary) < 3:
        raise ValueError(f"the sentences have {len(vocabulary)} different words; at least 3 are needed for word vectors.")
    number = {word: i for i, word in enumerate(vocabulary)}
    counts: Counter[tuple[int, int]] = Counter()  # of numbers with fractions, which its type does not allow for: see below
    for sentence in sentences:
        ids = [number[word] for word in sentence]
        for i, a in enumerate(ids):
            for distance, b in enumerate(ids[i + 1 : i + 1 + window], start=1):
                counts[a, b] += 1 / distance  # type: ignore[assignment]
                counts[b, a] += 1 / distance  # type: ignore[assignment]
    return vocabulary, _factorize(counts, len(vocabulary), n_components, seed)


def _factorize(counts: Counter[tuple[int, int]], n_words: int, n_components: int, seed: int) -> Array:
    rows, columns = np.array(list(counts), dtype=np.int64).reshape(-1, 2).T
    weights = np.array(list(counts.values()), dtype=np.float64)
    total = np.bincount(rows, weights, n_words)
    context = total**0.75 / (total**0.75).sum()
    information = np.maximum(np.log(weights / (total[rows] * context[columns])), 0)
    matrix = sp.csr_array((information, (rows, columns)), shape=(n_words, n_words))
    left, values, _ = svds(matrix, k=min(n_components, n_words - 1), rng=np.random.default_rng(seed))
    vectors = left * np.sqrt(np.maximum(values, 0))
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12))


class SentenceSpace:
    """Features of pairs of sentences: which words are only in one of them, and how much the two overlap.

    Parameters: sentences: all distinct sentences; known: numbers of those to learn from (default: all): weights of words,
    word vectors, and latent spaces. A stem that no known sentence has keeps its own column, with the largest weight.
    Every feature is symmetric: the pair (A, B) has the same row as (B, A). Cost: a dozen seconds for 6,000 sentences.
    """

    def __init__(self, sentences: Sequence[str], known: ArrayLike | None = None) -> None:
        self.sentences = list(sentences)
        self.known = np.arange(len(self.sentences)) if known is None else as_index("sentences", known, len(self.sentences))
        if not len(self.known):
            raise ValueError("there are no sentences to learn from; give at least one.")
        self.words = [words(sentence) for sentence in self.sentences]
        self.stems = [[stem(word) for word in sentence] for sentence in self.words]
        self.vocabulary = sorted({word for sentence in self.stems for word in sentence})
        number = {word: i for i, word in enumerate(self.vocabulary)}
        self.codes = [np.array([number[word] for word in sentence], dtype=np.int64) for sentence in self.stems]
        lengths = [len(codes) for codes in self.codes]
        ones, starts = np.ones(sum(lengths)), np.concatenate([[0], np.cumsum(lengths)])
        bag = sp.csr_array((ones, np.concatenate(self.codes), starts), shape=(len(lengths), len(number)))
        bag.sum_duplicates()
        self.bag = (bag > 0).astype(np.float64)
        n = len(self.known)
        self.weights = np.log((n + 1) / (self.bag[self.known].sum(axis=0) + 1))  # inverse document frequencies

    @cached_property
    def vectors(self) -> Array:
        """Word vectors of the vocabulary, zero for stems that no known sentence has. Shape: (vocabulary, dimensions)."""
        seen, found = word_vectors([self.stems[i] for i in self.known])
        out = np.zeros((len(self.vocabulary), found.shape[1]))
        out[np.searchsorted(self.vocabulary, seen)] = found
        return out

    def replaced(self, first: ArrayLike, second: ArrayLike) -> Sparse:
        """d = u − v, scaled to norm 1: u the stems only in A, v those only in B, times the roots of their weights.

        d ** 2 holds a learnable entry for every two words that were exchanged, and does not notice which sentence is A:
        ⟨d, d'⟩² = (⟨u, u'⟩ + ⟨v, v'⟩ − ⟨u, v'⟩ − ⟨v, u'⟩)². Pairs with the same stems have a row of zeros.
        """
        a, b = (self.bag[np.asarray(side)] for side in (first, second))
        difference = sp.csr_array((a - b) @ sp.diags_array(np.sqrt(self.weights)))
        difference.eliminate_zeros()
        return Sparse(difference)

    def overlap(self, first: ArrayLike, second: ArrayLike) -> Array:
        """Numbers that say how much two sentences share (see `overlap_of`), as columns. Shape: (pairs, features)."""
        return overlap_of(self, np.asarray(first), np.asarray(second))
