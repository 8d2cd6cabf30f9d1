"""Splitters of pairs in scikit-learn's protocol: `split(X, y, groups)` gives (training rows, test rows).

The four settings are those of Pahikkala et al. 2015 (Briefings in Bioinformatics 16, 325) and of RLScore: in "pairs" both
entities of a test pair may occur in training, in "new rows" and "new columns" one of them does not, in "both new" neither.
"""

from __future__ import annotations

import heapq
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import check_random_state

from kronsgd.model_selection.entities import SETTINGS, Side, pair_sides
from kronsgd.validation import check_choice, check_integer, check_real

__all__ = ["PairKFold", "PairShuffleSplit"]

Index = NDArray[np.int64]
Mask = NDArray[np.bool_]
Split = tuple[Index, Index]
logger = logging.getLogger("kronsgd")


@dataclass
class PairKFold:
    """Folds of pairs, of row entities, of column entities, or blocks of both.

    setting: "pairs", "new rows", "new columns" or "both new". There are n_splits folds; in "both new" n_splits parts of each
    side make n_splits² folds, so that every pair is tested once: training then has neither the test's rows nor its columns,
    and pairs that mix are in neither part. Entities with the same group in `row_groups` or `column_groups` (an array with one
    for each entity of the table, or a dict by id) stay together, as identical proteins should; see `duplicate_groups`.
    repeats: whether rows of the same pair, measured several times, stay "together" or may be held "apart" in "pairs".
    random_state: draws the folds; they are never taken in the order of the rows, which pairs on a grid come in.
    """

    n_splits: int = 5
    setting: str = "pairs"
    random_state: Any = None
    row_groups: Any = None
    column_groups: Any = None
    repeats: str = "together"

    def __post_init__(self) -> None:
        check_integer("n_splits", self.n_splits, 2)
        check_choice("setting", self.setting, SETTINGS)
        check_choice("repeats", self.repeats, ["together", "apart"])

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of folds."""
        return int(self.n_splits) ** (2 if self.setting == "both new" else 1)

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Split]:
        """(training rows, test rows) of each fold; see `pair_sides` for what X and groups may be."""
        sides = pair_sides(X, groups, self.row_groups, self.column_groups, self.setting)
        rng = check_random_state(self.random_state)
        k = int(self.n_splits)
        if self.setting == "pairs":
            unit = _pair_units(*sides, whole=self.repeats == "together" or self._grouped)
            fold = _deal(np.bincount(unit), k, rng, "pairs")[unit]
            masks = [(fold != f, fold == f) for f in range(k)]
        else:
            parts = [_deal(side.sizes, k, rng, f"{side.name} entities")[side.unit] for side in _moved(sides, self.setting)]
            masks = _blocks(parts, k)
        _notice(sides, self.setting, masks)
        return _rows(masks, self)

    @property
    def _grouped(self) -> bool:
        return self.row_groups is not None or self.column_groups is not None


@dataclass
class PairShuffleSplit:
    """Random splits of pairs, of row entities, of column entities, or of both: `n_splits` independent ones.

    train_size: a share or a number, of pairs or of entities; in "both new" also (of rows, of columns), such as (40, 300) for
    40 of 68 drugs and 300 of 442 proteins. What is not in training is tested; in "both new", pairs that mix are in neither
    part. Groups of entities move as a whole, so that training may be a little smaller. Otherwise as `PairKFold`.
    """

    n_splits: int = 10
    setting: str = "pairs"
    train_size: Any = 0.75
    random_state: Any = None
    row_groups: Any = None
    column_groups: Any = None
    repeats: str = "together"

    def __post_init__(self) -> None:
        check_integer("n_splits", self.n_splits, 1)
        check_choice("setting", self.setting, SETTINGS)
        check_choice("repeats", self.repeats, ["together", "apart"])
        several = isinstance(self.train_size, Sequence) and not isinstance(self.train_size, str)
        if several and (self.setting != "both new" or len(self.train_size) != 2):
            raise ValueError(
                f"train_size={self.train_size!r} is not for setting={self.setting!r}; give one number, or (of rows, of "
                'columns) in "both new".'
            )
        for size in self.train_size if several else (self.train_size,):
            _check_size(size)

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Number of splits."""
        return int(self.n_splits)

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Iterator[Split]:
        """(training rows, test rows) of each split; see `pair_sides` for what X and groups may be."""
        sides = pair_sides(X, groups, self.row_groups, self.column_groups, self.setting)
        rng = check_random_state(self.random_state)
        masks = [self._draw(sides, rng) for _ in range(int(self.n_splits))]
        _notice(sides, self.setting, masks)
        return _rows(masks, self)

    def _draw(self, sides: tuple[Side, Side], rng: Any) -> tuple[Mask, Mask]:
        if self.setting == "pairs":
            grouped = self.row_groups is not None or self.column_groups is not None
            unit = _pair_units(*sides, whole=self.repeats == "together" or grouped)
            train = _choose(np.bincount(unit), self.train_size, rng, "pairs")[unit]
            return train, ~train
        moved = _moved(sides, self.setting)
        sizes = self.train_size if isinstance(self.train_size, Sequence) else [self.train_size] * len(moved)
        known = [
            _choose(side.sizes, size, rng, f"{side.name} entities")[side.unit] for side, size in zip(moved, sizes, strict=True)
        ]
        return np.logical_and.reduce(known), ~np.logical_or.reduce(known)


