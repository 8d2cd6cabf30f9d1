"""What ranks decide, they decide together: on each of them the same steps are taken as by one process, at the same time."""

from __future__ import annotations

import numpy as np
import pytest

from helpers.engines import steps
from helpers.ranks_in_turn import in_turn
from kronsgd import Dense
from kronsgd.engines import ENGINES
from kronsgd.engines import coefficients as coefficients_module
from kronsgd.engines import grid as grid_module
from kronsgd.engines.combining import combined
from kronsgd.engines.shards import join
from kronsgd.network import Part, TwoLayer


def pairs(n=400, n_left=12, n_right=70):
    rng = np.random.default_rng(0)
    left, right = Dense(rng.normal(size=(n_left, 4))), Dense(rng.normal(size=(n_right, 3)))
    cells = rng.permutation(n_left * n_right)[:n]
    return (1 + left[cells // n_right]) * (1 + right[cells % n_right]), rng.normal(size=(n, 1))


def trained(engine, network, X, y, watch=lambda state: None):
    """A state after three epochs of single rows, and of batches."""
    state = ENGINES[engine].initialize(network, X)
    for epoch, size in enumerate((5, 5, 40)):
        watch(state)
        ENGINES[engine].begin_epoch(state)
        steps(ENGINES[engine], state, y, 400 // size, rate=2.0, size=size, seed=epoch)
    return state


def bytes_of(arrays):
    return {name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()}


def test_one_crowded_rank_is_enough():
    def work(exchange):
        part = Part.on_rank(TwoLayer(8), exchange)
        blocks = np.ones((len(part.blocks) - 1, 1, 2), dtype="f4")
        return combined(part, blocks, 0, 3, lambda: exchange.rank == 1)[1:]

    assert in_turn(3, work) == [(9, True)] * 3
    assert combined(TwoLayer(8), np.ones((4, 1, 2)), 0, 3, lambda: True)[1:] == (3, None)


@pytest.mark.parametrize("engine", ["scan", "grid"])
@pytest.mark.parametrize("size", [2, 3])
def test_lists_are_compacted_on_all_ranks_in_the_same_step(engine, size):
    X, y = pairs()
    network = TwoLayer(90, seed=1, threshold=1.0, output_scale=1.0)

    def work(exchange):
        state = trained(engine, Part.on_rank(network, exchange), X, y)
        return ENGINES[engine].arrays(state), [crowded for _, crowded in exchange.numbers]

    ranks = in_turn(size, work)
    assert any(0 < crowded < size for crowded in ranks[0][1])  # only some of them would have
    assert bytes_of(join([arrays for arrays, _ in ranks])) == bytes_of(ENGINES[engine].arrays(trained(engine, network, X, y)))


def test_tails_are_merged_by_all_ranks_or_by_none():
    """As they are long in the whole network, not on each rank."""
    X, y = pairs()
    network = TwoLayer(20, seed=1, threshold=1.0, output_scale=1.0)

    def long(state):
        c = state.coefficients
        return c.nnz > coefficients_module.MERGED * len(c.values)

    def work(exchange):
        decisions = []
        state = trained("scan", Part.on_rank(network, exchange), X, y, lambda state: decisions.append(long(state)))
        return ENGINES["scan"].arrays(state), decisions

    ranks = in_turn(3, work)
    unlike = [decisions for decisions in zip(*(decisions for _, decisions in ranks), strict=True) if len(set(decisions)) > 1]
    assert unlike
    assert bytes_of(join([arrays for arrays, _ in ranks])) == bytes_of(ENGINES["scan"].arrays(trained("scan", network, X, y)))


def test_predictions_are_made_in_the_same_parts_on_all_ranks(monkeypatch):
    """The grid's depend on the number of neurons: on that of the whole network, not of a rank's share."""
    X, y = pairs(800, n_left=150, n_right=200)
    network = TwoLayer(10, seed=1, threshold=1.0, output_scale=1.0)  # five blocks: two for one rank, three for the other
    monkeypatch.setattr(grid_module, "VIEW_NUMBERS", 6 * 128)

    def outputs(network):
        return ENGINES["grid"].outputs(trained("grid", network, X[:400], y[:400]), X[400:])

    alone = outputs(network)
    for predicted in in_turn(2, lambda exchange: outputs(Part.on_rank(network, exchange))):
        np.testing.assert_array_equal(predicted, alone)
