"""How much two sentences share, as numbers: words, order, weights, meaning by word vectors, and negation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.preprocessing import normalize

if TYPE_CHECKING:
    from kronsgd.datasets.text import SentenceSpace

__all__ = ["overlap_of"]

Array = NDArray[Any]
NEGATIONS = {"no", "not", "nobody", "none", "nothing", "without", "neither", "nor", "never"}
NUMBERS = {"one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"}
FUNCTION_WORDS = {
    "a", "an", "the", "is", "are", "was", "were", "be", "being", "been", "of", "in", "on", "at", "to", "by", "with", "and",
    "or", "from", "for", "into", "there", "it", "its", "his", "her", "their", "some", "this", "that", "who", "which", "while",
    "as", "up", "down", "near", "over", "through", "has", "have", "having",
}  # fmt: skip
LATENT = (50, 200)  # dimensions of the sentences' latent semantic spaces


def overlap_of(space: SentenceSpace, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    """Columns: cosines of whole sentences, overlaps of sets and sequences, soft alignments by two word similarities, flags.

    Shape: (pairs, features). Every column is the same for (A, B) and (B, A).
    """
    cosines = [_row_cosines(table, first, second) for table in _tables(space)]
    similarities = _word_similarities(space)
    rows = [_pair(space, similarities, int(i), int(j)) for i, j in zip(first, second, strict=True)]
    return np.column_stack([*cosines, np.array(rows)])


def _row_cosines(table: Any, first: NDArray[np.int64], second: NDArray[np.int64]) -> Array:
    table = normalize(table)
    product = table[first].multiply(table[second]) if sp.issparse(table) else table[first] * table[second]
    return np.asarray(product.sum(axis=1)).ravel()


def _tables(space: SentenceSpace) -> Iterator[Any]:
    """Sentences as rows: tf-idf of words, stems and letters, latent semantic spaces, mean word vectors."""
    plain, stems = [[" ".join(sentence) for sentence in sentences] for sentences in (space.words, space.stems)]
    for texts, options in (
        (plain, {"token_pattern": r"\S+"}),
        (stems, {"token_pattern": r"\S+", "ngram_range": (1, 2)}),
        (plain, {"analyzer": "char_wb", "ngram_range": (2, 4)}),
    ):
        vectorizer = TfidfVectorizer(sublinear_tf=True, **options).fit([texts[i] for i in space.known])
        yield vectorizer.transform(texts)
    tfidf = space.bag @ sp.diags_array(space.weights)
    for dimensions in LATENT:
        size = min(dimensions, min(len(space.known), tfidf.shape[1]) - 1)
        yield TruncatedSVD(size, random_state=0).fit(tfidf[space.known]).transform(tfidf)
    yield tfidf @ space.vectors


def _word_similarities(space: SentenceSpace) -> list[Array]:
    """Cosines between stems: of word vectors, of letters, and the larger of the two. Shape: (vocabulary, vocabulary) each."""
    vectors = space.vectors
    meaning = np.clip(vectors @ vectors.T, 0, 1)
    np.fill_diagonal(meaning, 1)
    letters = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 4)).fit_transform(space.vocabulary)
    spelling = np.clip((letters @ letters.T).toarray(), 0, 1)
    return [meaning, spelling, np.maximum(meaning, spelling)]


def _pair(space: SentenceSpace, similarities: list[Array], i: int, j: int) -> list[float]:
    content = [[code for code, word in zip(space.codes[k], space.words[k], strict=True) if word not in FUNCTION_WORDS]
               for k in (i, j)]  # fmt: skip
    out = _sets(space.stems[i], space.stems[j]) + _sets(*content) + _sequences(space.stems[i], space.stems[j])
    out += _sequences(*content) + _weights(space.weights, *map(set, content)) + _flags(space.words[i], space.words[j])
    only = [np.array([c for c in mine if c not in set(its)], dtype=np.int64) for mine, its in (content, content[::-1])]
    a, b = (np.array(codes, dtype=np.int64) for codes in content)
    for similarity in similarities:
        out += _alignment(similarity, space.weights, a, b) + _alignment(similarity, space.weights, *only)
    return out


def _sets(a: Sequence[Any], b: Sequence[Any]) -> list[float]:
    """Jaccard's index of n-grams for n = 1 to 3, and the share of the smaller and of the larger set that is common."""
    out = []
    for n in (1, 2, 3):
        x, y = (set(zip(*[[None, *side, None][k:] for k in range(n)], strict=False)) for side in (a, b))
        out.append(len(x & y) / len(x | y))
    common, sizes = len(set(a) & set(b)), sorted((len(set(a)), len(set(b))))
    return [*out, *(common / max(size, 1) for size in sizes), *(float(size - common) for size in sizes)]


def _sequences(a: Sequence[Any], b: Sequence[Any]) -> list[float]:
    """Longest common subsequence and edit distance by the longer one's length; lengths; the same first and last item."""
    subsequence, edits = [0] * (len(b) + 1), list(range(len(b) + 1))
    for i, x in enumerate(a):
        longest, fewest = [0], [i + 1]
        for j, y in enumerate(b):
            longest.append(subsequence[j] + 1 if x == y else max(subsequence[j + 1], longest[j]))
            fewest.append(min(edits[j] + (x != y), edits[j + 1] + 1, fewest[j] + 1))
        subsequence, edits = longest, fewest
    shorter, longer = sorted((len(a), len(b)))
    ends = [float(bool(shorter) and a[k] == b[k]) for k in (0, -1)]
    return [subsequence[-1] / max(longer, 1), edits[-1] / max(longer, 1), float(shorter), float(longer), *ends]


def _weights(weight: Array, a: set[int], b: set[int]) -> list[float]:
    """Inverse document frequencies: of what is common, of what is only in one, and shares of them."""
    common, *only = (float(weight[list(codes)].sum()) for codes in (a & b, a - b, b - a))
    total = common + sum(only)
    return [common, *sorted(only), common / max(total, 1e-9), common / max(common + min(only), 1e-9)]


def _flags(a: Sequence[str], b: Sequence[str]) -> list[float]:
    """Negation in one or in both, other numbers, "there", the passive's "by", determiners, the same words in all."""
    x, y = set(a), set(b)
    one, other = bool(x & NEGATIONS), bool(y & NEGATIONS)
    out = [one != other, one and other, len((x ^ y) & NUMBERS), x == y]
    out += [(word in x) != (word in y) for word in ("no", "not", "there", "by")]
    out.append(sum(abs(a.count(word) - b.count(word)) for word in ("a", "the")))
    return [float(value) for value in out]


def _alignment(similarity: Array, weight: Array, a: NDArray[np.int64], b: NDArray[np.int64]) -> list[float]:
    """Every word with its most similar one on the other side: mean similarity by weight, and the weight left unexplained.

    Mean, smaller and larger of the two sides. Where one side is empty nothing is explained; where both are, all is.
    """
    if not len(a) or not len(b):
        left = max(float(weight[a].sum()), float(weight[b].sum()))
        return [float(not len(a) and not len(b))] * 3 + [0.0, left]
    table = similarity[np.ix_(a, b)]
    best = [(table.max(axis=1), weight[a]), (table.max(axis=0), weight[b])]
    explained = sorted(float(s @ w) / max(float(w.sum()), 1e-9) for s, w in best)
    return [sum(explained) / 2, *explained, *sorted(float((1 - s) @ w) for s, w in best)]
