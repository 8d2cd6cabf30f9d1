"""Which rows and entities are known, by key: a stream is appended to an expression at the cost of its own rows."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from kronsgd.features.base import Features
from kronsgd.features.leaf import Leaf
from kronsgd.features.serialize import compress, map_leaves
from kronsgd.growing import Growing, Room
from kronsgd.validation import check_count

__all__ = ["KnownRows", "append_rows", "known_rows"]

Index = NDArray[np.int64]
CHUNK = 512  # entities whose keys are made at a time
DIGEST = 16  # bytes of a long key's hash: among 10^9 entities, two are taken for one with a chance of 10^-21


def append_rows(features: Features, other: Features) -> tuple[Features, Index]:
    """(`features` with those rows of `other` that it lacks appended, row number of each row of `other`).

    Equal entities are stored once, and so are equal rows: a stream that repeats rows does not grow.
    Cost: all rows and entities of both; `KnownRows` keeps what identifies those of `features` for the next time.
    """
    known = KnownRows(features)
    numbers = known.append(other)
    return known.features, numbers


def known_rows(features: Features, other: Features) -> NDArray[np.bool_]:
    """Which rows of `other` are rows of `features`, by the features of their entities. Shape: (n',). Cost: as append_rows."""
    features.check_compatible(other)
    mine, its = [], []
    for leaf, new in zip(features.leaves(), other.leaves(), strict=True):
        keys = dict[bytes, int]()
        first = np.array([keys.setdefault(key, e) for e, key in enumerate(_entity_keys(leaf))], dtype=np.int64)
        mine.append(first[leaf.rows])
        its.append(np.array([keys.get(key, -1) for key in _entity_keys(new, leaf)])[new.rows])
    rows = set(_keys(np.stack(mine)))
    return np.array([key in rows for key in _keys(np.stack(its))], dtype=bool)


def _in_precision_of(leaf: Leaf, other: Leaf) -> Leaf:
    """The entities of `other` as the table `leaf` would hold them."""
    one = leaf.select_entities(np.zeros(1, dtype=np.int64))
    return one.append_entities(other).select_entities(1 + np.arange(other.n_entities))


def _entity_keys(leaf: Leaf, like: Leaf | None = None) -> Iterator[bytes]:
    """A short key for each entity, as the table `like` would hold it. Memory: that of some entities at a time."""
    for start in range(0, leaf.n_entities, CHUNK):
        some = leaf
        if leaf.n_entities > CHUNK:
            some = leaf.select_entities(np.arange(start, min(start + CHUNK, leaf.n_entities)))
        for key in (some if like is None else _in_precision_of(like, some)).entity_keys():
            yield key if len(key) <= 2 * DIGEST else hashlib.blake2b(key, digest_size=DIGEST).digest()


class KnownRows:
    """Rows that are found again. Memory: a dictionary entry for each row and each entity, and short keys.

    A call that raises leaves it in no state to go on with, which `whole` says.
    """

    def __init__(self, features: Features) -> None:
        self.features, self.whole = features, True
        self._tables = [_Table(leaf) for leaf in features.leaves()]
        keys = _keys(np.stack([table.first[leaf.rows] for table, leaf in zip(self._tables, features.leaves(), strict=True)]))
        self._rows = {key: row for row, key in reversed(list(enumerate(keys)))}

    def append(self, other: Features) -> Index:
        """Row number of each row of `other`, whose unknown rows are appended. Shape: (n',). Cost: that of n' rows."""
        self.features.check_compatible(other)
        self.whole = False
        other, n = compress(other), self.features.n_rows
        chosen = np.stack([
            table.find(leaf)[leaf.rows] for table, leaf in zip(self._tables, other.leaves(), strict=True)
        ])  # fmt: skip
        numbers = np.empty(chosen.shape[1], dtype=np.int64)
        fresh: list[int] = []
        for i, key in enumerate(_keys(chosen)):
            numbers[i] = self._rows.setdefault(key, n + len(fresh))
            if numbers[i] == n + len(fresh):
                fresh.append(i)
        if fresh:
            leaves = iter([table.extended(own[fresh]) for table, own in zip(self._tables, chosen, strict=True)])
            self.features = map_leaves(self.features, lambda _: next(leaves))
        self.whole = True
        return numbers


class _Table:
    """A leaf's entities by key, and the room it grows in."""

    def __init__(self, leaf: Leaf) -> None:
        self._leaf, self._keys, self._room = leaf, dict[bytes, int](), Room()
        self.first = np.array([self._keys.setdefault(key, e) for e, key in enumerate(_entity_keys(leaf))], dtype=np.int64)
        self._index = Growing(np.arange(leaf.n_entities) if leaf.index is None else leaf.index)

    def find(self, other: Leaf) -> Index:
        """The entity here of each of the other's entities, unknown ones appended. Shape: (other.n_entities,)."""
        fresh: list[int] = []
        out, n = np.empty(other.n_entities, dtype=np.int64), self._leaf.n_entities
        for e, key in enumerate(_entity_keys(other, self._leaf)):
            out[e] = self._keys.setdefault(key, n + len(fresh))
            if out[e] == n + len(fresh):
                fresh.append(e)
        if fresh:
            new = _in_precision_of(self._leaf, other.select_entities(np.array(fresh, dtype=np.int64)))
            self._leaf = self._leaf.grow(new, self._room)
        return out

    def extended(self, entities: Index) -> Leaf:
        """The leaf with more rows, of these entities."""
        return self._leaf.with_index(self._index.append(entities))


def _keys(entities: Index) -> list[bytes]:
    """A key for each row, from its entity in each leaf. Shape: (leaves, n) -> n."""
    check_count("entities of a table", int(entities.max(initial=0)) + 1, "give a table with fewer entities")
    return [row.tobytes() for row in np.ascontiguousarray(entities.T, dtype=np.int32)]
