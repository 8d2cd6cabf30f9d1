"""The dense engine: materialises the product. In float64 it is the oracle; where d is small it is also the fastest."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Activations, Array, Engine, State, Step
from kronsgd.features.base import Features, describe_dim
from kronsgd.features.gram import inverse_norms
from kronsgd.features.growth import added_rows
from kronsgd.features.serialize import compress, prototype
from kronsgd.growing import Growing
from kronsgd.initial import MAX_COORDINATES, InitialWeights, coordinate_dim
from kronsgd.network import TwoLayer
from kronsgd.parallel import map_threads
from kronsgd.validation import check_array

__all__ = ["DenseEngine", "DenseState"]

TILE = 256  # neurons of one product


@dataclass
class DenseState(State):
    """Explicit weights and rows."""

    coordinates: Growing  # (n, d) of unit norm
    basis: Features  # what new rows' coordinates refer to
    start: Array  # (m, d) W(0)
    weights: Array  # (m, d) W

    @property
    def rows(self) -> Array:
        """Unit-norm coordinates. Shape: (n, d)."""
        return self.coordinates.array


class DenseEngine(Engine):
    """Explicit SGD on W (m, d). Cost of a step: 6·S·m·d flops; memory 2·m·d + n·d numbers.

    Kernel entities that come after `initialize` are projected on the span of the first ones; `scan` takes them exactly.
    """

    name: ClassVar[str] = "dense"

    def initialize(
        self, network: TwoLayer, features: Features, normalize: bool = True, basis: Features | None = None
    ) -> DenseState:
        features = compress(features)
        _check_size(network, features)
        basis = prototype(features if basis is None else basis)
        start = InitialWeights(network, basis).hidden_weights().astype(network.dtype)
        return DenseState(
            network=network, features=features, normalize=normalize, output_weights=network.output_weights(),
            coordinates=Growing(_coordinates(basis, features, normalize, network.dtype)), basis=basis, start=start,
            weights=start.copy(),
        )  # fmt: skip

    def forward(self, state: DenseState, rows: NDArray[np.int64], view: Features | None = None) -> Activations:
        network = state.network
        x = state.rows[rows] if view is None else _coordinates(state.basis, view[rows], state.normalize, network.dtype)
        hidden = np.empty((len(rows), network.n_hidden), dtype=network.dtype)

        @np.errstate(over="ignore", invalid="ignore")  # the training loop sees what has diverged
        def outputs(own: slice) -> Array:
            z = x @ state.weights[own].T - np.asarray(network.threshold, dtype=network.dtype)
            hidden[:, own] = np.maximum(z, 0)
            return hidden[:, own] @ state.output_weights[own]

        partial = np.array(map_threads(outputs, _tiles(network), 2.0 * TILE * x.size), dtype=np.float64)
        return Activations(rows, hidden, network.scale * partial.sum(axis=0), int(np.count_nonzero(hidden)))

    def view(self, state: DenseState, features: Features) -> Features:
        state.basis.check_compatible(features)
        return features

    @np.errstate(over="ignore", invalid="ignore")
    def backward(
        self, state: DenseState, activations: Activations, slopes: Array, step: float, alpha: float = 0.0
    ) -> Step:
        scaled = (-step * state.network.scale * slopes).astype(state.network.dtype)
        coefficients = (activations.hidden > 0) * (scaled @ state.output_weights.T)
        network = state.network
        change = network.within_members(activations.hidden.T @ scaled) if network.train_output else None
        return Step(activations.rows, coefficients, change, 1.0 - step * alpha)

    def update(self, state: DenseState, step: Step) -> None:
        x = state.rows[step.rows]

        def add(own: slice) -> None:
            if step.decay != 1:
                state.weights[own] = state.start[own] + step.decay * (state.weights[own] - state.start[own])
            state.weights[own] += step.coefficients[:, own].T @ x

        map_threads(add, _tiles(state.network), 2.0 * TILE * x.size)
        if step.output_weights is not None:
            state.output_weights = state.output_weights + step.output_weights

    def extend(self, state: DenseState, features: Features) -> DenseState:
        if features.n_rows > len(state.rows):  # a leaf has no coordinates of no rows
            added = added_rows(features, len(state.rows))
            state.coordinates.append(_coordinates(state.basis, added, state.normalize, state.network.dtype))
        state.features = features
        return state

    def hidden(self, state: DenseState, activations: Activations) -> Array:
        return activations.hidden

    def hidden_weights(self, state: DenseState) -> Array:
        return state.weights.astype(np.float64)

    def basis(self, state: DenseState) -> Features:
        return state.basis

    def arrays(self, state: DenseState) -> dict[str, Array]:
        return {"weights": state.weights, "output_weights": state.output_weights}

    def restore(self, state: DenseState, arrays: Mapping[str, Array]) -> None:
        state.weights = check_array("weights", arrays, state.weights.shape, "f").astype(state.network.dtype)
        shape = state.output_weights.shape
        state.output_weights = check_array("output_weights", arrays, shape, "f").astype(state.network.dtype)


def _tiles(network: TwoLayer) -> list[slice]:
    """Neurons in parts that depend on nothing but their number, and so do the bits of every product."""
    return [slice(start, min(start + TILE, network.n_hidden)) for start in range(0, network.n_hidden, TILE)]


def _coordinates(basis: Features, rows: Features, normalize: bool, dtype: str) -> Array:
    return np.ascontiguousarray(basis.coordinates(rows) * inverse_norms(rows, normalize)[:, None], dtype=dtype)


def _check_size(network: TwoLayer, features: Features) -> None:
    spanned = (leaf for leaf in features.leaves() if not leaf.own_coordinates)
    inexact = next((leaf for leaf in spanned if leaf.n_coordinates < leaf.n_entities), None)
    if inexact is not None:
        raise ValueError(
            f'engine="dense" has coordinates for {inexact.n_coordinates} entities of {inexact.expression()} only; use '
            'engine="scan".'
        )
    d = coordinate_dim(features)
    need = (2 * network.n_hidden + features.n_rows) * d * np.dtype(network.dtype).itemsize
    if need > 2 * MAX_COORDINATES:
        raise ValueError(
            f'engine="dense" would build {describe_dim(need >> 30)} GiB for {describe_dim(d)} dimensions, above the '
            f'{2 * MAX_COORDINATES / 2**30:.0f} GiB allowed; use engine="scan", whose memory does not depend on them.'
        )