def _check_size(size: Any) -> None:
    if isinstance(size, Integral):
        check_integer("train_size", size, 1)
    elif check_real("train_size", size, 0, open_low=True) >= 1:
        raise ValueError(f"train_size={size!r} leaves nothing to test; give a share below 1, or a whole number.")


def _moved(sides: tuple[Side, Side], setting: str) -> list[Side]:
    """The sides whose test entities are new."""
    return {"pairs": [], "new rows": [sides[0]], "new columns": [sides[1]], "both new": list(sides)}[setting]


def _pair_units(rows: Side, columns: Side, whole: bool) -> Index:
    """What moves as a whole in "pairs": the rows of the same pair of units, or every row by itself. Shape: (n,)."""
    if not whole:
        return np.arange(len(rows.unit))
    code = rows.unit.astype(np.int64) * (int(columns.unit.max()) + 1) + columns.unit
    return np.unique(code, return_inverse=True)[1]


def _deal(sizes: Index, k: int, rng: Any, what: str) -> Index:
    """The fold of each unit, folds as even as units allow. Cost: units·ln k. ValueError for fewer units than folds."""
    if len(sizes) < k:
        raise ValueError(f"n_splits={k} is more than the {len(sizes)} {what} that can be held out; give at most {len(sizes)}.")
    order = rng.permutation(len(sizes))
    order = order[np.argsort(-sizes[order], kind="stable")]  # the largest first
    fold = np.empty(len(sizes), dtype=np.int64)
    if sizes.min() == sizes.max():
        fold[order] = np.arange(len(sizes)) % k
        return fold
    heap = [(0, f) for f in range(k)]
    for unit in order.tolist():
        filled, f = heapq.heappop(heap)
        fold[unit] = f
        heapq.heappush(heap, (filled + int(sizes[unit]), f))
    return fold


def _choose(sizes: Index, wanted: Any, rng: Any, what: str) -> Mask:
    """Which units are for training: as many as `wanted` lets in, in random order. Shape: (units,)."""
    n = int(sizes.sum())
    count = int(wanted) if isinstance(wanted, Integral) else round(float(wanted) * n)
    if not 1 <= count < n:
        raise ValueError(f"train_size={wanted!r} of {n} {what} leaves none to train or none to test; give from 1 to {n - 1}.")
    order, left, chosen = rng.permutation(len(sizes)), count, np.zeros(len(sizes), dtype=bool)
    if sizes.max() == 1:
        chosen[order[:count]] = True
        return chosen
    for unit in order.tolist():
        if sizes[unit] <= left:
            chosen[unit] = True
            left -= int(sizes[unit])
    return chosen


def _blocks(parts: list[Index], k: int) -> list[tuple[Mask, Mask]]:
    """(training, test) for each part of one side, or for each pair of parts of both."""
    if len(parts) == 1:
        return [(parts[0] != f, parts[0] == f) for f in range(k)]
    return [((parts[0] != a) & (parts[1] != b), (parts[0] == a) & (parts[1] == b)) for a in range(k) for b in range(k)]


def _rows(masks: list[tuple[Mask, Mask]], splitter: Any) -> Iterator[Split]:
    """Row numbers. ValueError where a part has no rows, before any fold is used."""
    for train, test in masks:
        for name, mask in (("training", train), ("test", test)):
            if not mask.any():
                raise ValueError(
                    f"a split into {splitter.n_splits} by setting={splitter.setting!r} leaves no {name} pairs; give a smaller "
                    "n_splits, another train_size or random_state, or more pairs."
                )
    return iter([(np.flatnonzero(train), np.flatnonzero(test)) for train, test in masks])


def _notice(sides: tuple[Side, Side], setting: str, masks: list[tuple[Mask, Mask]]) -> None:
    """Tell, once for all folds, what the test has seen in training although the setting says it has not."""
    if setting == "pairs":
        rows, columns = (Side(side.name, side.entity, side.entity, None) for side in sides)
        pair = _pair_units(rows, columns, whole=True)
        worst = max(int(np.isin(pair[test], pair[train]).sum()) for train, test in masks)
        if worst:
            logger.warning(
                "up to %d test rows of a fold repeat a pair that is also in training, with a value of its own: leave "
                'repeats="together" to keep them in one part, or average them first.', worst,
            )  # fmt: skip
    for side in _moved(sides, setting):
        if side.twins is None:
            continue
        worst = max(_leaked(side.entity[test], side.twins[test], side.twins[train]) for train, test in masks)
        if worst:
            logger.warning(
                "up to %d %s entities of a test fold have the same features as one in training, so that they are not new: "
                "pass %s_groups=duplicate_groups(table).", worst, side.name, side.name,
            )  # fmt: skip


def _leaked(entity: Index, twins: Index, known: Index) -> int:
    """How many test entities have a twin in training."""
    return len(np.unique(entity[np.isin(twins, known)]))
