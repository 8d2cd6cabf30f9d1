"""Small models that depend on no default, data for them, and equality to the bit."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp

from kronsgd import RBF, Dense, Kernel, OneHot, Sparse, Tanimoto

# Nothing below depends on defaults, but for those that a test names.
PLAIN = {
    "n_jobs": 1, "random_state": 0, "shuffle": False, "tol": 0.0, "n_iter_no_change": 10**6, "output_scale": 0.3,
    "threshold": "auto", "learning_rate": "cosine", "init": "structured", "init_rank": 1, "antisymmetric": True,
    "alpha": 0.0, "train_output": False, "normalize": True,
}  # fmt: skip
SMALL = {**PLAIN, "n_hidden": 40, "batch_size": 8, "learning_rate_init": 20.0, "max_iter": 3}
EXACT = {**SMALL, "dtype": "float64"}
ENGINES = ["scan", "dense"]


def pairs(n=30, seed=0):
    """Rows of A * B over two tables, none of them twice, and targets."""
    rng = np.random.default_rng(seed)
    a, b = Dense(rng.normal(size=(8, 4))), Dense(rng.normal(size=(7, 3)))
    cells = rng.permutation(56)[:n]
    return a[cells // 7] * b[cells % 7], rng.normal(size=n) * 3 + 5


def labels(y, n_classes):
    return np.digitize(y, np.quantile(y, np.linspace(0, 1, n_classes + 1)[1:-1]))


def assert_same_bits(first, second, X):
    """Two models that must not differ in anything that can be asked of them."""
    for what in ("hidden_weights", "predict"):
        mine, theirs = (getattr(m, what)(*([X] if what == "predict" else [])) for m in (first, second))
        assert mine.tobytes() == theirs.tobytes(), what
    assert first.output_weights_.tobytes() == second.output_weights_.tobytes()
    assert (first.fired(X) != second.fired(X)).nnz == 0
    assert first.loss_curve_ == second.loss_curve_


def every_leaf(n=24):
    """An expression with every kind of leaf in it, and targets."""
    rng = np.random.default_rng(3)
    i, j = rng.integers(0, 6, n), rng.permutation(n)
    table = rng.normal(size=(6, 20))
    features = (
        Dense(rng.normal(size=(6, 3)))[i] * Kernel(table @ table.T)[i] * OneHot(np.arange(3))[j % 3]
        + RBF(rng.normal(size=(n, 2)))[j] * Tanimoto(rng.integers(0, 2, (n, 9)).astype(float))[j]
        + Sparse(sp.random(n, 30, 0.4, random_state=0))[j]
    )
    return features, rng.normal(size=n)
