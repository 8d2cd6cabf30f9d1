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

__all__ = ["Pairs", "feature_ridge", "is_complete", "kernel_ridge", "normalised_inner", "pair_ridge", "pairs_of", "two_sides"]

Array = NDArray[Any]
Index = NDArray[np.int64]
TOLERANCE, MOST_ITERATIONS = 1e-8, 1000  # of conjugate gradients


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


@dataclass(frozen=True, eq=False)
class Pairs:
    """Rows that are cells of a grid, K = (left ⊗ right) at these cells; and the cells that are predicted.

    Shape: left (p, p), right (q, q), cells two (n,); cross_left (p', p), cross_right (q', q), test two (n',).
    """

    left: Array
    right: Array
    cells: tuple[Index, Index]
    cross_left: Array
    cross_right: Array
    test: tuple[Index, Index]


def two_sides(X: Features) -> tuple[Side, Side] | None:
    """The smaller and the larger side of a product of factors with different row indices; None for anything else."""
    try:
        return Sides.of(X).split(X)
    except ValueError:
        return None


def is_complete(left: Index, right: Index, p: int, q: int) -> bool:
    """Whether the cells (left, right) are all of a p × q grid, each once."""
    return len(left) == p * q == len(np.unique(left * q + right))


def pairs_of(X: Features, X_test: Features) -> Pairs:
    """The sides of a product. ValueError unless it is one of at least two factors with different row indices."""
    sides = Sides.of(X)
    (a, b), (a_test, b_test) = sides.split(X), sides.split(X_test)

    def gram(one: Side, other: Side) -> Array:
        return normalised_inner(one.node, other.node)

    return Pairs(gram(a, a), gram(b, b), (a.entity, b.entity), gram(a_test, a), gram(b_test, b), (a_test.entity, b_test.entity))


def pair_ridge(pairs: Pairs, y: Array, penalties: Sequence[float]) -> list[Array]:
    """Predictions (n', C) for each penalty, without the pairs' own kernel matrix.

    A complete grid is solved by the eigendecompositions of both sides, at p³ + q³; other pairs by conjugate gradients,
    whose products with the kernel cost p·n + p·q·q (the "vec trick", Airola and Pahikkala 2018, IEEE TNNLS 29, 3374).
    """
    complete = is_complete(*pairs.cells, len(pairs.left), len(pairs.right))
    return (_complete if complete else _iterated)(pairs, y, penalties)


def _complete(pairs: Pairs, y: Array, penalties: Sequence[float]) -> list[Array]:
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


def _iterated(pairs: Pairs, y: Array, penalties: Sequence[float]) -> list[Array]:
    """From the largest penalty down, each from the solution before."""
    mean = y.mean(axis=0)
    shape = (len(pairs.left), len(pairs.right))
    coefficients, out = np.zeros_like(y, dtype=np.float64), {}
    for penalty in sorted(penalties, reverse=True):
        for c in range(y.shape[1]):
            coefficients[:, c] = _solved(pairs, shape, y[:, c] - mean[c], penalty, coefficients[:, c])
        scores = [_spread(pairs.cross_left, pairs.cross_right, pairs.cells, shape, a) for a in coefficients.T]
        out[penalty] = np.stack([score[pairs.test] for score in scores], axis=1) + mean
    return [out[penalty] for penalty in penalties]


def _solved(pairs: Pairs, shape: tuple[int, int], y: Array, penalty: float, start: Array) -> Array:
    def product(a: Array) -> Array:
        a = a.ravel()
        return np.asarray(_spread(pairs.left, pairs.right, pairs.cells, shape, a)[pairs.cells] + penalty * a)

    system = LinearOperator((len(y), len(y)), product, dtype=np.float64)
    solution, failed = cg(system, y, x0=start, rtol=TOLERANCE, maxiter=MOST_ITERATIONS)
    if failed:
        warnings.warn(f"conjugate gradients stopped after {failed} iterations at penalty {penalty:g}.", stacklevel=2)
    return np.asarray(solution)


def _spread(left: Array, right: Array, cells: tuple[Index, Index], shape: tuple[int, int], a: Array) -> Array:
    """left @ grid(a) @ rightᵀ. Shape: (rows of left, rows of right)."""
    grid = sp.csr_array(sp.coo_array((a, cells), shape=shape))
    return np.asarray((grid.T @ left.T).T @ right.T)
