"""Memory: predictions, refusals with advice, amounts and limits."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest

import kronsgd as ks
from helpers.planner import pairs, table
from kronsgd import RBF, Bag, KronRegressor, OneHot
from kronsgd.estimators import planning
from kronsgd.planner import limits

pytestmark = pytest.mark.usefixtures("own_cache")


MIB = 2**20

FITS = {
    "pairs": (lambda: pairs(2400, one=False), {"n_hidden": 4096}),
    "lists cut anew": (lambda: pairs(2400, one=False), {"n_hidden": 4096, "threshold": 1.2}),
    "self-product": (lambda: (1 + table(1500, 12)) ** 2, {}),
    "dense firing": (lambda: pairs(2000), {"threshold": 0.0}),
    "float64": (lambda: (1 + table(1200, 8)) ** 2, {"dtype": "float64"}),
    "choosing": (lambda: pairs(2000), {"learning_rate_init": "auto", "max_iter": "auto", "tol": 1e9, "n_iter_no_change": 1}),
    "networks": (lambda: pairs(2000), {"n_hidden": 512, "n_networks": 4}),
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


@pytest.mark.parametrize("train_output", [False, True])
@pytest.mark.parametrize("engine", ["scan", "dense", "eager", "tree", "grid"])
def test_memory_of_many_networks_is_bounded(engine, train_output):
    """Their output weights take as much as the square of their number."""
    X = pairs(400)
    y = np.random.default_rng(0).integers(0, 10, len(X))
    options = {"learning_rate_init": 1.0, "max_iter": 1, "random_state": 0, "engine": engine, "train_output": train_output}
    ks.KronClassifier(16, **options).fit(X, y)  # compiles
    tracemalloc.start()
    model = ks.KronClassifier(16, n_networks=100, **options).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= model.plan_.costs[engine].memory <= 3 * peak


@pytest.mark.parametrize("engine", ["scan", "dense"])
def test_memory_of_bags_of_items_is_bounded(engine):
    """Never below what tracemalloc sees; up to twice as much, for tiles of items and arrays of bags are not alive together."""
    X = Bag(RBF(table(3000, 4).array), np.arange(3000) % 700) * OneHot(np.arange(700) % 9)
    options = {"n_hidden": 1024, "max_iter": 3, "learning_rate_init": 0.05, "random_state": 0, "engine": engine}
    y = np.random.default_rng(0).normal(size=len(X))
    KronRegressor(**{**options, "max_iter": 1}).fit(X[:200], y[:200])  # compiles
    tracemalloc.start()
    model = KronRegressor(**options).fit(X, y)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak <= model.plan_.costs[engine].memory <= 2 * peak


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


def drawn(rng, engine):
    """(rows, targets, parameters) of a small to middling fit."""
    n, n1, n2 = (int(k) for k in rng.integers([400, 20, 40], [1600, 50, 90]))
    cells = rng.permutation(n1 * n2)[:n]
    X = (1 + table(n1, 15)[cells // n2]) * (1 + table(n2, 11)[cells % n2])
    options = {
        "n_hidden": 2 * int(rng.integers(100, 500)), "max_iter": 2, "learning_rate_init": 1.0, "random_state": 0, "n_jobs": 1,
        "engine": engine, "threshold": float(rng.choice([0.3, 1.5])), "alpha": float(rng.choice([0, 0.1])),
        "train_output": bool(rng.integers(2)), "dtype": str(rng.choice(["float32", "float64"])),
        "batch_size": int(rng.choice([8, 32, 64])) if engine != "grid" else "auto",
        "early_stopping": bool(rng.integers(2)), "validation_fraction": float(rng.choice([0.1, 0.4])),
    }  # fmt: skip
    return X, rng.normal(size=len(X)), options


PLANNING = 2 * MIB  # of the random neurons that a plan counts firing with; as many for every problem


def kept_plans(monkeypatch) -> list:
    """The plans that will be made."""
    plans, make = [], planning.make_plan
    monkeypatch.setattr(planning, "make_plan", lambda *a, **k: plans.append(make(*a, **k)) or plans[-1])
    return plans


def peak_of(fit) -> int:
    tracemalloc.start()
    try:
        fit()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.usefixtures("one_thread")  # for the dense engine's tiles are one for each thread
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("engine", ["scan", "dense", "eager", "tree", "grid"])
def test_a_fit_stays_below_its_limit_or_is_refused(engine, seed, monkeypatch):
    """At the least limit that the plan accepts, tracemalloc sees no more; a byte below that, nothing has been allocated."""
    X, y, options = drawn(np.random.default_rng(seed), engine)
    plans = kept_plans(monkeypatch)
    KronRegressor(**options, memory_limit="8 GiB").fit(X, y)  # compiles
    limit = int(np.ceil(plans[0].costs[engine].memory))
    assert peak_of(lambda: KronRegressor(**options, memory_limit=limit).fit(X, y)) <= max(limit, PLANNING)

    def refused():
        with pytest.raises(MemoryError, match="would need about"):
            KronRegressor(**options, memory_limit=limit - 1).fit(X, y)

    assert peak_of(refused) <= PLANNING


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_training_ends_where_what_is_learned_outgrows_its_limit(engine, monkeypatch):
    """More neurons fire in training than the plan could know: the fit stays below the limit all the same."""
    X = pairs(1500)
    y = np.sign(np.random.default_rng(0).normal(size=len(X)))
    options = {
        "engine": engine, "max_iter": 20, "learning_rate_init": 5000.0, "learning_rate": "constant", "threshold": 2.5,
        "random_state": 0, "n_jobs": 1,
    }  # fmt: skip
    plans = kept_plans(monkeypatch)
    whole = KronRegressor(1024, memory_limit="8 GiB", **options).fit(X, y)
    limit = int(plans[0].costs[engine].memory + whole.plan_.costs[engine].memory) // 2
    fits = []
    assert peak_of(lambda: fits.append(KronRegressor(1024, memory_limit=limit, **options).fit(X, y))) <= limit
    model = fits[0]
    assert model.stop_reason_ is ks.StopReason.MEMORY
    assert 0 < model.n_iter_ < whole.n_iter_ == 20
    assert model.loss_curve_ == whole.loss_curve_[: model.n_iter_]
    assert np.isfinite(model.predict(X)).all()


@pytest.mark.parametrize("batch_size", [750, 1500])
def test_large_steps_do_not_end_training_where_there_is_memory(batch_size):
    X = pairs(1500)
    y = np.sign(np.random.default_rng(0).normal(size=len(X)))
    options = {
        "engine": "scan", "max_iter": 5, "learning_rate_init": 50.0, "threshold": 2.0, "random_state": 0,
        "batch_size": batch_size,
    }  # fmt: skip
    whole = KronRegressor(1024, memory_limit="8 GiB", **options).fit(X, y)
    limit = 1.2 * whole.plan_.costs["scan"].memory
    model = KronRegressor(1024, memory_limit=limit, **options).fit(X, y)
    assert model.loss_curve_ == whole.loss_curve_


@pytest.mark.parametrize("engine", ["scan", "grid"])
def test_what_a_model_takes_is_not_counted_twice_where_it_is_trained_further(engine, monkeypatch):
    """Little more is free than it took for the first time, and most of that is the model's own now."""
    X = pairs(1500)
    y = np.sign(np.random.default_rng(0).normal(size=len(X)))
    options = {"engine": engine, "max_iter": 4, "learning_rate_init": 50.0, "threshold": 1.0, "random_state": 0, "n_jobs": 1}
    KronRegressor(64, **options).fit(X, y)  # compiles
    tracemalloc.start()
    try:
        model = KronRegressor(2048, **options).fit(X, y)
        whole = 1.3 * model.plan_.costs[engine].memory / limits.SHARE
        monkeypatch.setattr(limits, "available_memory", lambda: whole - tracemalloc.get_traced_memory()[0])
        model.set_params(warm_start=True).fit(X, y)
    finally:
        tracemalloc.stop()
    assert model.stop_reason_ is ks.StopReason.MAX_ITER
    assert model.n_iter_ == 8


