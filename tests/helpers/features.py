"""Leaves and expressions of every kind, on small random tables."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.sparse as sp

from helpers.arrays import normal, positive_table
from kronsgd import RBF, Dense, Kernel, OneHot, Sparse, Tanimoto


def bits(n, d, seed=0):
    return np.random.default_rng(seed).integers(0, 2, size=(n, d))


def with_new_entities(**options):
    """A kernel over 6 entities, and 3 entities that its table does not have."""
    table = positive_table(9)
    known = Kernel(table[:6, :6], **options)
    return known, known.new_entities(table[6:, :6], np.diag(table)[6:])


def sparse(n, d, seed=0, dtype=np.float64):
    return sp.random(n, d, 0.4, random_state=seed, format="csr", dtype=dtype)


LEAVES = {
    "Dense": lambda: (Dense(normal(6, 4)), Dense(normal(3, 4, seed=1))),
    "Dense float32": lambda: (Dense(normal(6, 4, dtype="f4")), Dense(normal(3, 4, seed=1, dtype="f4"))),
    "Dense as given": lambda: (Dense(normal(6, 4), normalize=False), Dense(normal(3, 4, seed=1), normalize=False)),
    "Dense with a row of zeros": lambda: (Dense(np.array([[0.0, 0.0], [3.0, 4.0]])), Dense(np.zeros((1, 2)))),
    "Sparse": lambda: (Sparse(sparse(6, 5)), Sparse(sparse(4, 5, 1))),
    "Sparse float32": lambda: (Sparse(sparse(6, 5, dtype="f4")), Sparse(sparse(4, 5, 1, dtype="f4"))),
    "Sparse as given": lambda: (Sparse(sparse(6, 5), normalize=False), Sparse(sparse(4, 5, 1), normalize=False)),
    "OneHot": lambda: (OneHot([0, 2, 1, 0], 4), OneHot([3, 1], 4)),
    "OneHot table": lambda: (OneHot([0, 1, 2])[[0, 2, 1, 0]], OneHot([0, 1, 2])[[1, 1]]),
    "Kernel": with_new_entities,
    "Kernel as given": partial(with_new_entities, normalize=False),
    "RBF": lambda: (RBF(normal(6, 3)), RBF(normal(4, 3, seed=1))),
    "RBF float32": lambda: (RBF(normal(6, 3, dtype="f4"), 0.5), RBF(normal(4, 3, seed=1, dtype="f4"), 0.5)),
    "Tanimoto": lambda: (Tanimoto(bits(6, 12)), Tanimoto(bits(4, 12, seed=1))),
}


def tables():
    known, _ = with_new_entities()
    matrix = sparse(5, 3, 3) + sp.csr_array(normal(5, 1, seed=8) * [1, 0, 1])  # no two rows are equal
    return Dense(normal(6, 4)), Sparse(matrix), known, RBF(normal(5, 2, seed=4))


def expressions():
    a, b, k, g = tables()
    rng = np.random.default_rng(5)
    i, j = rng.integers(0, 6, 12), rng.integers(0, 5, 12)
    return {
        "product": a[i] * b[j],
        "product of one table with itself": a[i] * a[i[::-1]],
        "factors over one index": a[i] * k[i] * b[j],
        "three factors": a[i] * b[j] * k[i[::-1]],
        "sum": a[i] + b[j] + k[i],
        "polynomial": (1 + a[i]) ** 2,
        "power over two indices": (a[i] * g[j] + 2) ** 3,
        "nesting": (1 + a[i]) ** 2 * (g[j] + 0.5) + k[j],
        "sum of products with a constant": a[i] * b[j] + 3 + a[j] * b[j],
        "categories": OneHot([0, 1, 2])[i % 3] * OneHot(np.arange(4))[j % 4],
    }
