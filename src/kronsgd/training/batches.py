"""Which rows each step sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kronsgd.kernels.grid import ROWS
from kronsgd.network import generator

__all__ = ["BATCHINGS", "block_batches", "epoch_batches", "probe_batches", "rows_per_step"]

Index = NDArray[np.int64]
BATCHINGS = ("random", "blocks")
BLOCK_SIZE = 1024  # rows of a block where nothing else is asked for: 16 × 64 pairs
WIDTHS = (16, 64)  # most outer entities of a block, for small and for large ones


def rows_per_step(asked: int | str, n_rows: int, blocks: bool) -> int:
    """Rows of a batch, about so many of a block; "auto" is 64, and for blocks a sixteenth of the rows, from 64 to 1,024."""
    automatic = max(64, min(BLOCK_SIZE, n_rows // 16)) if blocks else 64
    return min(automatic if asked == "auto" else int(asked), n_rows)


def epoch_batches(
    n_rows: int, batch_size: int, *, shuffle: bool, seed: int, epoch: int, cells: tuple[Index, Index] | None = None,
    groups: Index | None = None,
) -> list[Index]:  # fmt: skip
    """The batches of one epoch; every row is in exactly one.

    shuffle=False: rows 0…S−1, S…2S−1, …, the last batch may be smaller. shuffle=True: the same over a permutation that
    depends on `seed` and `epoch` only, split as evenly as possible, because one tiny batch at a step size meant for a
    full one overshoots. With `cells`, the (inner, outer) entity of each row: `block_batches`. With `groups`, the group of
    each row, for a loss that compares the rows of a group: the permutation goes from group to group.
    """
    if cells is not None:
        return block_batches(*cells, batch_size, generator(seed, "shuffle", epoch) if shuffle else None)
    if not shuffle:
        return [np.arange(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]
    order = _permutation(n_rows, generator(seed, "shuffle", epoch), groups)
    return [np.sort(part) for part in np.array_split(order, -(-n_rows // batch_size))]


def _permutation(n_rows: int, rng: np.random.Generator, groups: Index | None) -> Index:
    """All rows at random; with `groups`, those of a group one after the other."""
    order = rng.permutation(n_rows)
    if groups is None:
        return order
    numbers = np.unique(groups, return_inverse=True)[1][order]
    return order[np.argsort(rng.permutation(numbers.max() + 1)[numbers], kind="stable")]


def block_batches(inner: Index, outer: Index, batch_size: int, rng: np.random.Generator | None) -> list[Index]:
    """Blocks of the grid: all rows between some inner entities and a strip of at most 64 outer ones (16 for small batches).

    Strips, and the inner entities within each, come in an order drawn from `rng` (None: as numbered). Blocks have about
    `batch_size` rows, as evenly as entities allow; those of a strip follow each other.
    """
    n_inner, n_outer = int(inner.max()) + 1, int(outer.max()) + 1
    width = min(next((w for w in WIDTHS if batch_size < 16 * w), WIDTHS[-1]), batch_size)
    n_strips = -(-n_outer // width)
    outer_order = np.arange(n_outer) if rng is None else rng.permutation(n_outer)
    strip_of = np.empty(n_outer, dtype=np.int64)
    strip_of[outer_order] = np.arange(n_outer) * n_strips // n_outer
    strip = strip_of[outer]
    by_strip = np.split(np.argsort(strip, kind="stable"), np.cumsum(np.bincount(strip, minlength=n_strips))[:-1])
    return [batch for rows in by_strip if len(rows) for batch in _cut(rows, inner[rows], n_inner, batch_size, rng)]


def _cut(rows: Index, inner: Index, n_inner: int, batch_size: int, rng: np.random.Generator | None) -> list[Index]:
    """One strip's rows by inner entity, in parts of about `batch_size` rows."""
    seen = np.flatnonzero(np.bincount(inner, minlength=n_inner))
    position = np.empty(n_inner, dtype=np.int64)
    position[seen] = np.arange(len(seen)) if rng is None else rng.permutation(len(seen))
    step = ROWS if len(seen) * batch_size >= ROWS * len(rows) else 1  # the entities that the grid engine evaluates at once
    unit = position[inner] // step
    sizes = np.bincount(unit)
    n_parts = min(max(round(len(rows) / batch_size), 1), len(sizes))
    middle = np.cumsum(sizes) - sizes / 2
    part = np.minimum((middle * n_parts / len(rows)).astype(np.int64), n_parts - 1)[unit]
    order = np.argsort(part, kind="stable")
    batches = np.split(rows[order], np.cumsum(np.bincount(part, minlength=n_parts))[:-1])
    return [np.sort(batch) for batch in batches if len(batch)]


def probe_batches(
    n_rows: int, batch_size: int, n: int, seed: int, cells: tuple[Index, Index] | None, groups: Index | None = None
) -> list[Index]:
    """At most `n` batches of the kind that training will see; one if a batch takes all rows."""
    rng = generator(seed, "probe")
    if cells is None:
        lots = range(n if n_rows > batch_size else 1)
        return [np.sort(_permutation(n_rows, rng, groups)[:batch_size]) for _ in lots]
    blocks = block_batches(*cells, batch_size, rng)
    return [blocks[k] for k in sorted(rng.permutation(len(blocks))[:n])]
