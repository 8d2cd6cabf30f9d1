"""Counts of short pieces of strings: k-mers of sequences, n-grams of text."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import scipy.sparse as sp
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer

from kronsgd.features.derived import Derived
from kronsgd.features.leaf import Array
from kronsgd.features.leaves import Sparse
from kronsgd.validation import check_array, check_choice, check_integer

__all__ = ["Spectrum"]

logger = logging.getLogger(__name__)
ANALYZERS = ["char", "char_wb", "word"]


class Spectrum(Derived):
    """How often each k-mer occurs in a string (Leslie, Eskin and Noble 2002, "The spectrum kernel"), scaled to norm 1.

    Parameters: strings (entities,): none may be empty; k: length of the pieces, or (shortest, longest); analyzer: "char"
    for sequences, "char_wb" for characters within words, "word" for words; lowercase: ignore case; binary: whether a piece
    occurs rather than how often; sublinear: 1 + ln(count) in place of counts; idf: weigh pieces by how few strings have
    them; min_df: strings that a piece must occur in; max_pieces: the most frequent ones only.
    What pieces there are, and their weights, is learned from `strings` and kept by `like`; a string that has none of them is
    the zero vector. Cost of an inner product: the pieces that occur in a string.
    """

    table: Sparse

    def __init__(
        self, strings: Iterable[str], k: int | tuple[int, int] = 3, *, analyzer: str = "char", lowercase: bool = True,
        binary: bool = False, sublinear: bool = False, idf: bool = False, min_df: int = 1, max_pieces: int | None = None,
    ) -> None:  # fmt: skip
        check_choice("analyzer", analyzer, ANALYZERS)
        given = _checked_strings("strings", strings)
        self.options: dict[str, Any] = {
            "k": _checked_lengths(k), "analyzer": analyzer, "lowercase": bool(lowercase), "binary": bool(binary),
            "sublinear": bool(sublinear),
        }  # fmt: skip
        min_df = check_integer("min_df", min_df, 1, len(given))
        most = None if max_pieces is None else check_integer("max_pieces", max_pieces, 1)
        self.idf: Array | None = None
        try:
            counter = self._counter(min_df=min_df, max_features=most)
            counts = counter.fit_transform(given)
        except ValueError:
            low, high = self.options["k"]
            length = str(low) if low == high else f"{low} to {high}"
            raise ValueError(
                f"none of the {len(given)} strings has a piece of length {length} that occurs in at least "
                f"min_df={min_df} of them; choose a smaller k or min_df."
            ) from None
        self.pieces: list[str] = counter.get_feature_names_out().tolist()
        if idf:
            self.idf = TfidfTransformer(norm=None).fit(counts).idf_
        self.table = self._weighed(counts)

    def like(self, strings: Iterable[str]) -> Spectrum:
        """New strings in this space: pieces that are not known count nothing."""
        counts = self._counter(vocabulary=self.pieces).transform(_checked_strings("strings", strings))
        return self.holding(self._weighed(counts))

    def _counter(self, **options: Any) -> Any:
        words = {"token_pattern": r"(?u)\b\w+\b"} if self.options["analyzer"] == "word" else {}  # of one letter too
        return CountVectorizer(
            ngram_range=tuple(self.options["k"]), analyzer=self.options["analyzer"], lowercase=self.options["lowercase"],
            binary=self.options["binary"], dtype=np.float64, **words, **options,
        )  # fmt: skip

    def _weighed(self, counts: Any) -> Sparse:
        matrix = sp.csr_array(counts, dtype=np.float64)
        bare = np.flatnonzero(np.diff(matrix.indptr) == 0)
        if len(bare):
            logger.warning(
                "%d of %d strings have no known piece of lengths %s, the first at position %d: they are zero vectors, and all "
                "alike; choose a smaller k or check them.", len(bare), matrix.shape[0], self.options["k"], bare[0],
            )  # fmt: skip
        if self.options["sublinear"]:
            matrix.data = 1 + np.log(matrix.data)
        return Sparse(matrix if self.idf is None else matrix @ sp.diags_array(self.idf))

    def recipe(self) -> tuple[dict[str, Array], dict[str, Any]]:
        arrays = {} if self.idf is None else {"idf": self.idf}
        return arrays, {**self.options, "pieces": self.pieces}

    def use_recipe(self, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> None:
        self.pieces = [str(piece) for piece in options["pieces"]]
        self.options = {name: options[name] for name in ("k", "analyzer", "lowercase", "binary", "sublinear")}
        self.options["k"] = _checked_lengths(self.options["k"])
        if not isinstance(self.table, Sparse) or self.table.dim != len(self.pieces):
            raise ValueError("a spectrum's pieces do not fit its table")
        self.idf = check_array("idf", arrays, (len(self.pieces),), "f") if "idf" in arrays else None


def _checked_lengths(k: Any) -> list[int]:
    shortest, longest = k if isinstance(k, (tuple, list)) and len(k) == 2 else (k, k)
    low = check_integer("k", shortest, 1)
    return [low, check_integer("k", longest, low)]


def _checked_strings(name: str, strings: Iterable[str]) -> list[str]:
    if isinstance(strings, str):
        raise TypeError(f"{name} is one string, {strings[:20]!r}; give a list of strings, one for each entity.")
    given = list(strings)
    if not given:
        raise ValueError(f"{name} is empty; at least one string is needed.")
    wrong = next((i for i, string in enumerate(given) if not isinstance(string, str) or not string.strip()), None)
    if wrong is not None:
        raise ValueError(f"{name}[{wrong}] is {given[wrong]!r}; give non-empty text for every entity, or leave the entity out.")
    return [str(string) for string in given]
