"""Fitted models over every kind of table."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from helpers.arrays import normal, positive_table
from kronsgd import (
    RBF,
    Bag,
    Dense,
    Kernel,
    KronRegressor,
    OneHot,
    Sparse,
    Tanimoto,
)

OPTIONS = {
    "n_hidden": 20, "n_jobs": 1, "random_state": 0, "max_iter": 2, "batch_size": 8, "learning_rate_init": 5.0,
    "output_scale": 0.3,
}  # fmt: skip


def kernel(n=10, n_new=4):
    table = positive_table(n + n_new)
    known = Kernel(table[:n, :n])
    return known, known.new_entities(table[n:, :n], np.diag(table)[n:])


def bag_of(make_items):
    bags = Bag(make_items(25, 0), np.arange(25) % 10, normal(25), normalize=True)
    return bags, bags.like(make_items(7, 1), [0, 1, 2, 3, 0, 1, 2])


def table_of(kind):
    """(entities to train on, entities that come after loading) of one kind of leaf."""
    rng = np.random.default_rng(1)
    return {
        "Dense": lambda: (Dense(normal(10, 4)), Dense(normal(4, 4, seed=1))),
        "Dense float32": lambda: (Dense(normal(10, 4, dtype="f4")), Dense(normal(4, 4, seed=1, dtype="f4"))),
        "Sparse": lambda: tuple(Sparse(sp.random(n, 40, 0.4, random_state=n)) for n in (10, 4)),
        "OneHot": lambda: (OneHot(np.arange(10), 14), OneHot(np.arange(10, 14), 14)),
        "Kernel": kernel,
        "Bag": lambda: bag_of(lambda n, seed: Dense(normal(n, 3, seed=seed)) * OneHot(np.arange(n) % 4, 4)),
        "Bag of a kernel": lambda: bag_of(lambda n, seed: RBF(normal(n, 3, seed=seed))),
        "weighted": lambda: tuple(0.3 * leaf for leaf in kernel()),
        "RBF": lambda: (RBF(normal(10, 3), 0.4), RBF(normal(4, 3, seed=1), 0.4)),
        "Tanimoto": lambda: (
            Tanimoto(rng.integers(0, 2, (10, 9)).astype(float)), Tanimoto(rng.integers(0, 2, (4, 9)).astype(float)),
        ),
    }[kind]()  # fmt: skip


KINDS = [
    "Dense", "Dense float32", "Sparse", "OneHot", "Kernel", "RBF", "Tanimoto", "Bag", "Bag of a kernel", "weighted",
]  # fmt: skip


def fitted(engine="scan", estimator=KronRegressor, features=None, **options):
    rng = np.random.default_rng(2)
    if features is None:
        features = (1 + Dense(normal(6, 3))[rng.integers(0, 6, 20)]) * OneHot(np.arange(5))[rng.integers(0, 5, 20)]
    y = rng.normal(size=features.n_rows)
    y = y if estimator is KronRegressor else np.array(["no", "yes", "maybe"])[np.arange(len(y)) % 3]
    return estimator(**{**OPTIONS, "engine": engine, **options}).fit(features, y), features
