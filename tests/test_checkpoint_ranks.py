"""Checkpoints of several ranks: each writes its own neurons, and any number of ranks goes on from them."""

from __future__ import annotations

import errno
import shutil

import pytest

from helpers.ranks import checkpointed, estimator, full_disk, on_ranks, problem
from kronsgd import Checkpoint
from kronsgd.training import checkpoints_in

pytest.importorskip("torch")
CASES = {
    "scan": {}, "early stopping": {"early_stopping": True},
    "bfloat16": {"coefficient_dtype": "bfloat16"},
    "grid": {"engine": "grid", "batching": "random", "batch_size": 7},
}  # fmt: skip


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
def test_another_number_of_ranks_goes_on(params, tmp_path):
    X, y = problem()
    estimator(params).fit(X, y).save(tmp_path / "whole.kron")
    whole = (tmp_path / "whole.kron").read_bytes()
    folder = tmp_path / "c"
    ended = on_ranks(2, checkpointed, params, str(folder), "never", 2)
    assert all(isinstance(error, InterruptedError) for error in ended), ended
    assert sorted(path.name for path in checkpoints_in(folder)[0].iterdir()) == [
        "checkpoint.json", "shard-00000-of-00002.kron", "shard-00001-of-00002.kron",
    ]  # fmt: skip
    for ranks in (2, 3):
        shutil.copytree(folder, tmp_path / f"c{ranks}")
        saves = on_ranks(ranks, checkpointed, params, str(tmp_path / f"c{ranks}"), str(tmp_path / "model.kron"))
        assert all(count > 0 for count in saves), saves
        assert (tmp_path / "model.kron").read_bytes() == whole, ranks
    estimator(params).fit(X, y, checkpoint=Checkpoint(folder, steps=7)).save(tmp_path / "model.kron")
    assert (tmp_path / "model.kron").read_bytes() == whole


def test_a_full_disk_on_one_rank_is_told_to_all(tmp_path):
    for error in on_ranks(2, full_disk, str(tmp_path / "c")):
        assert isinstance(error, OSError), error
        assert "could not be written" in str(error)
        assert "No space left" in str(error)
        assert error.errno in (errno.ENOSPC, None)
    assert not list((tmp_path / "c").glob("*step-*"))
