"""Ranks begin the next batch while their messages travel: the same numbers, each made once."""

from __future__ import annotations

import pickle
import weakref
from functools import partial

import numpy as np
import pytest

from helpers.engines import problem, step
from helpers.ranks_in_turn import in_turn
from kronsgd.engines import ENGINES
from kronsgd.engines.shards import join
from kronsgd.exchange import Exchange
from kronsgd.losses import LOSSES
from kronsgd.network import Part
from kronsgd.planner.memory import PEAK_STAGES
from kronsgd.planner.problem import Problem, Schedule
from kronsgd.training import Settings, train

ENGINE, N_ROWS = ENGINES["scan"], 300


def watched(state):
    """Keep the rows whose starting values are made and where, in the order in which they are, and a None for every exchange."""
    seen, fill, exchange = [], state.start.fill, state.network.exchange
    state.start.fill = lambda out, rows: (seen.append((rows.tolist(), out.ctypes.data)), fill(out, rows))[1]
    if exchange.shared:
        gather = exchange.gather
        exchange.gather = lambda *given: (gather(*given), seen.append(None))[0]
    return seen


def fitted(network, X, y, batch_size):
    """(arrays, what was made) after two epochs over some rows, which are numbered from the last on."""
    state = ENGINE.initialize(network, X)
    seen, rows = watched(state), np.arange(N_ROWS)[::-1]
    settings = Settings(1.0, max_iter=2, batch_size=batch_size)
    train(ENGINE, state, LOSSES["squared"], rows, y[rows], np.ones(N_ROWS), settings)
    return ENGINE.arrays(state), seen


def shared(network, work):
    """What `work(state)` returns on each of two ranks."""
    _, X, _ = problem(N_ROWS, network.n_hidden)
    return in_turn(2, lambda exchange: work(ENGINE.initialize(Part.on_rank(network, exchange), X)))


@pytest.mark.parametrize("train_output", [False, True])
@pytest.mark.parametrize("batch_size", [7, 64, 150])
def test_batches_begun_early_give_the_same_bytes(batch_size, train_output):
    network, X, y = problem(N_ROWS, 40, "float32", train_output=train_output)

    whole, alone = fitted(network, X, y, batch_size)
    parts = in_turn(2, lambda exchange: fitted(Part.on_rank(network, exchange), X, y, batch_size))

    joined = join([arrays for arrays, _ in parts])
    assert {name: array.tobytes() for name, array in joined.items()} == {n: a.tobytes() for n, a in whole.items()}
    steps = -(-N_ROWS // batch_size)
    for _, seen in parts:
        made = [one for one in seen if one is not None]
        assert [rows for rows, _ in made] == [rows for rows, _ in alone]  # each batch once, in the same order
        assert seen.index(None) == 2  # the first batch and the second
        assert seen[2 : 2 * steps - 2] == [thing for one in made[2:steps] for thing in (None, one)]
        assert len({place for _, place in made}) == 1 + train_output  # of a gradient that is still to come


def test_a_batch_begins_before_the_step_that_it_follows_is_made():
    network = problem(N_ROWS, 40)[0]

    def work(state):
        seen = watched(state)
        ENGINE.expect(state, np.arange(8, 16)[::-1])
        activations = ENGINE.forward(state, np.arange(8))
        return [one if one is None else one[0] for one in seen], activations.hidden.shape

    assert shared(network, work) == [([list(range(8)), list(range(8, 16)), None], (0, 20, 16))] * 2


def test_a_larger_batch_takes_the_place_of_the_one_before():
    network = problem(N_ROWS, 40)[0]

    def work(state):
        taken, alive, fill = [], [], state.start.fill
        state.start.fill = lambda out, rows: (
            alive.append([memory() is not None for memory in taken]), taken.append(weakref.ref(out.base)), fill(out, rows)
        )  # fmt: skip
        ENGINE.expect(state, np.arange(8, 108))
        ENGINE.forward(state, np.arange(8))
        return alive

    assert shared(network, work) == [[[], [False]]] * 2


@pytest.mark.parametrize(("size", "train_output", "rows"), [(2, True, 64), (2, False, 0), (1, True, 0)])
def test_a_second_batch_is_planned_for_where_there_is_one(size, train_output, rows):
    class Ranks(Exchange):
        shared = True

    exchange = Ranks()
    exchange.size, exchange.share = size, lambda n_blocks: (0, n_blocks // size)
    network, X, _ = problem(N_ROWS, 40, "float32", train_output=train_output)
    part = Part.on_rank(network, exchange)
    stages = PEAK_STAGES["scan"](Problem.of(part, X, Schedule(batch_size=60, probe=256)))
    assert max(stage.get("next batch", 0) for stage in stages) == 4 * rows * part.n_hidden


def test_nothing_is_expected_in_one_process():
    network, X, _ = problem(N_ROWS, 40)
    state = ENGINE.initialize(network, X)
    ENGINE.expect(state, np.arange(8, 16))
    activations = ENGINE.forward(state, np.arange(8))
    assert state.expected is state.begun is None
    assert activations.hidden.shape == (1, 40, 16)


def test_new_rows_of_the_same_numbers_are_not_those_that_were_begun():
    network, X, y = problem(N_ROWS, 40)

    def work(begin, state):
        step(ENGINE, state, y, np.arange(16))
        ENGINE.expect(state, np.arange(8) if begin else None)
        ENGINE.forward(state, np.arange(16, 24))
        outputs = ENGINE.forward(state, np.arange(8), ENGINE.view(state, X[100:200])).outputs
        return outputs.tobytes(), state.begun is not None

    (early, begun), (usual, none) = (shared(network, partial(work, begin))[0] for begin in (True, False))
    assert early == usual
    assert (begun, none) == (True, False)


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
