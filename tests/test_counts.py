"""Sizes that 32 bits cannot number are refused in one sentence, before anything of their size is made."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import kronsgd as ks
from helpers.planner import pairs
from kronsgd import OneHot
from kronsgd.engines import ENGINES
from kronsgd.engines.grid import _segments
from kronsgd.engines.segments import Segments
from kronsgd.features.gram import RowGram
from kronsgd.features.known import _keys
from kronsgd.network import TwoLayer
from kronsgd.validation import MOST, check_count

TOO_MANY = MOST + 1


def endless(n):
    """n rows of one entity, which take no memory."""
    return OneHot([0]).with_index(np.broadcast_to(np.int64(0), n))


@pytest.mark.parametrize("engine", ["scan", "tree", "eager"])
def test_rows(engine):
    with pytest.raises(ValueError, match=r"^2,147,483,648 training rows are too many: .* at most 2,147,483,647 can be; "):
        ENGINES[engine].initialize(TwoLayer(2), endless(TOO_MANY))


@pytest.mark.parametrize("engine", ["scan", "eager"])
def test_rows_that_come_later(engine):
    state = ENGINES[engine].initialize(TwoLayer(2), endless(3))
    with pytest.raises(ValueError, match="training rows are too many"):
        ENGINES[engine].extend(state, endless(TOO_MANY))
    assert state.features.n_rows == 3


def test_the_planner_takes_another_engine():
    plan = ks.plan(pairs(2000), 64, memory_limit=1e18)
    plan = replace(plan, problem=replace(plan.problem, n_rows=TOO_MANY))
    for name in ("scan", "tree", "eager"):
        assert plan.costs[name].refused == "its rows are numbered in 32 bits, at most 2,147,483,647"
    assert not plan.costs["grid"].refused.startswith("its rows are numbered")
    with pytest.raises(ValueError, match='"scan" cannot be used here: its rows are numbered in 32 bits'):
        replace(plan, wanted="scan").choose()


def test_entities_of_several_tables():
    gram = RowGram(pairs(20), "float32")
    with pytest.raises(ValueError, match="2,147,483,648 entities of all tables are too many"):
        gram._lay_out([MOST, 1])


def test_entities_of_known_rows():
    assert len(_keys(np.array([[MOST - 1]]))) == 1
    with pytest.raises(ValueError, match="2,147,483,648 entities of a table are too many"):
        _keys(np.array([[MOST]]))


def test_cells_of_the_grid():
    """2^15 inner entities, and 2^16 outer ones after rounding up."""
    def cells(inner, outer):
        gram = [np.broadcast_to(np.float32(0), (n, n)) for n in (inner, outer)]
        tables = SimpleNamespace(inner_gram=gram[0], outer_gram=gram[1])
        return SimpleNamespace(tables=tables, initial=SimpleNamespace(network=TwoLayer(2)))

    with pytest.raises(ValueError, match=r'^2,147,483,648 cells \(32,768 × 40,000 .*use engine="scan"'):
        _segments(cells(2**15, 40_000))
    assert _segments(cells(2**15 - 1, 1)).n_slices == 2**15 - 1


def test_neurons():
    with pytest.raises(ValueError, match="n_hidden=2147483648 is out of range"):
        TwoLayer(TOO_MANY)


def test_the_largest_is_allowed():
    check_count("things", MOST, "take fewer")
    Segments.of(np.array([0, 2]), 2**24)
