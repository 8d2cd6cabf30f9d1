"""Streams: `partial_fit` is an epoch of `fit` in parts, and a call costs what its own rows cost."""

from __future__ import annotations

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.exceptions import ConvergenceWarning

from helpers.engines import TORCH
from kronsgd import Dense, Kernel, KronClassifier, KronRegressor, OneHot, Sparse, load
from kronsgd import initial as initial_module
from kronsgd.engines import ScanEngine
from kronsgd.engines.segments import Segments
from kronsgd.features import known as known_module
from kronsgd.features.gram import RowGram
from kronsgd.features.known import KnownRows
from kronsgd.growing import Growing
from kronsgd.initial import StartingValues
from kronsgd.training import StopReason
from kronsgd.training import stream as stream_module

N = 72
OPTIONS = {
    "n_hidden": 40, "learning_rate_init": 3.0, "learning_rate": "constant", "max_iter": 1, "shuffle": False, "random_state": 0,
    "dtype": "float64", "standardize": False, "batching": "random",
}  # fmt: skip


def cells(n, n_left=12, n_right=9, seed=3):
    """Pairs of entities, none of them twice; new entities come late. The first pair is (0, 0)."""
    numbers = np.random.default_rng(seed).permutation(n_left * n_right)[:n]
    numbers = np.concatenate([[0], numbers[numbers != 0]])[:n]
    return numbers // n_right, numbers % n_right


def expression(kind, n=N):
    rng = np.random.default_rng(0)
    a, b, (i, j) = Dense(rng.normal(size=(12, 5))), Dense(rng.normal(size=(9, 4))), cells(n)
    sparse = Sparse(sp.random_array((12, 30), density=0.3, rng=rng, format="csr") + sp.eye_array(12, 30, format="csr"))
    return {
        "pairs": lambda: a[i] * b[j],
        "sums": lambda: (1 + a[i]) * (1 + b[j]),
        "one group": lambda: (a[i] + OneHot(np.arange(12))[i]) ** 2,
        "nested": lambda: (a[i] + b[j]) ** 2 + 1,
        "kernel": lambda: Kernel(a.array @ a.array.T)[i] * b[j],
        "sparse": lambda: sparse[i] * (1 + b[j]),
        "categories": lambda: OneHot(np.arange(12))[i] * OneHot(np.arange(9))[j],
        "array": lambda: np.random.default_rng(1).normal(size=(n, 6)),
    }[kind]()


EXPRESSIONS = ["pairs", "sums", "one group", "nested", "kernel", "sparse", "categories", "array"]


def labels(n, seed=0):
    y = np.random.default_rng(seed).integers(0, 2, size=n)
    y[:2] = 0, 1
    return y


def stream(model, X, y, size, between=lambda model: model):
    for start in range(0, len(y), size):
        model.partial_fit(X[start : start + size], y[start : start + size], classes=[0, 1])
        model = between(model)
    return model


