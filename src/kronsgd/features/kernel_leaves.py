"""Leaves known by a kernel alone: their coordinates live in the span of the entities the model was built on."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import scipy.linalg
from numpy.typing import ArrayLike, NDArray

from kronsgd.features.base import Features
from kronsgd.features.leaf import Array, Leaf
from kronsgd.growing import Room
from kronsgd.parallel import matmul
from kronsgd.validation import as_float_matrix, check_array, check_choice, check_finite

__all__ = ["Kernel", "SpanLeaf"]

MAX_ANCHORS = 2048  # entities that span the initial weights; the eigendecomposition costs their number cubed
TOLERANCE = 1e-5  # relative; similarity tables are published with 4 to 6 digits


class SpanLeaf(Leaf):
    """A leaf without coordinates of its own: e ↦ k(e, anchors) K^{-1/2}, exact between anchors and any entity."""

    _root: Array | None = None

    @property
    def anchors(self) -> Any:
        """The entities that span the coordinates, as something that indexes them."""
        if self.n_entities <= MAX_ANCHORS:
            return slice(None)
        return np.linspace(0, self.n_entities - 1, MAX_ANCHORS).astype(np.int64)

    @property
    def own_coordinates(self) -> bool:
        return False

    @property
    def n_coordinates(self) -> int:
        return min(self.n_entities, MAX_ANCHORS)

    def inverse_root(self) -> Array:
        """K^{-1/2} over the anchors (pseudo-inverse where K is singular). Cost: anchors³, once."""
        if self._root is None:
            values, vectors = scipy.linalg.eigh(self.entity_inner(self, self.anchors, self.anchors).astype(np.float64))
            keep = values > max(values[-1], 0.0) * len(values) * np.finfo(np.float64).eps
            scale = np.where(keep, 1.0 / np.sqrt(np.where(keep, values, 1.0)), 0.0)
            self._root = (vectors * scale) @ vectors.T
        return self._root

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return matmul(self.entity_inner(basis, entities, basis.anchors).astype(np.float64), basis.inverse_root())

    def prototype(self) -> Self:
        anchors = np.arange(self.n_entities, dtype=np.int64)[self.anchors]
        return self.select_entities(anchors).with_index(np.zeros(1, dtype=np.int64))


class Kernel(SpanLeaf):
    """A precomputed kernel between entities; `new_entities` brings in entities that the table does not have.

    Parameters: gram (entities, entities), symmetric and positive semi-definite; normalize: scale to k(e, e) = 1;
    psd: "check" refuses a table with negative eigenvalues, "clip" sets them to 0. A table that is mapped from a file is read:
    its inverse root, which w(0) is drawn with, takes as much memory.
    """

    def __init__(self, gram: ArrayLike, *, normalize: bool = True, psd: str = "check") -> None:
        check_choice("psd", psd, ["check", "clip"])
        array = as_float_matrix("Kernel(gram)", gram).astype(np.float64)
        if array.shape[0] != array.shape[1]:
            raise ValueError(f"Kernel(gram) has shape {array.shape}; a kernel between entities is a square table.")
        asymmetry = float(np.abs(array - array.T).max())
        if asymmetry > TOLERANCE * float(np.abs(array).max()):
            i, j = (int(k) for k in np.unravel_index(np.abs(array - array.T).argmax(), array.shape))
            raise ValueError(
                f"Kernel(gram) is not symmetric: entry ({i}, {j}) is {array[i, j]:g} but ({j}, {i}) is {array[j, i]:g}; "
                "pass (S + S.T) / 2 if the difference is only noise."
            )
        array = (array + array.T) / 2
        self.scale, self.normalize = np.ones(len(array)), bool(normalize)
        if normalize:
            self.scale = _inverse_roots_of_diagonal(np.diag(array))
            array = array * self.scale[:, None] * self.scale
        self.gram: Array = _positive_part(array, normalize) if psd == "clip" else _checked_positive(array)
        self.codes: NDArray[np.int64] = np.arange(len(array))  # entity -> anchor, or n_anchors + its number if new
        self._below_zero: list[float] = []  # how far the smallest eigenvalue lies there; found once for all copies
        self.cross: Array = np.zeros((0, len(array)))
        self.self_similarity: Array = np.zeros(0)

    def new_entities(self, cross: ArrayLike, self_similarity: ArrayLike | None = None) -> Kernel:
        """Entities outside the table, from their kernel values with the table's entities.

        Parameters: cross (new, entities); self_similarity: k(e, e) of each, in the units of the original table; it may
        be left out where the table itself has 1 on its diagonal.
        A kernel between two new entities is not known: it is taken from their projections on the table's span.
        """
        array = as_float_matrix("cross", cross).astype(np.float64)
        if array.shape[1] != self.n_anchors:
            raise ValueError(
                f"cross has {array.shape[1]} columns; give one column for each of the {self.n_anchors} entities of the table."
            )
        given = np.asarray(1.0 if self_similarity is None else self_similarity, dtype=np.float64)
        own = np.diag(self.gram) / self.scale**2  # in the units of the original table
        if self_similarity is None and not np.allclose(own, 1):
            raise ValueError(
                f"the table's self-similarities range from {own.min():g} to {own.max():g}; give self_similarity, k(e, e) of "
                "each new entity in the same units."
            )
        if given.shape not in ((), (len(array),)):
            raise ValueError(f"self_similarity has shape {given.shape}; give one number for each of the {len(array)} entities.")
        diagonal = np.broadcast_to(given, (len(array),))
        check_finite("self_similarity", diagonal)
        _check_bound(array, diagonal, own)
        rescale = _inverse_roots_of_diagonal(diagonal) if self.normalize else np.ones(len(array))
        out = copy.copy(self)
        out.cross = array * rescale[:, None] * self.scale
        out.self_similarity = diagonal * rescale**2
        out.codes, out.index = self.n_anchors + np.arange(len(array)), None
        return out

    @property
    def n_anchors(self) -> int:
        """Number of entities in the original table."""
        return len(self.gram)

    @property
    def anchors(self) -> Any:
        return slice(None)

    @property
    def own_coordinates(self) -> bool:
        return True  # in the span of the whole table, which all entities share

    @property
    def n_entities(self) -> int:
        return len(self.codes)

    @property
    def dim(self) -> int:
        return self.n_anchors

    @property
    def n_coordinates(self) -> int:
        return self.n_anchors

    def _panel(self, codes: NDArray[np.int64], anchors: NDArray[np.int64] | None = None) -> Array:
        """Kernel values of entities with the given anchors (None: all). Shape: (|codes|, |anchors|). Cost: theirs."""
        old, columns = codes < self.n_anchors, slice(None) if anchors is None else anchors
        gram, cross = codes[old], codes[~old] - self.n_anchors
        if anchors is not None:
            gram, cross = gram[:, None], cross[:, None]
        if old.all():
            return np.asarray(self.gram[gram, columns])
        out = np.empty((len(codes), self.n_anchors if anchors is None else len(anchors)))
        out[old], out[~old] = self.gram[gram, columns], self.cross[cross, columns]
        return out

    def entity_inner(self, other: Kernel, mine: Any, others: Any) -> Array:
        a, b = self.codes[mine], other.codes[others]
        known, theirs = b < self.n_anchors, a < self.n_anchors
        if known.all():
            return self._panel(a, b)
        out = np.empty((len(a), len(b)))
        out[:, known] = self._panel(a, b[known])
        out[np.ix_(theirs, ~known)] = other._panel(b[~known], a[theirs]).T
        root = self.inverse_root()
        out[np.ix_(~theirs, ~known)] = matmul(self._panel(a[~theirs]) @ root, (other._panel(b[~known]) @ root).T)
        return out

    def entity_squared_norms(self) -> Array:
        return np.concatenate([np.diag(self.gram), self.self_similarity])[self.codes]

    def distortion(self) -> float:
        """A table of published similarities may have negative eigenvalues; new entities may be longer than they are said to be.

        Cost: anchors³ once, and anchors² for each new entity.
        """
        if not self._below_zero:
            self._below_zero.append(max(-float(scipy.linalg.eigvalsh(self.gram, subset_by_index=[0, 0])[0]), 0.0))
        below, least = self._below_zero[0], float(np.diag(self.gram).min())
        if len(self.cross):
            root = self.inverse_root()
            along = self.cross @ root
            short = np.maximum((along**2).sum(axis=1) - self.self_similarity, 0).max()  # of the norm of its projection
            outside = np.linalg.norm(self.cross - along @ root.T @ self.gram)  # of the table's span
            below, least = below + float(short) + float(outside), min(least, float(self.self_similarity.min()))
        return below / least if least > 0 else math.inf

    def inverse_root(self) -> Array:
        if self._root is None:
            base = copy.copy(self)
            base.codes = np.arange(self.n_anchors)
            self._root = super(Kernel, base).inverse_root()
        return self._root

    def entity_coordinates(self, basis: Any, entities: Any) -> Array:
        return matmul(self._panel(self.codes[entities]), basis.inverse_root())

    def prototype(self) -> Self:
        return self.select_entities(np.zeros(1, dtype=np.int64)).with_index(np.zeros(1, dtype=np.int64))

    def _same_structure(self, other: Features) -> bool:
        return isinstance(other, Kernel) and (self.gram is other.gram or np.array_equal(self.gram, other.gram))

    def state(self) -> tuple[dict[str, Array], dict[str, Any]]:
        names = ("gram", "scale", "codes", "cross", "self_similarity")
        return {name: getattr(self, name) for name in names}, {"normalize": self.normalize}

    @classmethod
    def from_state(cls, arrays: Mapping[str, Array], options: Mapping[str, Any]) -> Self:
        out = cls.__new__(cls)
        out.normalize, out._below_zero = bool(options["normalize"]), []
        out.gram = check_array("gram", arrays, (None, None), "f")
        n = out.n_anchors
        out.scale = check_array("scale", arrays, (n,), "f")
        out.cross = check_array("cross", arrays, (None, n), "f")
        out.self_similarity = check_array("self_similarity", arrays, (len(out.cross),), "f")
        out.codes = check_array("codes", arrays, (None,), "i")
        if out.gram.shape != (n, n) or not ((out.codes >= 0) & (out.codes < n + len(out.cross))).all():
            raise ValueError("a kernel's codes point outside its tables")
        return out

    def select_entities(self, entities: NDArray[np.int64]) -> Self:
        out = copy.copy(self)
        out.codes, out.index = self.codes[entities], None
        fresh = out.codes >= self.n_anchors
        used, places = np.unique(out.codes[fresh] - self.n_anchors, return_inverse=True)
        out.cross, out.self_similarity = self.cross[used], self.self_similarity[used]
        out.codes[fresh] = self.n_anchors + places
        return out

    def append_entities(self, other: Kernel) -> Self:
        return self.grow(other, Room())

    def grow(self, other: Kernel, room: Room) -> Self:
        out = copy.copy(self)
        moved = np.where(other.codes < self.n_anchors, other.codes, other.codes + len(self.cross))
        out.codes, out.index = room.append("codes", self.codes, moved), None
        out.cross = room.append("cross", self.cross, other.cross)
        out.self_similarity = room.append("self_similarity", self.self_similarity, other.self_similarity)
        return out

    def entity_keys(self) -> list[bytes]:
        return [
            b"anchor" + int(c).to_bytes(8, "little") if c < self.n_anchors else self._new_key(int(c) - self.n_anchors)
            for c in self.codes
        ]

    def _new_key(self, number: int) -> bytes:
        return b"new" + self.cross[number].tobytes() + self.self_similarity[number].tobytes()


def _check_bound(cross: Array, diagonal: Array, own: Array) -> None:
    """Raise ValueError where |k(e, j)|² > k(e, e)·k(j, j): no feature space has such inner products."""
    excess = cross**2 - diagonal[:, None] * own * (1 + TOLERANCE) ** 2
    if (excess > TOLERANCE).any():
        e, j = (int(k) for k in np.unravel_index(excess.argmax(), excess.shape))
        raise ValueError(
            f"cross[{e}, {j}] is {cross[e, j]:g}, but no kernel value may exceed √(k(e, e)·k(j, j)) = "
            f"{math.sqrt(max(diagonal[e] * own[j], 0)):g}; give cross and self_similarity in the units of the table."
        )


def _inverse_roots_of_diagonal(diagonal: Array) -> Array:
    if (diagonal <= 0).any():
        e = int(np.argmin(diagonal))
        raise ValueError(
            f"entity {e} has self-similarity {diagonal[e]:g}, which cannot be scaled to 1; self-similarities must be above 0 "
            "(or pass normalize=False)."
        )
    return np.asarray(1.0 / np.sqrt(diagonal))


def _checked_positive(gram: Array) -> Array:
    """`gram`, or ValueError with its smallest eigenvalue when that is below zero by more than rounding."""
    slack = TOLERANCE * max(float(np.abs(np.diag(gram)).max()), np.finfo(float).tiny) * math.sqrt(len(gram))
    try:
        scipy.linalg.cholesky(gram + slack * np.eye(len(gram)), check_finite=False)
    except scipy.linalg.LinAlgError:
        smallest = float(scipy.linalg.eigvalsh(gram, subset_by_index=[0, 0])[0])
        raise ValueError(
            f"Kernel(gram) is not positive semi-definite: its smallest eigenvalue is {smallest:.3g}, allowed is 0 up to "
            f'rounding (−{slack:.1g}); pass psd="clip" to set negative eigenvalues to 0.'
        ) from None
    return gram


def _positive_part(gram: Array, normalize: bool) -> Array:
    """The nearest positive semi-definite table, scaled back to a unit diagonal if asked for."""
    values, vectors = scipy.linalg.eigh(gram)
    positive = (vectors * np.maximum(values, 0)) @ vectors.T
    if normalize:
        scale = _inverse_roots_of_diagonal(np.diag(positive))
        positive = positive * scale[:, None] * scale
    return np.asarray((positive + positive.T) / 2)
