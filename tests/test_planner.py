"""The planner: it chooses what is faster and fits, predicts memory, refuses with advice, and never measures unasked."""

from __future__ import annotations

import json
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import norm
from typer.testing import CliRunner

import kronsgd as ks
from kronsgd import RBF, Dense, KronClassifier, KronRegressor, OneHot
from kronsgd.cli.app import app
from kronsgd.engines import ENGINES
from kronsgd.network import TwoLayer
from kronsgd.planner import BUILT_IN, Problem, Schedule, limits, make_plan, rates
from kronsgd.planner.problem import firing_share
from kronsgd.planner.work import STEP_WORK, Work

MIB = 2**20


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """No test sees or leaves measured rates."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KRONSGD_CALIBRATION", raising=False)


def table(entities, columns):
    return Dense(np.random.default_rng(entities + columns).normal(size=(entities, columns)).astype(np.float32))


def pairs(n=2000, n1=40, n2=60, d=8, one=True):
    cells = np.sort(np.random.default_rng(0).permutation(n1 * n2)[:n])
    a, b = table(n1, d)[cells // n2], table(n2, d)[cells % n2]
    return (1 + a) * (1 + b) if one else a * b


def problem(X=None, schedule=None, **network):
    network = TwoLayer(**{"n_hidden": 512, "threshold": 1.5, **network})
    return Problem.of(network, pairs() if X is None else X, schedule or Schedule())


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


# Memory --------------------------------------------------------------------------------------------------------------

FITS = {
    "pairs": (lambda: pairs(2400, one=False), {"n_hidden": 4096}),
    "self-product": (lambda: (1 + table(1500, 12)) ** 2, {}),
    "dense firing": (lambda: pairs(2000), {"threshold": 0.0}),
    "float64": (lambda: (1 + table(1200, 8)) ** 2, {"dtype": "float64"}),
    "choosing": (lambda: pairs(2000), {"learning_rate_init": "auto", "max_iter": "auto", "tol": 1e9, "n_iter_no_change": 1}),
    "kernels": (lambda: RBF(table(700, 4).array) * OneHot(np.arange(700) % 9), {}),
}  # fmt: skip


@pytest.mark.parametrize("engine", ["scan", "dense"])
@pytest.mark.parametrize("name", FITS)
def test_memory_is_predicted(name, engine):
    """Never below what tracemalloc sees, and not more than 15 % above it (above a floor of Python's own objects)."""
    features, options = FITS[name]
    X = features()
    options = {"n_hidden": 1024, "max_iter": 3, "learning_rate_init": 0.05, "random_state": 0, **options}
    y = np.random.default_rng(0).normal(size=len(X))
    KronRegressor(**{**options, "max_iter": 1}, engine=engine).fit(X[:200], y[:200])  # compiles
    tracemalloc.start()
    model = KronRegressor(**options, engine=engine).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    predicted = model.plan_.costs[engine].memory
    assert peak <= predicted <= 1.15 * peak + 2 * MIB, (predicted / MIB, peak / MIB, model.plan_.costs[engine].parts)


def test_fit_that_does_not_fit_is_refused_before_it_allocates():
    X = pairs()
    y = np.arange(len(X)) % 3.0
    for params in ({"engine": "auto"}, {"engine": "scan"}):
        tracemalloc.start()
        with pytest.raises(MemoryError, match=r"would need about .* but only 64 MiB may be used; n_hidden=\d+ .*would fit"):
            KronRegressor(100_000, memory_limit="64 MiB", **params).fit(X, y)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 12 * MIB


def test_advice_fits():
    plan = ks.plan(pairs(), 8192, memory_limit="30 MiB")
    with pytest.raises(MemoryError) as error:
        plan.choose()
    neurons = int(str(error.value).split("n_hidden=")[2].split()[0])
    assert 16 < neurons < 8192
    smaller = replace(plan.problem, network=replace(plan.problem.network, n_hidden=neurons))
    assert replace(plan, problem=smaller).engine is not None
    larger = replace(plan.problem, network=replace(plan.problem.network, n_hidden=neurons + 512))
    assert replace(plan, problem=larger).engine is None


def test_another_engine_is_advised_where_one_fits():
    X = pairs(d=60)
    with pytest.raises(MemoryError, match=r'engine="(scan|grid)" would fit with'):
        ks.plan(X, 512, engine="dense", memory_limit="20 MiB", max_iter=1, learning_rate_init=1.0).choose()


def test_engine_that_is_faster_but_too_large_is_not_chosen():
    X = (1 + table(4000, 2)) ** 2
    free, tight = (ks.plan(X, 512, memory_limit=limit, engine="auto") for limit in ("8 GiB", "100 MiB"))
    least, most = sorted(cost.memory for cost in free.costs.values() if not cost.refused)[:2]
    between = replace(tight, memory_limit=(least + most) / 2)
    assert between.costs[between.engine].memory == least


@pytest.mark.parametrize(
    ("text", "size"),
    [("8 GiB", 8 * 2**30), ("500MB", 5e8), ("1.5 kb", 1500), (4096, 4096), (2e9, 2e9), ("1024", 1024), ("1 tib", 2**40)],
)
def test_amounts_of_memory(text, size):
    assert limits.parse_memory(text) == size


@pytest.mark.parametrize("value", ["8 gigs", "", "-1", 0, -5, "0", True, None, float("inf"), "GiB"])
def test_no_amounts_of_memory(value):
    with pytest.raises(ValueError, match='is no amount of memory; give bytes, a text such as "8 GiB", or "auto"'):
        limits.parse_memory(value)


def test_sizes_are_readable():
    assert [limits.describe_bytes(x) for x in (5, 2048, 1.5 * 2**30, 1000 * 2**20)] == ["5 B", "2 KiB", "1.5 GiB", "1000 MiB"]


def test_control_group_limits_memory(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    stat = "anon 1\ninactive_file 100000"
    for name, text in {"memory.max": "1000000", "memory.current": "500000", "memory.stat": stat}.items():
        (tmp_path / "a" / name).write_text(text)
    monkeypatch.setattr(limits, "_groups", lambda: [(tmp_path / "a", "memory.max", "memory.current"), (tmp_path, "x", "y")])
    assert limits.available_memory() == 600_000
    (tmp_path / "a" / "memory.max").write_text("max")
    assert limits.available_memory() > 600_000


# Rates ---------------------------------------------------------------------------------------------------------------


def test_planning_and_fitting_never_measure(monkeypatch):
    def refuse(*arguments):
        raise AssertionError("measured without being asked")

    monkeypatch.setattr("kronsgd.planner.calibration.measure_rates", refuse)
    X = pairs(200)
    assert "built-in rates" in str(ks.plan(X))
    KronRegressor(16, max_iter=1).fit(X, np.arange(200.0))
    assert not rates.cache_file().exists()


def test_measured_rates_are_kept_for_this_machine_and_can_be_ignored(monkeypatch):
    slow = replace(BUILT_IN, moved=1.0, source="a test")
    assert rates.save_rates(slow) == rates.cache_file()
    assert rates.current_rates() == slow
    X = (1 + table(400, 2)) ** 2
    assert "a test" in str(ks.plan(X))
    monkeypatch.setenv("KRONSGD_CALIBRATION", "off")
    assert rates.current_rates() == BUILT_IN
    monkeypatch.delenv("KRONSGD_CALIBRATION")
    kept = json.loads(rates.cache_file().read_text())
    rates.cache_file().write_text(json.dumps({**kept, "machine": {**kept["machine"], "cores": -1}}))
    assert rates.current_rates() == BUILT_IN


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"machine": 3, "rates": {}}', "\x00"])
def test_damaged_rates_are_ignored(text):
    rates.cache_file().parent.mkdir(parents=True)
    rates.cache_file().write_text(text)
    assert rates.current_rates() == BUILT_IN


@pytest.mark.parametrize("change", [{"moved": 0}, {"moved": "fast"}, {"gemm": [1.0]}, {"lanes": [1.0, -1.0]}, {"extra": 1}])
def test_rates_that_make_no_sense_are_ignored(change):
    rates.save_rates(BUILT_IN)
    kept = json.loads(rates.cache_file().read_text())
    kept["rates"] |= change
    rates.cache_file().write_text(json.dumps(kept))
    assert rates.current_rates() == BUILT_IN


def test_folder_that_cannot_be_written(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert rates.save_rates(BUILT_IN) is None
    assert rates.current_rates() == BUILT_IN


def test_calibration_measures_all_rates():
    from kronsgd.planner.calibration import measure_rates

    measured = measure_rates()
    for name in ("gemm", "lanes", "narrow", "moved", "gathered", "scalar", "call"):
        got, known = np.atleast_1d(getattr(measured, name)), np.atleast_1d(getattr(BUILT_IN, name))
        assert (got > 0).all()
        assert (got < 50 * known).all()
        assert (got > known / 50).all()
    assert "measured on this machine" in measured.source


def test_seconds_add_up():
    work = Work(gemm=130e9, lanes=70e9, moved=12e9, calls=1e6)
    expected = 130e9 / BUILT_IN.gemm[0] + 70e9 / BUILT_IN.lanes[0] + 12e9 / BUILT_IN.moved + 1e6 * BUILT_IN.call
    assert BUILT_IN.seconds(work, 4, 64) == pytest.approx(expected)
    assert BUILT_IN.seconds(work, 8, 64) > BUILT_IN.seconds(work, 4, 64)
    assert BUILT_IN.seconds(work, 4, 16) > BUILT_IN.seconds(work, 4, 64)


# The doors -----------------------------------------------------------------------------------------------------------


def test_table_for_people():
    text = str(ks.plan(pairs(), 256, memory_limit="2 GiB"))
    lines = text.splitlines()
    assert "2,000 rows × 81 dimensions, 256 neurons, batches of 64, threshold 1.49" in lines[0]
    assert [line.split()[0] for line in lines[1:-1]].count("→") == 1
    assert all(any(name in line for line in lines) for name in ENGINES)
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


def call(*arguments):
    return CliRunner().invoke(app, ["plan", *map(str, arguments)])


def test_command_plans_what_train_would_do(tmp_path):
    result = call("--dataset", "digits", "--n-hidden", 256, "--batch-size", 32, "--memory-limit", "1 GiB")
    assert result.exit_code == 0, result.output
    assert "256 neurons, batches of 32" in result.stdout
    assert "Memory limit 1 GiB" in result.stdout
    config = tmp_path / "run.toml"
    config.write_text('[data]\ndataset = "digits"\n[model]\nn_hidden = 128\n')
    asked = json.loads(call(config, "--json", "--set", "batch_size=16").stdout)
    assert (asked["n_hidden"], asked["batch_size"], asked["n_outputs"]) == (128, 16, 10)
    assert asked["engine"] in asked["engines"]
    assert asked["engines"][asked["engine"]]["chosen"]
    model = KronClassifier(128, batch_size=16, max_iter=0)
    assert asked["memory_limit_bytes"] > 0
    assert model.get_params()["memory_limit"] == "auto"


def test_command_that_finds_no_engine_says_what_would_fit():
    result = call("--dataset", "digits", "--n-hidden", 65536, "--memory-limit", "100 MiB")
    assert result.exit_code == 2
    assert "would fit" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_command_calibrates_only_when_asked():
    assert call("--dataset", "digits").exit_code == 0
    assert not rates.cache_file().exists()
    result = call("--calibrate")
    assert result.exit_code == 0, result.output
    assert rates.cache_file().exists()
    assert "measured on this machine" in call("--dataset", "digits").stdout


def test_grid_is_costed_before_it_is_there():
    """The cost model knows the grid engine; a plan only shows engines that are installed."""
    p = problem(pairs(2400, one=False))
    total = sum(w.flops for w in STEP_WORK["grid"](p).values())
    scan = sum(w.flops for w in STEP_WORK["scan"](replace(p, schedule=Schedule(1024))).values())
    assert 0 < total < scan
    assert set(ks.plan(pairs()).costs) == set(ENGINES) & set(STEP_WORK)