# The same model as one epoch of fit ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 8])
@pytest.mark.parametrize("engine", ["scan", "tree", "eager", "dense", *TORCH])
@pytest.mark.parametrize("kind", EXPRESSIONS)
def test_replay_is_an_epoch(kind, engine, size):
    X, options = expression(kind), {**OPTIONS, "engine": engine, "batch_size": size}
    y = labels(N)
    whole, part = KronClassifier(**options).fit(X, y), stream(KronClassifier(**options), X, y, size)
    rounding = 0 if kind == "categories" else 1e-12  # inner products of unit vectors are exact, in whatever parts they are made
    np.testing.assert_allclose(part.hidden_weights(), whole.hidden_weights(), rtol=0, atol=rounding)
    np.testing.assert_allclose(part.decision_function(X), whole.decision_function(X), rtol=0, atol=rounding)
    assert (part.fired(X) != whole.fired(X)).nnz == 0
    assert part.features_.n_rows == N or kind == "one group"  # which has rows that repeat
    assert part.n_iter_ == -(-N // size)


@pytest.mark.parametrize("engine", ["scan", "tree", "eager", "dense", "grid", *TORCH])
def test_replay_of_a_regression(engine):
    """The targets' mean and scale are those of the first call: here, of every batch."""
    X, y = expression("sums"), np.tile([1.0, -1.0, -1.0, 1.0, 1.0, -1.0], N // 6)
    options = {**OPTIONS, "engine": engine, "batch_size": 6, "train_output": True, "alpha": 0.01, "learning_rate_init": 1.0}
    whole, part = KronRegressor(**options).fit(X, y), KronRegressor(**options)
    for start in range(0, N, 6):
        part.partial_fit(X[start : start + 6], y[start : start + 6])
    np.testing.assert_allclose(part.hidden_weights(), whole.hidden_weights(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(part.output_weights_, whole.output_weights_, rtol=0, atol=1e-12)


@pytest.mark.parametrize("engine", ["scan", "tree", "eager", "dense", *TORCH])
def test_rows_that_repeat_do_not_grow_the_model(engine):
    rng = np.random.default_rng(0)
    rows = np.concatenate([np.arange(5), rng.integers(0, 20, size=85)])
    options = {**OPTIONS, "engine": engine, "batch_size": 5}
    X, y = expression("pairs")[rows], labels(90)
    whole, part = KronClassifier(**options).fit(X, y), stream(KronClassifier(**options), X, y, 5)
    assert part.features_.n_rows == len(np.unique(rows))
    np.testing.assert_allclose(part.hidden_weights(), whole.hidden_weights(), rtol=0, atol=1e-12)


def test_long_stream_in_single_precision():
    """Tables, lists and slices outgrow their room many times."""
    rng = np.random.default_rng(0)
    i, j = cells(2500, 60, 50)
    X = Dense(rng.normal(size=(60, 33)).astype("f4"))[i] * Dense(rng.normal(size=(50, 17)).astype("f4"))[j]
    options = {**OPTIONS, "engine": "scan", "dtype": "auto", "batch_size": 10, "n_hidden": 64, "learning_rate_init": 1.0}
    y = labels(2500)
    whole, part = KronClassifier(**options).fit(X, y), stream(KronClassifier(**options), X, y, 10)
    scale = np.abs(whole.decision_function(X)).max()
    np.testing.assert_allclose(part.decision_function(X), whole.decision_function(X), rtol=0, atol=1e-4 * scale)


@pytest.mark.parametrize("engine", ["scan", "tree", "eager", "dense", "grid", *TORCH])
@pytest.mark.parametrize("how", ["save", "pickle"])
@pytest.mark.parametrize("kind", ["pairs", "kernel", "nested", "array"])
def test_saving_in_the_middle_changes_no_bit(tmp_path, kind, how, engine):
    if engine == "grid" and kind in ("nested", "array"):
        return
    rng = np.random.default_rng(1)
    X, options = expression(kind), {**OPTIONS, "engine": engine, "batch_size": 4, "dtype": "float32"}
    rows = np.concatenate([np.arange(24), rng.integers(0, 24, 16), np.arange(24, N), rng.integers(0, N, 40)])  # new, known, …
    y = labels(len(rows))

    def copied(model):
        if model.n_iter_ % 3:
            return model
        if how == "pickle":
            return pickle.loads(pickle.dumps(model))
        model.save(tmp_path / "m")
        return load(tmp_path / "m")

    kept, saved = (stream(KronClassifier(**options), X[rows], y, 4, f) for f in (lambda model: model, copied))
    assert kept.hidden_weights().tobytes() == saved.hidden_weights().tobytes()
    assert kept.decision_function(X).tobytes() == saved.decision_function(X).tobytes()


def test_a_stream_between_two_fits():
    """A model goes on with epochs after a stream, as one does that was loaded."""
    X, y = expression("sums"), labels(N)
    options = {**OPTIONS, "engine": "scan", "batch_size": 8, "warm_start": True, "max_iter": 2}
    model = KronClassifier(**options).fit(X[:40], y[:40])
    model = stream(model, X[40:], y[40:], 3)
    copy = pickle.loads(pickle.dumps(model))
    assert model.fit(X, y).hidden_weights().tobytes() == copy.fit(X, y).hidden_weights().tobytes()
    assert model.features_.n_rows == N


def test_gaussian_weights_in_a_stream():
    X, y, options = expression("pairs"), labels(N), {**OPTIONS, "engine": "scan", "batch_size": 6, "init": "gaussian"}
    whole, part = KronClassifier(**options).fit(X, y), stream(KronClassifier(**options), X, y, 6)
    np.testing.assert_allclose(part.hidden_weights(), whole.hidden_weights(), rtol=0, atol=1e-12)


# What a call costs -----------------------------------------------------------------------------------------------------


class Counts:
    """What a call of partial_fit looks at, beside the engine's own step."""

    def __init__(self, monkeypatch):
        self.of = dict.fromkeys(("entities hashed", "rows hashed", "entities projected", "norms", "copies", "built", "cut"), 0)
        self.wrap(monkeypatch, Dense, "entity_keys", "entities hashed", len)
        self.wrap(monkeypatch, known_module, "_keys", "rows hashed", len)
        self.wrap(monkeypatch, Dense, "project_blocks", "entities projected", lambda values: values.shape[1])
        self.wrap(monkeypatch, Dense, "entity_squared_norms", "norms", len)
        self.wrap(monkeypatch, stream_module, "snapshot", "copies", lambda arrays: 1)
        for owner in (RowGram, StartingValues):
            self.wrap(monkeypatch, owner, "_build", "built", lambda none: 1)
        self.wrap(monkeypatch, Segments, "of", "cut", lambda segments: 1)

    def wrap(self, monkeypatch, owner, name, what, size):
        function = getattr(owner, name)

        def counted(*arguments, **options):
            result = function(*arguments, **options)
            self.of[what] += size(result)
            return result

        monkeypatch.setattr(owner, name, counted)

    def calls(self, model, X, y, size):
        """Of each call in turn."""
        for start in range(0, len(y), size):
            self.of = dict.fromkeys(self.of, 0)
            model.partial_fit(X[start : start + size], y[start : start + size])
            yield dict(self.of)


def growing_problem(kind, n, entities=100):
    rng = np.random.default_rng(0)
    if kind == "array":
        return rng.normal(size=(n, 6)), np.tile([1.0, -1.0], n // 2)
    i, j = cells(n, entities, entities)
    a, b = Dense(rng.normal(size=(entities, 5))), Dense(rng.normal(size=(entities, 4)))
    return a[i] * b[j] if kind == "pairs" else (1 + a[i]) * (1 + b[j]), np.tile([1.0, -1.0], n // 2)


@pytest.mark.parametrize("size", [1, 6])
@pytest.mark.parametrize("kind", ["pairs", "sums", "array"])
def test_a_call_costs_what_its_own_rows_cost(monkeypatch, kind, size):
    X, y = growing_problem(kind, 900)
    model = KronRegressor(**{**OPTIONS, "engine": "scan", "batch_size": size, "learning_rate_init": 0.1})
    calls = list(Counts(monkeypatch).calls(model, X, y, size))[5:]
    leaves = 1 if kind == "array" else 2
    for call in calls:
        assert call["entities hashed"] <= leaves * size
        assert call["rows hashed"] == size
        assert call["entities projected"] <= 4 * initial_module.LOT  # two lots of two factors
        assert call["norms"] <= 2 * leaves * size
        assert call["copies"] == call["built"] == 0
    assert sum(call["cut"] for call in calls) <= 30  # when the rows reach a new slice, or the lists another density


def test_known_rows_cost_no_growth(monkeypatch):
    X, y = growing_problem("pairs", 120)
    model = KronRegressor(**{**OPTIONS, "engine": "scan", "batch_size": 4, "learning_rate_init": 0.1})
    counts = Counts(monkeypatch)
    list(counts.calls(model, X, y, 4))
    features = model.features_
    for call in counts.calls(model, X, y, 4):
        assert call["entities projected"] == call["norms"] == call["built"] == call["cut"] == 0
    assert model.features_ is features


def test_tables_are_copied_only_when_their_room_is_used_up(monkeypatch):
    moves, append = [], Growing.append

    def counted(self, rows):
        before = self._memory
        out = append(self, rows)
        moves.append((len(before), self._memory is not before))
        return out

    monkeypatch.setattr(Growing, "append", counted)
    X, y = growing_problem("array", 1000)
    model = KronRegressor(**{**OPTIONS, "engine": "scan", "batch_size": 1, "learning_rate_init": 0.1})
    for k in range(1000):
        model.partial_fit(X[k : k + 1], y[k : k + 1])
    copied = sum(length for length, moved in moves if moved)
    arrays = len(moves) / 999  # the table, new rows of it twice, its index, norms thrice, places in the stack
    assert arrays <= 8
    assert copied <= 2.1 * 1000 * arrays


def test_keys_are_made_when_needed_and_never_pickled():
    X, y = growing_problem("pairs", 60)
    model = KronRegressor(**{**OPTIONS, "engine": "scan"}).fit(X, y)
    assert model._known is None
    model.partial_fit(X[:3], y[:3])
    assert isinstance(model._known, KnownRows)
    assert pickle.loads(pickle.dumps(model))._known is None
    assert model.fit(X, y)._known is None


@pytest.mark.parametrize("place", ["Dense.grow", "ScanEngine.extend"])
def test_a_call_that_fails_half_way_leaves_the_keys_right(monkeypatch, place):
    X, _ = growing_problem("pairs", 60)
    y = labels(60)
    model = KronClassifier(**{**OPTIONS, "engine": "scan"}).partial_fit(X[:20], y[:20], classes=[0, 1])
    model.partial_fit(X[20:30], y[20:30])
    twin = pickle.loads(pickle.dumps(model))
    with monkeypatch.context() as patch:
        owner, name = place.split(".")
        patch.setattr({"Dense": Dense, "ScanEngine": ScanEngine}[owner], name, lambda *arguments: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model.partial_fit(X[30:40], y[30:40])
    for one in (model, twin):
        assert one.partial_fit(X[30:40], y[30:40]).features_.n_rows == 40
    assert model.hidden_weights().tobytes() == twin.hidden_weights().tobytes()
    np.testing.assert_allclose(model.features_.inner(), X[:40].inner(), atol=1e-12)


# Divergence ------------------------------------------------------------------------------------------------------------


def arrays_of(model):
    arrays = model._engine.arrays(model.state_)
    return {name: array.tobytes() for name, array in arrays.items() if name != "squared_norms"}  # a bound, not the model


@pytest.mark.parametrize("engine", ["scan", "tree", "eager", "dense", "grid", *TORCH])
@pytest.mark.parametrize("options", [{}, {"train_output": True}, {"alpha": 0.1}, {"normalize": False}])
@pytest.mark.parametrize("size", [2, 30])
def test_a_step_that_throws_the_model_off_is_undone(engine, options, size):
    """Whether it is one step or several."""
    X, y = growing_problem("sums", 90, entities=12)
    model = KronRegressor(**{**OPTIONS, "engine": engine, "batch_size": size, "learning_rate_init": 0.1, **options})
    for start in range(0, 60, 30):
        model.partial_fit(X[start : start + 30], y[start : start + 30])
    model.partial_fit(X[:30], y[:30])
    before, answers = arrays_of(model), model.predict(X)
    for rate in (1e9, 1e30, 1e200):
        with pytest.warns(ConvergenceWarning, match="as it was before partial_fit"):
            model.set_params(learning_rate_init=rate).partial_fit(X[:30], -9 * y[:30])
        assert model.stop_reason_ is StopReason.DIVERGED
        assert arrays_of(model) == before
        assert model.predict(X).tobytes() == answers.tobytes()


def test_only_a_step_that_may_throw_the_model_off_is_copied_for(monkeypatch):
    copies, snapshot = [], stream_module.snapshot
    monkeypatch.setattr(stream_module, "snapshot", lambda *state: (copies.append(1), snapshot(*state))[1])
    X, y = growing_problem("pairs", 200)
    model = KronRegressor(**{**OPTIONS, "engine": "scan", "batch_size": 1, "output_scale": 1.0, "learning_rate_init": "auto"})
    model.partial_fit(X[:64], y[:64])
    copies.clear()
    for k in range(64, 200):
        model.partial_fit(X[k : k + 1], y[k : k + 1])
    assert not copies
    with pytest.warns(ConvergenceWarning):
        model.set_params(learning_rate_init=1e9).partial_fit(X[:1], y[:1])
    assert copies == [1]


def test_a_target_next_to_zero_is_no_divergence():
    X, y = growing_problem("pairs", 40)
    model = KronRegressor(**{**OPTIONS, "engine": "scan", "batch_size": 1, "learning_rate_init": 1.0, "output_scale": 1.0})
    model.partial_fit(X, y)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.partial_fit(X[:1], [1e-9])
        model.partial_fit(X[:1], [0.0])
    assert model.stop_reason_ is StopReason.PARTIAL
