"""Arrays of parts of the neurons, and their files."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from helpers.checkpoints import ENGINES, fit, pairs
from kronsgd.engines.shards import join, part
from kronsgd.training import shardfile

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize("engine", ENGINES)
def test_parts_of_a_state_make_the_whole_again(engine):
    model = fit(pairs(), engine=engine, batch_size=5, max_iter=1, batching="random")
    arrays = model._engine.checkpoint(model.state_)
    m = model.state_.network.n_hidden
    assert any(array.ndim > 1 for array in arrays.values())

    @given(st.lists(st.integers(0, m), max_size=4))
    @settings(max_examples=30, deadline=None, database=None)
    def check(cuts):
        bounds = [0, *sorted(cuts), m]
        whole = join([part(arrays, a, b) for a, b in pairwise(bounds)])
        assert whole.keys() == arrays.keys()
        for name, array in arrays.items():
            assert (whole[name].dtype, whole[name].shape) == (array.dtype, array.shape), name
            assert whole[name].tobytes() == array.tobytes(), name

    check()


def test_a_shard_is_a_safetensors_file(tmp_path):
    rng = np.random.default_rng(0)
    arrays = {
        "a": rng.normal(size=(3, 4))[:, ::2], "b": np.zeros((0, 3), np.int32), "c": np.asfortranarray(rng.normal(size=(5, 2))),
        "d": np.array([True, False]), "e": np.arange(7, dtype=np.uint64),
    }  # fmt: skip
    shardfile.write_shard(tmp_path / "s", arrays)
    back = load_file(tmp_path / "s")
    assert back.keys() == arrays.keys()
    assert all(np.array_equal(back[name], array) and back[name].dtype == array.dtype for name, array in arrays.items())


def test_lists_without_bounds_are_refused():
    with pytest.raises(KeyError, match="indptr"):
        part({"rows": np.arange(3), "values": np.ones(3)}, 0, 1)
