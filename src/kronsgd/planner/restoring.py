"""What a saved model takes when it is used again: refused before it is allocated, for a file may claim any size."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from kronsgd.engines.base import PREDICT_BATCH
from kronsgd.features.base import Features, describe_dim
from kronsgd.features.grouping import coordinate_dim, expand_powers
from kronsgd.features.sides import Sides
from kronsgd.network import TwoLayer
from kronsgd.planner.limits import describe_bytes, parse_memory

__all__ = ["check_restorable"]


def check_restorable(
    engine: str, network: TwoLayer, features: Features, basis: Features, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """ValueError where a model would take more than is free as soon as it predicts, or is not what its arrays say.

    shapes: of the state's arrays, which are what a file can hold; the numbers that are drawn or derived are not in it.
    """
    d = coordinate_dim(basis)
    if engine == "dense" and shapes.get("weights") != (network.n_hidden, d):
        raise ValueError(f"the weights do not have a row of {describe_dim(d)} coordinates for each neuron")
    need, free = _needed(engine, network, features, basis, d), parse_memory("auto")
    if need > free:
        raise ValueError(f"it would take {describe_bytes(need)} to predict with, but only {describe_bytes(free)} are free")


def _needed(engine: str, network: TwoLayer, features: Features, basis: Features, d: int) -> float:
    """Bytes, roughly: draws for a block of neurons, starting values of a batch, and the grid's inner products."""
    block, item = max(size for _, _, size in network.block_sizes()), np.dtype(network.dtype).itemsize
    if network.init == "gaussian":
        return 8.0 * d * (block + PREDICT_BATCH)
    width = max((leaf.n_coordinates for leaf in expand_powers(basis).leaves()), default=1)
    need = 8.0 * network.init_rank * (2 * block * width + PREDICT_BATCH * network.n_hidden)
    if engine == "grid":
        sizes = [side.n_entities for side in Sides.of(features).split(features)]
        need += sum((8.0 + item) * n**2 + item * n * network.n_hidden * network.init_rank for n in sizes)
    return need
