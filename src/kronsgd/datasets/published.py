"""Published sets, read from a folder in the layout in which each is published; nothing is downloaded."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.datasets.files import damaged, read_idx, read_json, read_matrix, read_npz, read_text
from kronsgd.datasets.problem import Problem
from kronsgd.features import Dense, Features, Kernel, Sparse, Tanimoto
from kronsgd.validation import check_choice, check_integer, check_real

__all__ = ["SentencePairs", "load_davis", "load_digits", "load_mnist", "load_sick"]

Array = NDArray[Any]
PathOrStr = str | PathLike[str]
logger = logging.getLogger(__name__)

DAVIS_KD = "drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt"
DAVIS_DRUGS = "drug-drug_similarities_2D.txt"
DAVIS_PROTEINS = "target-target_similarities_WS.txt"
SICK_FILES = {"train": "SICK_train.txt", "trial": "SICK_trial.txt", "test": "SICK_test_annotated.txt"}
SICK_PAIRS = {"train": 4500, "trial": 500, "test": 4927}  # in the published files
SICK_HEADER = ["pair_ID", "sentence_A", "sentence_B", "relatedness_score", "entailment_judgment"]
SICK_LABELS = ["CONTRADICTION", "ENTAILMENT", "NEUTRAL"]


def _folder(path: PathOrStr, what: str) -> Path:
    folder = Path(path)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder; give the folder that holds {what}.")
    return folder


# Davis ---------------------------------------------------------------------------------------------------------------


def load_davis(
    folder: PathOrStr,
    *,
    drug_power: float = 2.0,
    protein_power: float = 0.5,
    drugs: str = "similarity",
    expression: Callable[[Features, Features], Features] | None = None,
) -> Problem:
    """Kinase inhibitor binding: 68 drugs × 442 proteins, target pKd = −log10(Kd / 10⁹ nM), from 5.0 to 10.8.

    Parameters: folder: the data/davis folder of github.com/hkmztrk/DeepDTA; drug_power, protein_power: exponents of the
    similarities, entry by entry; drugs: "similarity" (the published 2D Tanimoto table) or "morgan" (a Tanimoto leaf on
    the Morgan fingerprints in morgan2_2048.npz, raised to drug_power, which must then be a whole number); expression:
    a function of (drug rows, protein rows), by default their product.

    Rows of X: the pairs of the training lists of setting 1, list after list, each in the order of its file; `folds` are
    the row numbers of each list. X_test: the fixed test list in its order. The protein kernel is the Smith-Waterman
    score s_ij/√(s_ii s_jj). Raises FileNotFoundError or ValueError on missing or damaged files.
    Source: Davis et al. 2011, Nature Biotechnology 29, 1046; the folds are those of Öztürk et al. 2018 (DeepDTA).
    """
    folder = _folder(folder, f"the Davis files, such as {DAVIS_KD}")
    pkd = _davis_pkd(folder / DAVIS_KD)
    n_drugs, n_proteins = pkd.shape
    drug_leaf = _davis_drugs(folder, n_drugs, drugs, drug_power)
    proteins = Kernel(_smith_waterman(folder, n_proteins) ** _power("protein_power", protein_power), psd="clip")
    train, test = _davis_folds(folder / "folds", pkd.size)
    pkd = pkd.ravel()

    def rows(pairs: NDArray[np.int64]) -> Features:
        mine, its = drug_leaf[pairs // n_proteins], proteins[pairs % n_proteins]
        return mine * its if expression is None else expression(mine, its)

    union = np.concatenate(train)
    bounds = np.cumsum([0, *map(len, train)])
    folds = [np.arange(a, b) for a, b in pairwise(bounds)]
    problem = Problem(rows(union), pkd[union], rows(test), pkd[test], folds, "davis")
    logger.info("read %r from %s", problem, folder)
    return problem


def _davis_pkd(path: Path) -> Array:
    """−log10 of the dissociation constants in mol/l. Shape: (drugs, proteins)."""
    kd = read_matrix(path)
    if kd.min() <= 0:
        raise damaged(path, f"holds a Kd of {kd.min():g} nM, but every Kd is above 0")
    return np.asarray(-np.log10(kd / 1e9))


def _power(name: str, value: float) -> float:
    return check_real(name, value, 0, open_low=True)


def _davis_drugs(folder: Path, n_drugs: int, kind: str, power: float) -> Features:
    """The drug leaf: a kernel table, or fingerprints."""
    check_choice("drugs", kind, ["similarity", "morgan"])
    power = _power("drug_power", power)
    if kind == "similarity":
        similarity = read_matrix(folder / DAVIS_DRUGS, (n_drugs, n_drugs))
        if similarity.min() < 0:
            raise damaged(folder / DAVIS_DRUGS, f"holds a similarity of {similarity.min():g}, but none is below 0")
        return Kernel(similarity**power, psd="clip")
    if power != int(power):
        raise ValueError(
            f'drug_power={power:g} with drugs="morgan" is not allowed; give a whole number, or drugs="similarity".'
        )
    leaf = Tanimoto(_morgan_bits(folder, n_drugs))
    return leaf if power == 1 else leaf ** int(power)


def _morgan_bits(folder: Path, n_drugs: int) -> NDArray[np.uint8]:
    """Morgan fingerprints in the order of the Kd table's rows. Shape: (n_drugs, 2048), 0 or 1."""
    path = folder / "morgan2_2048.npz"
    arrays = read_npz(path)
    ids = list(read_json(folder / "ligands_can.txt"))  # this file's order is that of the Kd table
    if not {"bits", "ids"} <= arrays.keys() or arrays["bits"].ndim != 2 or arrays["bits"].dtype != np.uint8:
        raise damaged(path, "does not hold 'bits' (packed bytes, one row for each drug) and 'ids'")
    if arrays["ids"].ravel().tolist() != ids or len(arrays["bits"]) != n_drugs:
        raise damaged(path, f"does not list the {n_drugs} drugs in the order of ligands_can.txt")
    return np.unpackbits(arrays["bits"], axis=1)


