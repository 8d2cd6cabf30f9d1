"""Ranks begin the next batch while their messages travel: the same numbers, each made once."""

from __future__ import annotations

import pickle
from functools import partial

import numpy as np
import pytest

from helpers.engines import problem, step
from helpers.ranks_in_turn import in_turn
from kronsgd.engines import ENGINES
from kronsgd.engines.shards import join
from kronsgd.losses import LOSSES
from kronsgd.network import Part
from kronsgd.training import Settings, train

ENGINE, N_ROWS = ENGINES["scan"], 300


def watched(state):
    """Keep the rows whose starting values are made, in the order in which they are."""
    filled, fill = [], state.start.fill
    state.start.fill = lambda out, rows: (filled.append(rows.tolist()), fill(out, rows))[1]
    return filled


def fitted(network, X, y, batch_size):
    """(arrays, batches begun) after two epochs."""
    state = ENGINE.initialize(network, X)
    filled = watched(state)
    settings = Settings(1.0, max_iter=2, batch_size=batch_size)
    train(ENGINE, state, LOSSES["squared"], np.arange(N_ROWS), y, np.ones(N_ROWS), settings)
    return ENGINE.arrays(state), filled


def shared(network, work):
    """What `work(state)` returns on each of two ranks."""
    _, X, _ = problem(N_ROWS, network.n_hidden)
    return in_turn(2, lambda exchange: work(ENGINE.initialize(Part.on_rank(network, exchange), X)))


@pytest.mark.parametrize("train_output", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64, 150])
def test_batches_begun_early_give_the_same_bytes(batch_size, train_output):
    network, X, y = problem(N_ROWS, 40, "float32", train_output=train_output)

    whole, filled = fitted(network, X, y, batch_size)
    parts = in_turn(2, lambda exchange: fitted(Part.on_rank(network, exchange), X, y, batch_size))

    joined = join([arrays for arrays, _ in parts])
    assert {name: array.tobytes() for name, array in joined.items()} == {n: a.tobytes() for n, a in whole.items()}
    assert parts[0][1] == parts[1][1] == filled  # each batch once, in the same order


def test_a_batch_begins_before_the_step_that_it_follows_is_made():
    network = problem(N_ROWS, 40)[0]

    def work(state):
        filled, first, second = watched(state), np.arange(8), np.arange(8, 16)
        ENGINE.expect(state, second)
        ENGINE.forward(state, first)
        return filled

    assert shared(network, work) == [[list(range(8)), list(range(8, 16))]] * 2


def test_another_batch_than_expected_is_evaluated_as_it_is():
    network, _, y = problem(N_ROWS, 40)

    def work(expected, state):
        for start in range(0, 64, 8):
            ENGINE.expect(state, expected)
            step(ENGINE, state, y, np.arange(start, start + 8))
        return {name: array.tobytes() for name, array in ENGINE.arrays(state).items()}

    assert shared(network, partial(work, np.arange(100, 108))) == shared(network, partial(work, None))


@pytest.mark.parametrize("change", [
    lambda state: ENGINE.stream(state, True),
    lambda state: ENGINE.extend(state, problem(N_ROWS + 1)[1]),
    lambda state: ENGINE.forward(state, np.arange(3)),
])  # fmt: skip
def test_what_was_begun_goes_with_what_it_was_made_from(change):
    network = problem(N_ROWS, 40)[0]

    def work(state):
        ENGINE.expect(state, np.arange(8, 16))
        ENGINE.forward(state, np.arange(8))
        begun = state.begun is not None
        change(state)
        return begun, state.begun

    assert shared(network, work) == [(True, None)] * 2


def test_what_was_begun_is_not_pickled():
    network = problem(N_ROWS, 40)[0]

    def work(state):
        ENGINE.expect(state, np.arange(8, 16))
        ENGINE.forward(state, np.arange(8))
        return pickle.loads(pickle.dumps(state.begun))

    assert shared(network, work) == [None, None]
