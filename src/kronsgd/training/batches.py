"""Which rows each step sees."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from kronsgd.network import generator

__all__ = ["epoch_batches"]


def epoch_batches(n_rows: int, batch_size: int, *, shuffle: bool, seed: int, epoch: int) -> list[NDArray[np.int64]]:
    """The batches of one epoch; every row is in exactly one.

    shuffle=False: rows 0…S−1, S…2S−1, …, the last batch may be smaller. shuffle=True: the same over a permutation that
    depends on `seed` and `epoch` only, split as evenly as possible, because one tiny batch at a step size meant for a
    full one overshoots.
    """
    if not shuffle:
        return [np.arange(start, min(start + batch_size, n_rows)) for start in range(0, n_rows, batch_size)]
    order = generator(seed, "shuffle", epoch).permutation(n_rows)
    return [np.sort(part) for part in np.array_split(order, -(-n_rows // batch_size))]
