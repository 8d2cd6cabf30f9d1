"""Kernel ridge regression for many penalties at once: dense, on a complete grid of pairs, and on any pairs.

The coefficients solve (K + λ·I) a = y − mean(y), and a prediction is k·a + mean(y). Rows are scaled to norm 1 as for the
network, so that one list of penalties suits every set.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.linalg
import scipy.sparse as sp
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, cg

from kronsgd.features import Features
from kronsgd.features.gram import inverse_norms
from kronsgd.features.sides import Side, Sides

__all__ = ["feature_ridge", "is_complete", "kernel_ridge", "normalised_inner", "pair_ridge"]

Array = NDArray[Any]
Index = NDArray[np.int64]
MOST_ITERATIONS = 1000  # of conjugate gradients
SPARSE = 0.1  # share of a grid's cells below which a sparse product with it is the faster one


def normalised_inner(X: Features, other: Features) -> Array:
    """Cosines between rows: the kernel that the network sees. Shape: (n, n'), float64. A row of zeros gives zeros."""
    return np.asarray(X.inner(other) * inverse_norms(X, True)[:, None] * inverse_norms(other, True), dtype=np.float64)


def kernel_ridge(gram: Array, y: Array, cross: Array, penalties: Sequence[float]) -> list[Array]:
    """Predictions (n', C) for each penalty from one eigendecomposition.

    Shape: gram (n, n), y (n, C), cross (n', n). Cost: n³, then n·(n + n')·C for each penalty.
    """
    values, vectors = scipy.linalg.eigh(gram)
    mean = y.mean(axis=0)
    turned, across = vectors.T @ (y - mean), cross @ vectors
    values = np.maximum(values, 0)[:, None]
    return [across @ (turned / (values + penalty)) + mean for penalty in penalties]


def feature_ridge(phi: Array, y: Array, phi_test: Array, penalties: Sequence[float]) -> list[Array]:
    """The same with explicit features. Shape: phi (n, D), phi_test (n', D). Cost: n·D·min(n, D)."""
    center = phi.mean(axis=0)
    phi, phi_test, mean = phi - center, phi_test - center, y.mean(axis=0)
    if len(phi) < phi.shape[1]:
        return kernel_ridge(phi @ phi.T, y, phi_test @ phi.T, penalties)
    values, vectors = scipy.linalg.eigh(phi.T @ phi)
    turned, across = vectors.T @ (phi.T @ (y - mean)), phi_test @ vectors
    values = np.maximum(values, 0)[:, None]
    return [across @ (turned / (values + penalty)) + mean for penalty in penalties]


# Pairs -----------------------------------------------------------------------------------------------------------------


def pair_ridge(X: Features, y: Array, X_test: Features, penalties: Sequence[float], tolerance: float = 1e-8) -> list[Array]:
    """Predictions (n', C) for each penalty, without the pairs' own kernel matrix. Shape: y (n, C).

    X and X_test are rows of one product over two sides, such as `A[i] * B[j]`; ValueError for anything else. A complete
    p × q grid is solved by the eigendecompositions of both sides, at p³ + q³; other pairs by conjugate gradients up to a
    relative residual of `tolerance`, whose products with the kernel cost p·q·(p + q) (the "vec trick", Airola and Pahikkala
    2018, IEEE TNNLS 29, 3374).
    """
    sides = Sides.of(X)
    (a, b), (a_test, b_test) = sides.split(X), sides.split(X_test)

    def gram(one: Side, other: Side) -> Array:
        return normalised_inner(one.node, other.node)

    cells, test = (a.entity, b.entity), (a_test.entity, b_test.entity)
    pairs = _Pairs(gram(a, a), gram(b, b), cells, gram(a_test, a), gram(b_test, b), test)
    if is_complete(*cells, a.n_entities, b.n_entities):
        return _complete(pairs, y, penalties)
    return _iterated(pairs, y, penalties, tolerance)


def is_complete(left: Index, right: Index, p: int, q: int) -> bool:
    """Whether the cells (left, right) are all of a p × q grid, each once."""
    return len(left) == p * q == len(np.unique(left * q + right))


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Rows that are cells of a grid, K = (left ⊗ right) at these cells; and the cells that are predicted.

    Shape: left (p, p), right (q, q), cells two (n,); cross_left (p', p), cross_right (q', q), test two (n',).
    """

    left: Array
    right: Array
    cells: tuple[Index, Index]
    cross_left: Array
    cross_right: Array
    test: tuple[Index, Index]

    def times(self, a: Array) -> Array:
        """K @ a. Shape: (n,)."""
        return np.asarray((self.left @ self._grid(a) @ self.right)[self.cells])

    def predict(self, a: Array) -> Array:
        """What coefficients a (n,) predict. Shape: (n',)."""
        return np.asarray((self.cross_left @ self._grid(a) @ self.cross_right.T)[self.test])

    def _grid(self, a: Array) -> Any:
        """The coefficients in their cells; those of a pair that is there twice add up. Shape: (p, q)."""
        shape = len(self.left), len(self.right)
        if len(a) < SPARSE * shape[0] * shape[1]:
            return sp.csr_array((a, self.cells), shape=shape)
        return np.bincount(np.ravel_multi_index(self.cells, shape), a, shape[0] * shape[1]).reshape(shape)


def _complete(pairs: _Pairs, y: Array, penalties: Sequence[float]) -> list[Array]:
    mean = y.mean(axis=0)
    grid = np.empty((len(pairs.left), len(pairs.right), y.shape[1]))
    grid[pairs.cells] = y - mean
    left, U = scipy.linalg.eigh(pairs.left)
    right, V = scipy.linalg.eigh(pairs.right)
    values = np.maximum(left, 0)[:, None] * np.maximum(right, 0)
    turned = np.einsum("pa,pqc,qb->abc", U, grid, V, optimize=True)
    across_left, across_right = pairs.cross_left @ U, pairs.cross_right @ V
    out = []
    for penalty in penalties:
        solved = turned / (values + penalty)[:, :, None]
        scores = np.einsum("ia,abc,jb->ijc", across_left, solved, across_right, optimize=True)
        out.append(scores[pairs.test] + mean)
    return out


def _iterated(pairs: _Pairs, y: Array, penalties: Sequence[float], tolerance: float) -> list[Array]:
    """From the largest penalty down, each from the solution before."""
    mean = y.mean(axis=0)
    coefficients, out = np.zeros_like(y, dtype=np.float64), {}
    for penalty in sorted(penalties, reverse=True):
        for c in range(y.shape[1]):
            coefficients[:, c] = _solved(pairs, y[:, c] - mean[c], penalty, coefficients[:, c], tolerance)
        out[penalty] = np.stack([pairs.predict(a) for a in coefficients.T], axis=1) + mean
    return [out[penalty] for penalty in penalties]


def _solved(pairs: _Pairs, y: Array, penalty: float, start: Array, tolerance: float) -> Array:
    system = LinearOperator((len(y), len(y)), lambda a: pairs.times(a.ravel()) + penalty * a.ravel(), dtype=np.float64)
    solution, failed = cg(system, y, x0=start, rtol=tolerance, maxiter=MOST_ITERATIONS)
    if failed:
        warnings.warn(f"conjugate gradients stopped after {failed} iterations at penalty {penalty:g}.", stacklevel=2)
    return np.asarray(solution)
