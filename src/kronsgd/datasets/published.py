"""Published sets, read from a folder in the layout in which each is published; nothing is downloaded."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.datasets.files import PathOrStr, damaged, known_folder, read_idx, read_text
from kronsgd.datasets.problem import Problem
from kronsgd.features import Dense, Features, Sparse
from kronsgd.validation import check_choice, check_integer

__all__ = ["SentencePairs", "load_digits", "load_mnist", "load_sick"]

Array = NDArray[Any]
logger = logging.getLogger(__name__)

SICK_FILES = {"train": "SICK_train.txt", "trial": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}
SICK_PAIRS = {"train": 4500, "trial": 500, "test": 4927}  # in the published files
SICK_HEADER = ["pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"]
SICK_LABELS = ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]


# Images --------------------------------------------------------------------------------------------------------------


def load_mnist(folder: PathOrStr, n_train: int | None = None, *, center: bool = True) -> Problem:
    """Handwritten digits, 28 × 28 pixels, the mean training image subtracted (`center`), scaled to norm 1.

    60,000 training and 10,000 test images, classes 0 to 9.

    Parameters: folder: holds the four idx files, gzipped; n_train: keep the first n_train training images (None: all).
    X is the leaf `Dense(pixels)` in float32; write expressions such as `problem.X ** 2`. Raises FileNotFoundError or
    ValueError on missing or damaged files. Source: LeCun et al. 1998.
    """
    folder = known_folder(folder, "the MNIST files, such as train-images-idx3-ubyte.gz")
    images, labels = _mnist_part(folder, "train")
    if n_train is not None:
        n_train = check_integer("n_train", n_train, 1, len(images))
    test_images, test_labels = _mnist_part(folder, "t10k")
    X, y = Dense(_pixels(images[:n_train]), center=center), labels[:n_train].astype(np.int64)
    problem = Problem(X, y, X.like(_pixels(test_images)), test_labels.astype(np.int64), [], "mnist", "classification")
    logger.info("read %r from %s", problem, folder)
    return problem


def _mnist_part(folder: Path, part: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    images = read_idx(folder / f"{part}-images-idx3-ubyte.gz", 3)
    path = folder / f"{part}-labels-idx1-ubyte.gz"
    labels = read_idx(path, 1)
    if len(images) != len(labels) or labels.max() > 9:
        raise damaged(path, f"does not hold a label from 0 to 9 for each of the {len(images):,} images")
    return images, labels


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.asarray(images.reshape(len(images), -1) / np.float32(255), dtype=np.float32)


def load_digits(*, center: bool = True) -> Problem:
    """Scikit-learn's 1,797 digits of 8 × 8 pixels, the mean image subtracted (`center`), scaled to norm 1, classes 0 to 9.

    X is the leaf `Dense(pixels / 16, center=center)` in float64; there is no fixed test part.
    """
    from sklearn.datasets import load_digits as sklearn_digits

    pixels, y = sklearn_digits(return_X_y=True)
    return Problem(Dense(pixels / 16, center=center), y.astype(np.int64), name="digits", task="classification")


# SICK ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class SentencePairs:
    """Pairs of sentences with a relatedness score and an entailment label, in the order train, trial, test.

    `sentences`: the distinct sentences; `first`, `second` (n,): their numbers in each pair; `scores` (n,): 1 to 5;
    `labels` (n,): CONTRADICTION, ENTAILMENT or NEUTRAL; `parts`: pair numbers of "train", "trial" and "test"; X (n, d):
    tf-idf ⊗ tf-idf.
    """

    sentences: list[str]
    first: NDArray[np.int64]
    second: NDArray[np.int64]
    scores: NDArray[np.float64]
    labels: NDArray[np.str_]
    parts: dict[str, NDArray[np.int64]]
    X: Features

    def problem(self, target: str = "relatedness", X: Features | None = None) -> Problem:
        """Train and trial pairs as the training rows, with the trial pairs as the one fold, and the test pairs.

        Parameters: target: "relatedness" or "entailment"; X: other features of all pairs (default: those of the set).
        """
        check_choice("target", target, ["relatedness", "entailment"])
        X = self.X if X is None else X
        y: Array = self.scores if target == "relatedness" else self.labels
        rows, test = np.concatenate([self.parts["train"], self.parts["trial"]]), self.parts["test"]
        folds = [len(self.parts["train"]) + np.arange(len(self.parts["trial"]))]
        task = "regression" if target == "relatedness" else "classification"
        return Problem(X[rows], y[rows], X[test], y[test], folds, f"sick-{target}", task)


def load_sick(folder: PathOrStr) -> SentencePairs:
    """The SICK sentence pairs of SemEval-2014 task 1: 4,500 train, 500 trial and 4,927 test pairs.

    Parameters: folder: holds SICK_train.txt, SICK_trial.txt and SICK_test_annotated.txt. The features are
    `Sparse(tfidf)[first] * Sparse(tfidf)[second]`, with words and their weights from the train part's sentences only.
    Raises FileNotFoundError or ValueError on missing or damaged files.
    Source: Marelli et al. 2014, LREC.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    folder = known_folder(folder, "the SICK files, such as SICK_train.txt")
    by_part = {part: _sick_rows(folder / name) for part, name in SICK_FILES.items()}
    for part, part_rows in by_part.items():
        if len(part_rows) != SICK_PAIRS[part]:  # a file that was cut between two lines looks whole
            what = f"{len(part_rows):,} pairs, the published file {SICK_PAIRS[part]:,}"
            logger.warning("%s has %s; download it again unless you meant a part of the set.", folder / SICK_FILES[part], what)
    rows = [row for part in by_part.values() for row in part]
    numbers: dict[str, int] = {}
    pairs = np.array([[numbers.setdefault(text, len(numbers)) for text in row[:2]] for row in rows], dtype=np.int64)
    sentences = list(numbers)
    bounds = np.cumsum([0, *map(len, by_part.values())])
    parts = {part: np.arange(a, b) for part, (a, b) in zip(by_part, pairwise(bounds), strict=True)}
    vectorizer = TfidfVectorizer(dtype=np.float32)
    vectorizer.fit([sentences[i] for i in np.unique(pairs[parts["train"]])])
    table = Sparse(vectorizer.transform(sentences))
    X = table[pairs[:, 0]] * table[pairs[:, 1]]
    scores, labels = np.array([row[2] for row in rows]), np.array([row[3] for row in rows])
    logger.info("read %d sentence pairs from %s", len(rows), folder)
    return SentencePairs(sentences, pairs[:, 0].copy(), pairs[:, 1].copy(), scores, labels, parts, X)


def _sick_rows(path: Path) -> list[tuple[str, str, float, str]]:
    """(sentence A, sentence B, relatedness, label) of each line after the header."""
    lines = [line.rstrip("\r").split("\t") for line in read_text(path).rstrip("\r\n").split("\n")]
    if lines[0] != SICK_HEADER or len(lines) < 2:
        raise damaged(path, f"does not start with the header {SICK_HEADER} and a pair")
    rows = []
    for number, fields in enumerate(lines[1:], start=2):
        if len(fields) != 5:
            raise damaged(path, f"has {len(fields)} fields instead of 5 in line {number}")
        _, first, second, text, label = fields
        try:
            score = float(text)
        except ValueError:
            score = np.nan
        if not 1 <= score <= 5:
            raise damaged(path, f"has the relatedness {text!r} in line {number}, which is not a number from 1 to 5")
        if label not in SICK_LABELS:
            raise damaged(path, f"has the label {label!r} in line {number}, which is none of {SICK_LABELS}")
        rows.append((first, second, score, label))
    return rows