def _smith_waterman(folder: Path, n_proteins: int) -> Array:
    """Scores scaled to 1 between a protein and itself. Shape: (n_proteins, n_proteins)."""
    score = read_matrix(folder / DAVIS_PROTEINS, (n_proteins, n_proteins))
    if score.min() < 0 or np.diag(score).min() <= 0:
        raise damaged(folder / DAVIS_PROTEINS, "holds a score below 0, or a protein whose score with itself is 0")
    norms = np.sqrt(np.diag(score))
    return np.asarray(score / norms[:, None] / norms)


def _davis_folds(folder: Path, n_pairs: int) -> tuple[list[NDArray[np.int64]], NDArray[np.int64]]:
    """(training lists, test list) of numbers of the row-major flattened Kd table; no pair is in two lists."""
    train_path, test_path = folder / "train_fold_setting1.txt", folder / "test_fold_setting1.txt"
    lists, test = read_json(train_path), read_json(test_path)
    if not isinstance(lists, list) or not lists:
        raise damaged(train_path, "does not hold lists of pair numbers")
    for path, part in [*((train_path, part) for part in lists), (test_path, test)]:
        if not isinstance(part, list) or not part or any(type(i) is not int or not 0 <= i < n_pairs for i in part):
            raise damaged(path, f"does not hold lists of pair numbers from 0 to {n_pairs - 1}")
    arrays = [np.array(part, dtype=np.int64) for part in [*lists, test]]
    if np.bincount(np.concatenate(arrays)).max() > 1:
        raise damaged(train_path, "shares a pair with the test list or between its own lists")
    return arrays[:-1], arrays[-1]


# Images --------------------------------------------------------------------------------------------------------------


def load_mnist(folder: PathOrStr, n_train: int | None = None, *, center: bool = True) -> Problem:
    """Handwritten digits, 28 × 28 pixels, the mean training image subtracted (`center`), scaled to norm 1.

    60,000 training and 10,000 test images, classes 0 to 9.

    Parameters: folder: holds the four idx files, gzipped; n_train: keep the first n_train training images (None: all).
    X is the leaf `Dense(pixels)` in float32; write expressions such as `problem.X ** 2`. Raises FileNotFoundError or
    ValueError on missing or damaged files. Source: LeCun et al. 1998.
    """
    folder = _folder(folder, "the MNIST files, such as train-images-idx3-ubyte.gz")
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

    folder = _folder(folder, "the SICK files, such as SICK_train.txt")
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
