"""Leaves and expressions of every kind, on small random tables."""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.sparse as sp

from helpers.arrays import normal, positive_table
from kronsgd import RBF, Bag, Dense, Kernel, OneHot, Sparse, Tanimoto


def bits(n, d, seed=0):
    return np.random.default_rng(seed).integers(0, 2, size=(n, d))


def with_new_entities(**options):
    """A kernel over 6 entities, and 3 entities that its table does not have."""
    table = positive_table(9)
    known = Kernel(table[:6, :6], **options)
    return known, known.new_entities(table[6:, :6], np.diag(table)[6:])


def sparse(n, d, seed=0, dtype=np.float64):
    return sp.random(n, d, 0.4, random_state=seed, format="csr", dtype=dtype)


def bags(make_items, **options):
    """Bags of weighted items, the third of them empty, and new ones."""
    bag = Bag(make_items(7, 0), [0, 4, 1, 1, 3, 0, 3], normal(7), 5, **options)
    return bag, bag.like(make_items(5, 1), [1, 0, 0, 1, 1], normal(5, seed=3), 3)


def pairs_of_items(n, seed):
    """Items that are an entity ⊗ a category."""
    rng = np.random.default_rng(seed)
    return Dense(normal(6, 3))[rng.integers(0, 6, n)] * OneHot(np.arange(4))[rng.integers(0, 4, n)]


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
    "Bag": lambda: bags(pairs_of_items, form="dense"),
    "Bag of norm 1": lambda: bags(pairs_of_items, form="sparse", normalize=True),
    "Bag of items": lambda: bags(pairs_of_items, form="items"),
    "Bag of a kernel": lambda: bags(lambda n, seed: RBF(normal(n, 2, seed=seed), 0.5), normalize=True),
    "Bag of float32": lambda: bags(lambda n, seed: Dense(normal(n, 3, seed=seed, dtype="f4")) ** 2, form="items"),
    "weighted": lambda: (0.3 * Dense(normal(6, 4)), Dense(normal(3, 4, seed=1)) * 0.3),
    "weighted categories": lambda: (2 * OneHot([0, 2, 1, 0], 4), 2 * OneHot([3, 1], 4)),
    "weighted kernel": lambda: tuple(0.5 * leaf for leaf in with_new_entities()),
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
        "weights": 0.3 * (1 + a[i]) * g[j] + 0.7 * (b[j] * k[i]) ** 2,
        "bags": Bag(a[i] * b[j], j)[i % 5] * (1 + Bag(g[j], i, normalize=True)[j]),
        "categories": OneHot([0, 1, 2])[i % 3] * OneHot(np.arange(4))[j % 4],
    }


def random_leaf(rng, n):
    """A leaf of any kind with n rows, some through an index."""
    entities = int(rng.integers(1, 7))
    kind = rng.integers(0, 8)
    leaf = [
        lambda: Dense(rng.normal(size=(entities, rng.integers(1, 5))), normalize=bool(rng.integers(0, 2))),
        lambda: OneHot(rng.integers(0, 3, entities), 3),
        lambda: Sparse(sp.csr_array(rng.normal(size=(entities, 4)) * (rng.random((entities, 4)) < 0.5))),
        lambda: RBF(rng.normal(size=(entities, 2))),
        lambda: Tanimoto(rng.integers(0, 2, (entities, 6)).astype(float)),
        lambda: Kernel(np.eye(entities) + np.full((entities, entities), 0.3)),
        lambda: rng.uniform(0.2, 2.0) * Dense(rng.normal(size=(entities, 2))),
        lambda: Bag(random_expression(rng, 5, 1), rng.integers(0, entities, 5), rng.uniform(0.5, 1.5, 5), entities),
    ][kind]()
    return leaf[rng.integers(0, entities, n)]


def random_expression(rng, n, depth=2):
    if depth == 0 or rng.random() < 0.3:
        return random_leaf(rng, n)
    left, right = random_expression(rng, n, depth - 1), random_expression(rng, n, depth - 1)
    return [left * right, left + right, left**2, 0.5 + left][rng.integers(0, 4)]