def test_training_further_has_the_limit_of_that_time():
    X = pairs(1500)
    y = np.sign(np.random.default_rng(0).normal(size=len(X)))
    options = {"engine": "scan", "max_iter": 1, "learning_rate_init": 50.0, "threshold": 1.0, "random_state": 0}
    model = KronRegressor(1024, memory_limit="8 GiB", **options).fit(X, y)
    model.set_params(warm_start=True, memory_limit="2 MiB").fit(X, y)
    assert model.stop_reason_ is ks.StopReason.MEMORY


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
    [("8 GiB", 8 * 2**30), ("500MB", 5e8), ("1500 kb", 15e5), (2**20, 2**20), (2e9, 2e9), ("1 tib", 2**40), ("4194304", 2**22)],
)
def test_amounts_of_memory(text, size):
    assert limits.parse_memory(text) == size


@pytest.mark.parametrize("value", ["8 gigs", "", "-1", 0, -5, "0", True, None, float("inf"), "GiB"])
def test_no_amounts_of_memory(value):
    with pytest.raises(ValueError, match='is no amount of memory; give bytes, a text such as "8 GiB", or "auto"'):
        limits.parse_memory(value)


@pytest.mark.parametrize("value", [0.5, 2, 2**20 - 1, "0.9", "8", "1.5 kb"])
def test_amounts_that_no_training_fits_into_are_refused(value):
    with pytest.raises(ValueError, match=r'less than 1 MiB; give bytes, such as \d+, a text such as "8 GiB", or "auto"\.$'):
        KronRegressor(memory_limit=value).fit(np.eye(4), np.arange(4.0))


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
