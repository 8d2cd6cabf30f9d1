"""What processes that share a network's neurons tell each other; one process alone has nobody to tell."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from operator import add
from typing import Any

from numpy.typing import NDArray

__all__ = ["ALONE", "Exchange", "check_alone"]

Array = NDArray[Any]


class Exchange:
    """All neurons are here. `kronsgd.distributed` has the exchange of several ranks, each with a run of neuron blocks.

    Whatever is summed over ranks is either summed in the order of the neuron blocks or made of whole numbers, so that no
    result depends on how many ranks there are.
    """

    rank = 0
    size = 1
    shared = False  # whether neurons are spread over a process group, be it one of a single rank

    def share(self, n_blocks: int) -> tuple[int, int]:
        """(the rank's first block, the first beyond): `gather` is then called with parts of these."""
        return 0, n_blocks

    def gather(
        self, partial: Array, axis: int, numbers: Sequence[float], meanwhile: Callable[[], None] = lambda: None
    ) -> tuple[Array, list[float]]:
        """(the parts of all blocks along `axis`, in order; whole numbers summed over ranks). Every rank calls it.

        meanwhile: called while messages travel, if any do.
        """
        return partial, list(numbers)

    def total(self, number: float) -> float:
        """The sum of a whole number over ranks."""
        return number

    def fold(self, parts: Iterable[Array]) -> Array:
        """((p₀ + p₁) + p₂) + …, over the parts of all ranks in rank order."""
        return reduce(add, parts)

    def collect(self, arrays: dict[str, Array]) -> list[dict[str, Array]] | None:
        """Every rank's arrays, on rank 0; None on the others."""
        return [arrays]

    def broadcast(self, value: Any) -> Any:
        """Rank 0's value, of what JSON can hold."""
        return value

    def barrier(self) -> None:
        """Wait for all ranks."""

    def agreed(self, wish: bool) -> bool:
        """Whether some rank wishes to stop: the same answer on every rank, as of the last `gather`."""
        return wish


ALONE = Exchange()


def check_alone() -> None:
    """Raise RuntimeError where a launcher has started several processes, and nothing joins them."""
    size = os.environ.get("WORLD_SIZE", "1")
    distributed: Any = sys.modules.get("torch.distributed")
    if size in ("", "1") or (distributed is not None and distributed.is_available() and distributed.is_initialized()):
        return
    raise RuntimeError(
        f"WORLD_SIZE={size}, but there is no process group: each process would train the whole network. Fit "
        "kronsgd.distributed.Distributed(model) within kronsgd.distributed.process_group(), or unset WORLD_SIZE."
    )
