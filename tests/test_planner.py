"""The planner: what it counts and chooses, what it says, and the mistakes that it names."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm

import kronsgd as ks
from helpers.planner import pairs, problem, table
from kronsgd import RBF, KronRegressor
from kronsgd.engines import ENGINES
from kronsgd.network import TwoLayer
from kronsgd.planner import Schedule, make_plan
from kronsgd.planner.problem import firing_share
from kronsgd.planner.work import STEP_WORK

pytestmark = pytest.mark.usefixtures("own_cache")


# What is counted -----------------------------------------------------------------------------------------------------


def test_dense_work_grows_with_the_dimension_and_scan_work_does_not():
    small, large = (problem(pairs(d=d, one=False)) for d in (4, 32))
    assert large.d == 64 * small.d
    flops = {name: [sum(w.gemm for w in STEP_WORK[name](p).values()) for p in (small, large)] for name in STEP_WORK}
    assert flops["dense"][1] > 50 * flops["dense"][0]
    assert flops["scan"][0] == flops["scan"][1]
    assert STEP_WORK["scan"](small) == STEP_WORK["scan"](replace(large, fired=small.fired, alpha=small.alpha))


def test_dense_flops_are_those_of_its_two_products():
    p = problem(pairs(d=4))
    work = STEP_WORK["dense"](p)
    assert work["forward"].gemm + work["update"].gemm == 4 * 64 * 512 * 25


def test_scan_flops_are_those_of_alpha():
    p = replace(problem(), alpha=0.25)
    assert STEP_WORK["scan"](p)["coefficients"].lanes == 2 * 64 * (0.25 * 2000 * 512 + 512)


def test_entities_are_those_that_occur_and_constants_are_not_sides():
    a, b = table(50, 4), table(70, 4)
    i, j = np.arange(600) % 20, np.arange(600) % 30
    p = problem((1 + a[i]) * (1 + b[j]))
    assert [t.entities for t in p.tables] == [20, 30]
    assert p.sides == (20, 30, 60)
    assert p.copied >= 20 * 16 + 30 * 16 + 2 * 600 * 8


def test_three_factors_have_two_sides():
    rng = np.random.default_rng(0)
    i, j, k = (rng.integers(size, size=500) for size in (4, 9, 11))
    p = problem(table(4, 3)[i] * table(9, 3)[j] * table(11, 3)[k])
    inner, outer, cells = p.sides
    choices = [(len(np.unique(x)), len({*zip(y, z, strict=True)})) for x, y, z in ((i, j, k), (j, i, k), (k, i, j))]
    assert inner * outer == min(a * b for a, b in choices)
    assert cells == len({*zip(i, j, k, strict=True)})


@pytest.mark.parametrize("features", [lambda: (1 + table(50, 4)) ** 2, lambda: table(50, 4), lambda: pairs() + 1])
def test_other_expressions_have_no_sides(features):
    assert problem(features()).sides is None


@pytest.mark.parametrize("init", ["structured", "gaussian"])
@pytest.mark.parametrize("rank", [1, 4])
@pytest.mark.parametrize("name", ["pairs", "power", "kernel", "plain"])
def test_firing_share_is_that_of_a_fresh_network(init, rank, name):
    """Of networks over the rows themselves: 1,000 neurons of several seeds."""
    features = {
        "pairs": lambda: pairs(300), "power": lambda: (1 + table(300, 5)) ** 2, "plain": lambda: table(300, 4),
        "kernel": lambda: RBF(np.random.default_rng(0).normal(size=(20, 3)))[np.arange(300) % 20] * table(300, 4),
    }[name]()  # fmt: skip
    network = TwoLayer(n_hidden=1000, threshold=1.2, init=init, init_rank=rank, antisymmetric=False)
    shares = []
    for seed in range(4):
        state = ENGINES["scan"].initialize(replace(network, seed=seed), features)
        shares.append(ENGINES["scan"].forward(state, np.arange(300)).n_fired / 300_000)
    assert firing_share(network, features) == pytest.approx(np.mean(shares), rel=0.15)
    if init == "gaussian" or name == "plain":
        assert firing_share(network, features) == pytest.approx(norm.sf(1.2), rel=0.1)


# The choice ----------------------------------------------------------------------------------------------------------


def test_small_dimensions_are_dense_and_large_ones_are_not():
    assert ks.plan((1 + table(4000, 2)) ** 2, 1024).engine == "dense"
    assert ks.plan(pairs(d=100), 1024).engine != "dense"
    assert ks.plan(pairs(d=6), 1024, threshold=-2.0).engine == "dense"  # every neuron fires


def test_plans_and_choices_repeat():
    assert str(ks.plan(pairs(), 512, memory_limit="1 GiB")) == str(ks.plan(pairs(), 512, memory_limit="1 GiB"))


def test_estimator_takes_what_the_plan_chooses():
    for X in ((1 + table(500, 2)) ** 2, pairs(300, d=40)):
        model = KronRegressor(64, max_iter=1, learning_rate_init=1.0, random_state=0).fit(X, np.arange(len(X)) % 7)
        assert model.engine_ == ks.plan(X, 64).engine


def test_dense_engine_is_refused_where_it_is_not_exact_or_far_too_large():
    far = RBF(np.random.default_rng(0).normal(size=(2100, 2)))
    assert "no exact coordinates" in make_plan(TwoLayer(8), far, Schedule()).costs["dense"].refused
    assert "the product itself would take" in ks.plan(table(30, 300) ** 4, 64).costs["dense"].refused
    with pytest.raises(ValueError, match=r'engine="dense" cannot be used here.*use engine="scan"'):
        ks.plan(table(30, 300) ** 4, 64, engine="dense").choose()


def test_measured_densities_correct_the_plan():
    plan = ks.plan(pairs(), 1024, max_iter=1, learning_rate_init=1.0)
    more = plan.corrected(fired=0.5, alpha=0.9)
    for cost in ("seconds", "memory", "flops"):
        assert getattr(more.costs["scan"], cost) > 2 * getattr(plan.costs["scan"], cost)
        assert getattr(more.costs["dense"], cost) == getattr(plan.costs["dense"], cost)
    assert plan.corrected() == plan


def test_fitted_plan_has_the_measured_densities(tmp_path):
    X = pairs(600)
    model = KronRegressor(64, engine="scan", max_iter=2, learning_rate_init=1.0, random_state=0).fit(X, np.arange(600) % 5)
    p = model.plan_.problem
    assert p.fired == model.history_[-1]["fired"]
    assert p.alpha == p.alpha_last == model.state_.coefficients.nnz / (600 * 64)
    model.save(tmp_path / "m")
    assert ks.load(tmp_path / "m").plan_.problem == p
    model.set_params(warm_start=True).fit(X, np.arange(600) % 5)
    assert model.plan_.problem.alpha >= p.alpha
    assert not hasattr(KronRegressor(), "plan_")


# The doors -----------------------------------------------------------------------------------------------------------


def test_table_for_people():
    text = str(ks.plan(pairs(), 256, memory_limit="2 GiB"))
    lines = text.splitlines()
    assert "2,000 rows × 81 dimensions, 256 neurons, batches of 64, threshold 1.49" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]].count("→") == 1
    assert all(any(name in line for line in lines) for name in ENGINES if name != "torch")  # which has to be asked for
    assert "Memory limit 2 GiB" in lines[-1]


def test_plain_array_and_classes():
    x = np.random.default_rng(0).normal(size=(300, 4))
    plan = ks.plan(x, 64, n_outputs=10)
    assert plan.problem.d == 25
    assert plan.problem.network.dtype == "float64"
    assert plan.problem.network.n_outputs == 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_hiden": 5}, "Did you mean 'n_hidden'"), ({"n_outputs": 0}, "n_outputs=0 is out of range"),
        ({"memory_limit": "much"}, "memory_limit='much' is no amount of memory"), ({"engine": "gird"}, "engine='gird'"),
        ({"n_hidden": 7}, "n_hidden=7 is odd"),
    ],
)  # fmt: skip
def test_mistakes(arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        ks.plan(pairs(100), **arguments)


def test_grid_is_costed_before_it_is_there():
    """The cost model knows the grid engine; a plan only shows engines that are installed."""
    p = problem(pairs(2400, one=False))
    total = sum(w.flops for w in STEP_WORK["grid"](p).values())
    scan = sum(w.flops for w in STEP_WORK["scan"](replace(p, schedule=Schedule(1024))).values())
    assert 0 < total < scan
    assert set(ks.plan(pairs()).costs) == set(ENGINES) & set(STEP_WORK) - {"torch"}
