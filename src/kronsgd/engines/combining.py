"""What all neuron blocks give together, wherever they are: the only thing that ranks tell each other in a step."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.network import TwoLayer

__all__ = ["combined"]

Array = NDArray[Any]


def combined(
    network: TwoLayer, partial: Array, axis: int, n_fired: int, crowded: Callable[[], bool],
    meanwhile: Callable[[], None] = lambda: None,
) -> tuple[Array, int, bool | None]:  # fmt: skip
    """(sums of the blocks' parts in their order, float64; fired pairs; whether lists must be compacted before the update).

    partial: blocks along `axis`, C-contiguous. Lists are compacted on all ranks in the same step, because the order of a
    neuron's terms, and with it the last bit of its sums, changes there; one process (None) sees for itself.
    meanwhile: work to do while messages travel. Bytes sent by each rank: blocks · S · C numbers, free of m, n and d.
    """
    if not network.exchange.shared:
        return partial.sum(axis=axis, dtype=np.float64), n_fired, None
    partial, (total, crowds) = network.exchange.gather(partial, axis, [n_fired, crowded()], meanwhile)
    return partial.sum(axis=axis, dtype=np.float64), int(total), crowds > 0
