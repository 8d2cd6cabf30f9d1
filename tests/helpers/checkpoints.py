"""A small fit with checkpoints, and one that is ended."""

from __future__ import annotations

import json

import numpy as np

from kronsgd import Dense, KronRegressor
from kronsgd.training import checkpoint as checkpoints
from kronsgd.training import checkpoint_folder

SMALL = {"n_hidden": 64, "batch_size": 16, "max_iter": 4, "random_state": 0, "n_jobs": 1, "engine": "scan",
         "learning_rate_init": 50.0}  # fmt: skip
ENGINES = ["scan", "dense", "tree", "eager", "grid"]


class Killed(Exception):
    """Stands for the end of a process."""


def pairs():
    """200 pairs of 8 and 70 entities, more than a strip of the grid takes."""
    rng = np.random.default_rng(0)
    a, b = Dense(rng.normal(size=(8, 4)).astype("f4")), Dense(rng.normal(size=(70, 3)).astype("f4"))
    cells = rng.permutation(560)[:200]
    y = rng.normal(size=200)
    return (1 + a[cells // 70]) * (1 + b[cells % 70]), y


def saved(model, folder) -> bytes:
    model.save(folder / "model.kron")
    return (folder / "model.kron").read_bytes()


def fit(data, checkpoint=None, estimator=KronRegressor, **options):
    X, y = data
    return estimator(**{**SMALL, **options}).fit(X, y, checkpoint=checkpoint)


def ended_after(monkeypatch, n_saves, data, checkpoint, **options):
    """Run until so many checkpoints are written, and no further; False if training came to its end before."""
    save, count = checkpoints.Keeper.save, [0]

    def ending(self, position):
        save(self, position)
        count[0] += 1
        if count[0] == n_saves:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(checkpoints.Keeper, "save", ending)
        try:
            fit(data, checkpoint, **options)
        except Killed:
            return True
    return False


def rewrite(path, **changes):
    """The description with changes and a digest that fits."""
    meta = json.loads((path / "checkpoint.json").read_text())
    meta.pop("digest")
    (path / "checkpoint.json").write_bytes(checkpoint_folder.described({**meta, **changes}))
