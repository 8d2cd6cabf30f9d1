"""Neurons over ranks: the bytes of one process, whatever the number of ranks and threads."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

import kronsgd as ks
from helpers.ranks import (
    LINGERS,
    all_trained,
    bytes_per_step,
    early,
    estimator,
    failing_alone,
    failing_to_save,
    folded,
    gathered,
    interrupted,
    mishandled,
    on_ranks,
    outgrown,
    problem,
    refused,
    said,
    streamed,
    streams_trained,
    targets,
)
from kronsgd import initial
from kronsgd.distributed import Distributed
from kronsgd.engines import ENGINES
from kronsgd.engines.shards import join, part
from kronsgd.estimators.planning import plan_to_train
from kronsgd.network import Part, TwoLayer

CASES = {
    "scan": {},
    "grid": {"engine": "grid"},
    "all outputs learn": {"train_output": True, "alpha": 0.01, "early_stopping": True, "dtype": "float64"},
    "grid that forgets": {"engine": "grid", "train_output": True, "alpha": 0.01, "early_stopping": True},
    "odd blocks": {"n_hidden": 91, "antisymmetric": False, "train_output": True},
    "odd blocks of the grid": {"engine": "grid", "n_hidden": 91, "antisymmetric": False, "train_output": True},
    "classes and networks": {"classes": True, "n_hidden": 66, "n_networks": 3},
    "bfloat16": {"coefficient_dtype": "bfloat16", "max_iter": 8, "alpha": 0.01},
    "bfloat16 in the grid": {"engine": "grid", "coefficient_dtype": "bfloat16", "max_iter": 20, "early_stopping": True},
    "true Gaussians": {"init": "gaussian", "batch_size": 100},
}  # fmt: skip


WORLDS = ((1, 2), (2, 1), (3, 2), (4, 1))  # ranks, and threads of each


@pytest.fixture(scope="module", params=WORLDS, ids=lambda world: "{}x{}".format(*world))
def world(request, tmp_path_factory):
    """(number of ranks, folder of the models, what each rank says of each case)."""
    size, n_threads = request.param
    folder = tmp_path_factory.mktemp("models")
    return size, folder, on_ranks(size, all_trained, CASES, str(folder), n_threads=n_threads)


@pytest.fixture(scope="module")
def alone():
    """The same models, each trained by this process."""
    X, y = problem()
    return {name: estimator(params).fit(X, targets(y, params)) for name, params in CASES.items()}


@pytest.mark.parametrize("name", CASES)
def test_ranks_and_threads_give_the_bytes_of_one_process(name, world, alone, tmp_path):
    (size, folder, ranks), (X, y), model = world, problem(), alone[name]
    results = [rank[name] for rank in ranks]
    model.save(tmp_path / "alone.kron")
    assert arrays_of(folder / f"{name}.kron") == arrays_of(tmp_path / "alone.kron")
    assert sum(result["neurons"] for result in results) == model.state_.network.n_hidden
    assert [result["whole"] for result in results] == [True] + [False] * (size - 1)
    for result in results:
        np.testing.assert_array_equal(result["predicted"], model.predict(X[:50]))
        assert result["score"] == model.score(X, targets(y, CASES[name]))
        assert timeless(result["history"]) == timeless(model.history_)


STREAMS = {
    "scan": {}, "single rows": {"batch_size": 1, "train_output": True}, "grid": {"engine": "grid"},
    "blocks of the grid": {"engine": "grid", "batching": "blocks", "batch_size": 16, "alpha": 0.01},
}  # fmt: skip


@pytest.mark.parametrize("size", [1, 2, 3])
def test_a_stream_over_ranks_gives_the_bytes_of_one_process(size, tmp_path):
    X, y = problem()
    (tmp_path / "ranks").mkdir()
    n_rows = on_ranks(size, streams_trained, STREAMS, str(tmp_path / "ranks"))
    for number, (name, params) in enumerate(STREAMS.items()):
        alone = streamed(estimator(params), X, y)
        alone.save(tmp_path / "alone.kron")
        assert {rows[number] for rows in n_rows} == {alone.features_.n_rows}
        assert (tmp_path / f"ranks/{name}.kron").read_bytes() == (tmp_path / "alone.kron").read_bytes(), name


def arrays_of(path):
    """All that a model has learned, as bytes."""
    model = ks.load(path)
    arrays = model._engine.arrays(model.state_)
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}, model.learning_rate_


def timeless(history):
    return [{k: v for k, v in record.items() if k not in ("seconds", "rows_per_second")} for record in history]


@pytest.mark.parametrize(("size", "n_blocks"), [(1, 2), (3, 7), (4, 4), (5, 64)])
def test_every_rank_gathers_all_blocks_in_their_order(size, n_blocks):
    for blocks, numbers, n_calls in on_ranks(size, gathered, n_blocks):
        np.testing.assert_array_equal(blocks, np.tile(np.arange(n_blocks, dtype=np.float32)[:, None], (2, 1, 3)))
        assert numbers == [size * (size - 1) / 2, size]
        assert n_calls == (size > 1)


def test_ranks_work_while_messages_travel(tmp_path):
    assert on_ranks(2, early, str(tmp_path)) == [(True, [3.0])] * 2


def test_a_step_sends_as_many_bytes_whatever_the_size_of_the_problem():
    base, sizes = {"n_hidden": 256}, {"n": 200, "dims": (4, 4)}
    small = on_ranks(2, bytes_per_step, base, sizes)
    assert small == [[32 * 64 * 4 + 3 * 8] * 3] * 2  # half of 64 blocks, 64 rows of float32, and three numbers
    assert on_ranks(2, bytes_per_step, {"n_hidden": 16 * 256}, sizes) == small
    assert on_ranks(2, bytes_per_step, base, {**sizes, "n": 16 * 200}) == small
    assert on_ranks(2, bytes_per_step, base, {**sizes, "dims": (4 * 2**6, 4 * 2**6)}) == small


def test_only_rank_0_speaks():
    first, second = on_ranks(2, said, {"max_iter": 2})
    assert any("epoch 2" in line for line in first)
    assert second == []


def test_ctrl_c_on_one_rank_stops_all_in_the_same_step(tmp_path):
    results = on_ranks(2, interrupted, str(tmp_path / "m.kron"))
    assert results[0] == results[1]
    assert results[0][0] == "INTERRUPTED"
    assert ks.load(tmp_path / "m.kron").stop_reason_ is ks.StopReason.INTERRUPTED


def test_too_little_memory_on_one_rank_stops_all_in_the_same_step():
    results = on_ranks(2, outgrown)
    assert results[0] == results[1]
    assert results[0][0] == "MEMORY"


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"engine": "dense"}, 'engine="dense" trains in one process; over ranks use one of'),
        ({"warm_start": True}, "Distributed starts anew"),
        ({"n_hidden": 2}, "2 neurons can be shared by at most 1 ranks, not by 2; start fewer"),
        ({"memory_limit": "1 MiB", "n_hidden": 20_000}, "neurons, of n_hidden=20000 and 400 rows, but only 1 MiB"),
    ],
)  # fmt: skip
def test_what_ranks_cannot_train_is_refused_on_all_of_them(params, message):
    for error in on_ranks(2, refused, params):
        assert isinstance(error, (ValueError, MemoryError))
        assert message in str(error)


@pytest.mark.parametrize("kind", [MemoryError, AssertionError, KeyboardInterrupt])
def test_an_error_that_one_rank_meets_and_survives_ends_the_others_at_once(kind):
    ranks = on_ranks(3, failing_alone, kind)
    (own, when), _ = ranks[1]
    assert own == f"{kind.__name__}: of rank 1 alone"
    for rank in (0, 2):
        told, then = ranks[rank][0]
        assert told.startswith(f"ConnectionError: rank {rank} of 3 has lost the others (")
        assert "\n" not in told
        assert then - when < LINGERS / 2
    for (_, _), (again, _) in ranks:
        assert again.startswith("RuntimeError: there is no process group; ")


@pytest.mark.parametrize("subgroup", [False, True])
def test_a_rank_that_fails_to_save_and_lives_on_ends_the_others(subgroup):
    """At once, but where the program keeps a group of its own: torch closes its connections with the last reference."""
    (own, when), (own_again, _) = (heard := on_ranks(2, failing_to_save, subgroup))[0]
    (told, then), (again, _) = heard[1]
    assert own == "MemoryError: of rank 0 alone"
    assert told.startswith("ConnectionError: rank 1 of 2 has lost the others (")
    assert subgroup or then - when < LINGERS / 2
    for text in (own_again, again):
        assert text.startswith("RuntimeError: the process group has ended; ")


@pytest.mark.parametrize("call", ["fit", "partial_fit"])
@pytest.mark.parametrize(("other", "said"), [("other data", "other data"), ("other parameters", "other parameters (alpha)")])
def test_ranks_with_different_data_or_parameters_are_refused(call, other, said):
    for error in on_ranks(3, refused, {}, other, call):
        assert isinstance(error, ValueError)
        assert f"rank 1 has {said} than rank 0; give every rank the same" in str(error)


def test_one_process_of_several_does_not_train_alone(monkeypatch):
    X, y = problem(50)
    with pytest.raises(RuntimeError, match="no process group; do this within"):
        Distributed(ks.KronRegressor()).fit(X, y)
    monkeypatch.setenv("WORLD_SIZE", "2")
    for call in ("fit", "partial_fit"):
        with pytest.raises(RuntimeError, match="WORLD_SIZE=2, but there is no process group"):
            getattr(ks.KronRegressor(), call)(X, y)


@pytest.mark.parametrize("engine", ["scan", "grid", "tree", "dense", "eager"])
@pytest.mark.parametrize("cuts", [(0, 200), (0, 60, 200), (0, 8, 100, 102, 200)])
def test_parts_of_a_model_join_to_the_same_bytes(engine, cuts):
    X, y = problem()
    model = estimator({"engine": engine, "train_output": True}).fit(X, y)
    arrays = model._engine.arrays(model.state_)
    again = join([part(arrays, a, b) for a, b in pairwise(cuts)])
    assert {k: v.tobytes() for k, v in again.items()} == {k: v.tobytes() for k, v in arrays.items()}
    assert [v.dtype for v in again.values()] == [v.dtype for v in arrays.values()]


class OneOf:
    """One of several ranks, that hears nothing from the others."""

    shared = True

    def __init__(self, rank, size):
        self.rank, self.size = rank, size

    def share(self, n_blocks):
        return n_blocks * self.rank // self.size, n_blocks * (self.rank + 1) // self.size


def test_ranks_keep_the_engine_of_a_checkpoint_that_one_process_chose():
    X, _ = problem()
    network = Part.on_rank(TwoLayer(64), OneOf(0, 2))
    model = estimator({"engine": "auto"})
    chosen = [plan_to_train(model, network, X, False, known).choose() for known in (None, "grid", "tree")]
    assert chosen == ["scan", "grid", "scan"]


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_parts_have_the_weights_of_the_whole_network(size):
    network = TwoLayer(n_hidden=90, n_outputs=4, n_networks=2, antisymmetric=False, seed=3)
    parts = [Part.on_rank(network, OneOf(rank, size)) for rank in range(size)]
    np.testing.assert_array_equal(np.concatenate([p.output_weights() for p in parts]), network.output_weights())
    np.testing.assert_array_equal(np.concatenate([p.mask for p in parts]), network.mask)
    assert [b for p in parts for b, _, _ in p.block_sizes()] == [b for b, _, _ in network.block_sizes()]
    assert {p.scale for p in parts} == {network.scale}
    X, _ = problem(60)
    weights = [ENGINES["scan"].hidden_weights(ENGINES["scan"].initialize(p, X)) for p in (network, *parts)]
    np.testing.assert_array_equal(np.concatenate(weights[1:]), weights[0])


def test_mistakes_with_a_fitted_model_are_told_on_every_rank(tmp_path):
    """None of them leaves a rank waiting."""
    for wrong, unfitted, folder, part_of_it, missing, fine in on_ranks(2, mishandled, str(tmp_path)):
        assert wrong.startswith("TypeError: estimator=Ridge() cannot be spread over ranks; give a KronRegressor")
        assert unfitted.startswith("NotFittedError")
        assert folder.startswith("OSError: rank 0 could not write the model to")
        assert part_of_it.startswith("TypeError: a rank's part cannot be written by itself; call Distributed.save")
        assert missing.startswith("AttributeError: Distributed has no attribute 'rank'; what an estimator has besides")
        assert fine == ""


def test_parts_keep_the_tables_that_the_whole_network_keeps(monkeypatch):
    """For kept and unkept ones differ in their last bits."""
    X, _ = problem(400)
    network = TwoLayer(n_hidden=128)
    monkeypatch.setattr(initial, "CACHE_BYTES", 30 * 4 * network.n_hidden)  # one table of 20 entities, not 24 more
    parts = [Part.on_rank(network, OneOf(rank, 2)) for rank in range(2)]
    kept = [len(initial.InitialWeights(p, X).values(X, True, "float32")._kept) for p in (network, *parts)]
    assert kept == [1, 1, 1]


def test_what_is_folded_is_added_in_the_order_of_the_ranks():
    assert on_ranks(3, folded) == [sum([1.0, 3.0, 1e17, -1e17, 5.0, 7.0])] * 3 != [16.0] * 3
