"""Fixtures that several test files share."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.cli import SMALL, call, write_pairs
from kronsgd.parallel import threads


@pytest.fixture(scope="module")
def one_thread():
    """Tiny problems gain nothing from threads, and lose much on a busy machine."""
    with threads(1):
        yield


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    """No test sees or leaves measured rates."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KRONSGD_CALIBRATION", raising=False)


@pytest.fixture
def own(tmp_path):
    """Six drugs with ids and features, five proteins with a kernel, and thirty pairs: (folder, flags)."""
    rng = np.random.default_rng(0)
    drugs, latent = rng.normal(size=(6, 3)), rng.normal(size=(5, 4))
    ids, names = [f"D{k}" for k in range(6)], [f"P{k}" for k in range(5)]
    np.savez(tmp_path / "drugs.npz", features=drugs, ids=np.array(ids))
    np.savez(tmp_path / "proteins.npz", features=latent @ latent.T + np.eye(5), ids=np.array(names))
    d, p = np.divmod(np.arange(30), 5)
    y = (drugs[d, :1] * latent[p, :1]).ravel() + 3
    label = np.where(y > np.median(y), "binds", "none")
    take = lambda rows: ([ids[k] for k in d[rows]], [names[k] for k in p[rows]])  # noqa: E731
    train, test = np.arange(24), np.arange(24, 30)
    for name, part in (("pairs.csv", train), ("test.csv", test)):
        write_pairs(tmp_path / name, *take(part), y=y[part], label=label[part], w=1.0 + part % 2)
    flags = ["--table", f"drug={tmp_path / 'drugs.npz'}", "--table", f"protein={tmp_path / 'proteins.npz'}:kernel",
             "--pairs", tmp_path / "pairs.csv", "--column", "protein=protein_id"]  # fmt: skip
    return tmp_path, flags


@pytest.fixture
def run(own):
    """A run on own tables with test pairs."""
    folder, flags = own
    call("train", *flags, "--test", folder / "test.csv", *SMALL, "--out", folder / "run", "--quiet")
    return folder / "run"
