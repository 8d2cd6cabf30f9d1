"""The Davis set of kinase inhibitor binding, read from a folder in the layout in which it is published."""

from __future__ import annotations

import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.datasets.files import PathOrStr, damaged, known_folder, read_json, read_matrix, read_npz
from kronsgd.datasets.problem import Problem
from kronsgd.features import Features, Kernel, Tanimoto
from kronsgd.validation import check_choice, check_real

__all__ = ["load_davis"]

Array = NDArray[Any]
Index = NDArray[np.int64]
logger = logging.getLogger(__name__)

KD = "drug-target_interaction_affinities_Kd__Davis_et_al.2011v1.txt"
DRUGS = "drug-drug_similarities_2D.txt"
PROTEINS = "target-target_similarities_WS.txt"
SPLITS = ("setting1", "drugs", "proteins", "both")
TRAIN_DRUGS, TRAIN_PROTEINS = 40, 300  # of RLScore's splits by entity
FOLDS = 5  # of the training entities of a split by entity


def load_davis(
    folder: PathOrStr,
    *,
    drug_power: float = 2.0,
    protein_power: float = 0.5,
    drugs: str = "similarity",
    fingerprints: float = 0.0,
    names: float = 0.0,
    split: str = "setting1",
    expression: Callable[[Features, Features], Features] | None = None,
) -> Problem:
    """Kinase inhibitor binding: 68 drugs × 442 proteins, target pKd = −log10(Kd / 10⁹ nM), from 5.0 to 10.8.

    Parameters: folder: the data/davis folder of github.com/hkmztrk/DeepDTA; drug_power, protein_power: exponents of the
    similarities, entry by entry; drugs: "similarity" (the published 2D Tanimoto table) or "morgan" (a Tanimoto leaf on
    the Morgan fingerprints in morgan2_2048.npz, raised to drug_power, which must then be a whole number); expression:
    a function of (drug rows, protein rows), by default their product.

    What is added to the similarities, times the weight given: fingerprints: the Tanimoto similarity of the drugs' Morgan
    fingerprints; names: that of the letter pairs in the proteins' names, such as ABL1(T315I), because the 442 proteins
    have only 379 sequences: mutants and domains are published with that of the wild type. Families share letters, too.

    split: "setting1": X has the pairs of the published training lists, list after list, each in the order of its file,
    `folds` the row numbers of each list, X_test the fixed test list. The others hold entities out, as RLScore's tutorial
    does: "drugs" 28 of 68, "proteins" 142 of 442, "both" trains on 40 × 300 and tests on the other 28 × 142. Pairs come
    drug by drug; `folds` hold out a fifth of the training proteins for "proteins", else a fifth of the training drugs.

    The protein kernel is the Smith-Waterman score s_ij/√(s_ii s_jj). Raises FileNotFoundError or ValueError on missing
    or damaged files. Source: Davis et al. 2011, Nature Biotechnology 29, 1046; the lists are those of Öztürk et al. 2018
    (DeepDTA), the entities those of Pahikkala and Airola 2016, JMLR 17 (RLScore), a shuffle with NumPy's seed 1.
    """
    check_choice("split", split, SPLITS)
    folder = known_folder(folder, f"the Davis files, such as {KD}")
    pkd = _pkd(folder / KD)
    n_drugs, n_proteins = pkd.shape
    drug_leaf = _drug_leaf(folder, n_drugs, drugs, drug_power, _weight("fingerprints", fingerprints))
    protein = _smith_waterman(folder, n_proteins) ** _power("protein_power", protein_power)
    if _weight("names", names):
        protein += names * _name_similarity(folder, n_proteins)
    protein_leaf = Kernel(protein, psd="clip")
    pairs, test, folds = _lists(folder / "folds", pkd.size) if split == "setting1" else _entities(split, *pkd.shape)
    pkd = pkd.ravel()

    def rows(pairs: Index) -> Features:
        mine, its = drug_leaf[pairs // n_proteins], protein_leaf[pairs % n_proteins]
        return mine * its if expression is None else expression(mine, its)

    problem = Problem(rows(pairs), pkd[pairs], rows(test), pkd[test], folds, "davis")
    logger.info("read %r from %s", problem, folder)
    return problem


# Tables --------------------------------------------------------------------------------------------------------------


def _pkd(path: Path) -> Array:
    """−log10 of the dissociation constants in mol/l. Shape: (drugs, proteins)."""
    kd = read_matrix(path)
    if kd.min() <= 0:
        raise damaged(path, f"holds a Kd of {kd.min():g} nM, but every Kd is above 0")
    return np.asarray(-np.log10(kd / 1e9))


def _power(name: str, value: float) -> float:
    return check_real(name, value, 0, open_low=True)


def _weight(name: str, value: float) -> float:
    return check_real(name, value, 0)


def _drug_leaf(folder: Path, n_drugs: int, kind: str, power: float, fingerprints: float) -> Features:
    """The drug leaf: a kernel table, or fingerprints alone."""
    check_choice("drugs", kind, ["similarity", "morgan"])
    power = _power("drug_power", power)
    if kind == "similarity":
        kernel = read_matrix(folder / DRUGS, (n_drugs, n_drugs))
        if kernel.min() < 0:
            raise damaged(folder / DRUGS, f"holds a similarity of {kernel.min():g}, but none is below 0")
        kernel = kernel**power
        if fingerprints:
            kernel += fingerprints * Tanimoto(_morgan_bits(folder, n_drugs)).inner()
        return Kernel(kernel, psd="clip")
    if fingerprints:
        raise ValueError(f'fingerprints={fingerprints:g} is added to a table; with drugs="morgan" leave it out.')
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
    score = read_matrix(folder / PROTEINS, (n_proteins, n_proteins))
    if score.min() < 0 or np.diag(score).min() <= 0:
        raise damaged(folder / PROTEINS, "holds a score below 0, or a protein whose score with itself is 0")
    norms = np.sqrt(np.diag(score))
    return np.asarray(score / norms[:, None] / norms)


def _name_similarity(folder: Path, n_proteins: int) -> Array:
    """Tanimoto similarity of the sets of letter pairs, both ends marked. Shape: (n_proteins, n_proteins)."""
    path = folder / "proteins.txt"
    names = read_json(path)
    if not isinstance(names, dict) or len(names) != n_proteins:
        raise damaged(path, f"does not hold {n_proteins} proteins by name")
    sets = [{a + b for a, b in pairwise(f"^{name}$")} for name in names]  # the file's order is that of the Kd table
    column = {pair: k for k, pair in enumerate(sorted(set().union(*sets)))}
    bits = np.zeros((n_proteins, len(column)))
    for row, pairs in zip(bits, sets, strict=True):
        row[[column[pair] for pair in pairs]] = 1
    return Tanimoto(bits).inner()


# Splits --------------------------------------------------------------------------------------------------------------


def _lists(folder: Path, n_pairs: int) -> tuple[Index, Index, list[Index]]:
    """(training pairs, test pairs, rows of each training list) of the row-major flattened Kd table."""
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
    bounds = np.cumsum([0, *map(len, arrays[:-1])])
    return np.concatenate(arrays[:-1]), arrays[-1], [np.arange(a, b) for a, b in pairwise(bounds)]


def _entities(split: str, n_drugs: int, n_proteins: int) -> tuple[Index, Index, list[Index]]:
    """The same, with entities held out. ValueError for a table that has too few."""
    if n_drugs <= TRAIN_DRUGS or n_proteins <= TRAIN_PROTEINS:
        raise ValueError(
            f'split="{split}" trains on {TRAIN_DRUGS} drugs and {TRAIN_PROTEINS} proteins, but the table has {n_drugs} and '
            f'{n_proteins}; use split="setting1".'
        )
    shuffle = np.random.RandomState(1).shuffle  # RLScore's: the legacy generator over lists, drugs first
    sides = []
    for name, n, kept in (("drugs", n_drugs, TRAIN_DRUGS), ("proteins", n_proteins, TRAIN_PROTEINS)):
        order = np.arange(n)
        if split in (name, "both"):
            shuffle(order)
            sides.append((order[:kept], order[kept:]))
        else:
            sides.append((order, order))
    train, test = (np.add.outer(drugs * n_proteins, proteins) for drugs, proteins in zip(*sides, strict=True))
    rows = np.arange(train.size).reshape(train.shape)
    folds = [(rows[:, k::FOLDS] if split == "proteins" else rows[k::FOLDS]).ravel() for k in range(FOLDS)]
    return train.ravel(), test.ravel(), folds
