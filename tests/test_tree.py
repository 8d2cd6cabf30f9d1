"""The tree engine takes the scan engine's steps to the last bit, and its bounds hold."""

import pickle

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from kronsgd import RBF, Dense, Kernel, KronRegressor, OneHot, Sparse, load
from kronsgd.datasets import make_kron_teacher
from kronsgd.engines import ScanEngine, TreeEngine
from kronsgd.engines.movement import Movement
from kronsgd.engines.tree import WINDOW, TreeActivations
from kronsgd.features.gram import inverse_norms
from kronsgd.features.nystrom import Nystrom, distortion
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.parallel import threads

pytestmark = pytest.mark.usefixtures("one_thread")
N, M = 90, 64


class Always(TreeEngine):
    """Never gives up."""

    def pays(self, state):
        return True


def tables():
    rng = np.random.default_rng(0)
    a, b = Dense(rng.normal(size=(12, 5)) + 0.5), Dense(rng.normal(size=(15, 4)).astype(np.float32))
    return a, b, rng.integers(0, 12, N), rng.integers(0, 15, N), rng


def expression(name):
    a, b, i, j, rng = tables()
    if name == "similarities":  # published tables: a few digits, eigenvalues a little below 0
        x = rng.normal(size=(12, 3))
        gram = np.round(np.exp(-((x[:, None] - x) ** 2).sum(axis=2)), 4)
        return Kernel(gram)[i] * b[j]
    return {
        "pairs": lambda: a[i] * b[j],
        "with constants": lambda: (1 + a[i]) * (1 + b[j]),
        "power": lambda: (1 + Dense(rng.normal(size=(N, 6)))) ** 3,
        "kernel": lambda: RBF(rng.normal(size=(12, 3)))[i] * b[j],
        "codes": lambda: (OneHot(rng.integers(0, 9, N)) + a[i]) * b[j],
        "sparse": lambda: Sparse(sp.random_array((12, 30), density=0.2, rng=rng))[i] * a[j % 12],
    }[name]()


def take_steps(engines, states, n_steps, batch, loss, rate, alpha=0.0, check=None, seed=0):
    """The same random batches for all, in order; rows repeat in some of them."""
    rng = np.random.default_rng(seed)
    network = states[0].network
    n, c = states[0].features.n_rows, network.n_outputs
    classes = rng.integers(0, 2, (n, 1)) if c == 1 else np.eye(c)[rng.integers(0, c, n)]
    y = rng.normal(size=(n, c)) if loss == "squared" else classes
    for k in range(n_steps):
        if k % 25 == 0:
            for engine, state in zip(engines, states, strict=True):
                engine.begin_epoch(state)
        rows = np.sort(rng.integers(0, n, batch) if k % 3 == 0 else rng.permutation(n)[:batch])
        acts = [engine.forward(state, rows) for engine, state in zip(engines, states, strict=True)]
        hidden = [engine.hidden(state, a) for engine, state, a in zip(engines, states, acts, strict=True)]
        for other, h in zip(acts[1:], hidden[1:], strict=True):
            assert np.array_equal(acts[0].outputs, other.outputs)
            assert np.array_equal(hidden[0], h)
            assert acts[0].n_fired == other.n_fired
        slopes = LOSSES[loss].derivative(acts[0].outputs, y[rows]) / batch
        for engine, state, a in zip(engines, states, acts, strict=True):
            engine.update(state, engine.backward(state, a, slopes, rate, alpha))
        if check is not None:
            check(states[-1])


def same_arrays(mine, its):
    """But for how lists are cut, which changes no sum."""
    assert all(np.array_equal(mine[name], its[name]) for name in its if name != "slice_bits")


def states_of(network, features, normalize=True):
    engines = [ScanEngine(), Always()]
    return engines, [engine.initialize(network, features, normalize) for engine in engines]


SETTINGS = [
    # expression, loss, outputs, batch, rate, γ, threshold, more of the network, alpha, normalize
    ("pairs", "squared", 1, 1, 2.0, 1.0, 1.0, {}, 0.0, True),
    ("pairs", "softmax", 3, 5, 60.0, 0.3, 1.2, {"dtype": "float64"}, 0.0, True),
    ("with constants", "squared", 1, 7, 4.0, 1.0, 1.0, {"train_output": True}, 1e-3, True),
    ("with constants", "logistic", 1, 16, 40.0, 0.5, 1.5, {"init_rank": 3}, 0.0, True),
    ("power", "softmax", 4, 64, 200.0, 0.1, 0.5, {}, 0.0, True),
    ("power", "squared", 2, 3, 0.02, 1.0, 1.0, {"dtype": "float64", "train_output": True}, 0.0, False),
    ("kernel", "squared", 1, 2, 2.0, 1.0, 2.0, {}, 0.3, True),
    ("kernel", "logistic", 1, 90, 90.0, 0.2, 0.0, {"antisymmetric": False}, 0.0, True),
    ("codes", "softmax", 3, 4, 9.0, 1.0, 1.0, {"init": "gaussian"}, 0.0, True),
    ("similarities", "squared", 1, 1, 3.0, 1.0, 1.0, {}, 0.0, True),
    ("sparse", "squared", 1, 130, 1.0, 1.0, 0.8, {}, 2.2, True),  # a factor of −1.2 a step
]


@pytest.mark.parametrize("setting", SETTINGS, ids=lambda s: "-".join(map(str, s[:4])))
def test_same_bits_as_scan(setting):
    name, loss, outputs, batch, rate, gamma, threshold, more, alpha, normalize = setting
    network = TwoLayer(M, outputs, threshold=threshold, output_scale=gamma, **more)
    engines, states = states_of(network, expression(name), normalize)
    take_steps(engines, states, 80, batch, loss, rate, alpha)
    same_arrays(engines[1].arrays(states[1]), engines[0].arrays(states[0]))
    assert states[1].counts[2] >= states[1].counts[3] > 0


@pytest.mark.parametrize("name", ["pairs", "kernel", "similarities"])
def test_norms_are_never_below_the_true_ones(name):
    features = expression(name)
    network = TwoLayer(M, threshold=1.0, dtype="float64")
    engines, states = states_of(network, features)
    scale = inverse_norms(features, True)
    gram = features.inner() * scale[:, None] * scale

    def check(state):
        alpha = state.coefficients.matrix(features.n_rows).toarray() / state.coefficients.scale
        true = np.einsum("ri,ij,rj->r", alpha, gram, alpha)
        assert (state.movement.squared + state.movement.hidden_by_rounding() >= true - 1e-12).all()
        assert (state.movement.squared <= 1.2 * true + 1e-3).all()  # nor far above

    take_steps(engines, states, 40, 6, "squared", 3.0, 0.01, check)


def test_evaluates_little_more_than_what_fires():
    """On rows that 32 directions span, the last bound is the inner product itself."""
    features = expression("pairs")
    engines, states = states_of(TwoLayer(512, threshold=1.5), features)
    take_steps(engines, states, 40, 4, "squared", 3.0)
    _, rows, evaluated, fired, _ = states[1].counts
    assert fired <= evaluated < 1.1 * fired
    assert evaluated < 0.3 * rows * 512


@given(seed=st.integers(0, 10**6), directions=st.sampled_from([1, 8, 32]))
@settings(max_examples=25, deadline=None)
def test_bounds_hold_for_any_direction(seed, directions):
    rng = np.random.default_rng(seed)
    features = (1 + Dense(rng.normal(size=(30, 6)))) * RBF(rng.normal(size=(30, 2)))
    t, rest = Nystrom.of(features, True, rng).coordinates(features)
    scale = inverse_norms(features, True)
    gram = features.inner() * scale[:, None] * scale
    alpha = rng.normal(size=30)
    along = (alpha @ t[:, :directions]) @ t[:, :directions].T
    norm = np.sqrt(max(alpha @ gram @ alpha - ((alpha @ t[:, :directions]) ** 2).sum(), 0))
    level = [1, 8, 32].index(directions)
    assert (gram @ alpha <= along + norm * rest[:, level] + 1e-5 * np.abs(alpha).sum()).all()


def test_goes_on_as_the_scan_engine_where_pruning_does_not_pay():
    class Never(TreeEngine):
        def pays(self, state):
            return state.counts[0] < 10

    features = expression("pairs")
    engines = [ScanEngine(), Never()]
    states = [engine.initialize(TwoLayer(M, threshold=1.0), features) for engine in engines]
    take_steps(engines, states, 40, 5, "squared", 3.0)
    assert states[1].movement is None
    same_arrays(engines[1].arrays(states[1]), engines[0].arrays(states[0]))


def test_gives_up_only_where_evaluation_one_by_one_costs_more():
    features = expression("pairs")
    for threshold, kept in ((1.5, True), (-50.0, False)):
        engine = TreeEngine()
        state = engine.initialize(TwoLayer(M, threshold=threshold), features)
        take_steps([engine], [state], 4 * WINDOW, 1, "squared", 1e-3)
        assert (state.movement is not None) == kept


def test_a_small_scale_is_multiplied_in():
    """A strong penalty shrinks the common factor until it is multiplied into coefficients and bounds."""
    features = expression("pairs")
    engines, states = states_of(TwoLayer(M, threshold=0.5, dtype="float64"), features)
    take_steps(engines, states, 60, 4, "squared", 3.0, 0.2)
    assert states[1].coefficients.scale > 1e-6
    same_arrays(engines[1].arrays(states[1]), engines[0].arrays(states[0]))


@pytest.mark.parametrize("how", ["arrays", "pickle"])
def test_goes_on_from_saved_states_as_scan_does(how):
    features = expression("with constants")
    engines, states = states_of(TwoLayer(M, threshold=1.0), features)
    take_steps(engines, states, 30, 4, "squared", 3.0)
    if how == "pickle":
        states[1] = pickle.loads(pickle.dumps(states[1]))
    else:
        arrays = {name: array.copy() for name, array in engines[1].arrays(states[1]).items()}
        states[1] = engines[1].initialize(states[0].network, features)
        engines[1].restore(states[1], arrays)
    take_steps(engines, states, 30, 4, "squared", 3.0, seed=1)
    same_arrays(engines[1].arrays(states[1]), engines[0].arrays(states[0]))


def test_takes_over_from_scan_and_back():
    features = expression("with constants")
    engines, states = states_of(TwoLayer(M, threshold=1.0), features)
    take_steps(engines, states, 30, 4, "squared", 3.0)
    fresh = [engine.initialize(states[0].network, features) for engine in engines]
    engines[0].restore(fresh[0], engines[1].arrays(states[1]))
    engines[1].restore(fresh[1], engines[0].arrays(states[0]))
    take_steps([*engines, engines[0]], [*fresh, states[0]], 30, 4, "squared", 3.0, seed=1)
    same_arrays(engines[1].arrays(fresh[1]), engines[0].arrays(states[0]))


def test_more_rows():
    """A few, for which the directions stay, and so many that they are made anew; longer ones too."""
    features = expression("power")
    engines, states = states_of(TwoLayer(M, threshold=1.0), features[np.arange(30)], normalize=False)
    for n in (30, 40, 90):
        states = [engine.extend(state, features[np.arange(n)]) for engine, state in zip(engines, states, strict=True)]
        assert len(states[1].movement.t) == n
        take_steps(engines, states, 25, 3, "squared", 0.02, seed=n)
    same_arrays(engines[1].arrays(states[1]), engines[0].arrays(states[0]))


def test_a_bound_that_is_too_low_would_be_seen(monkeypatch):
    """Of the comparisons above: neurons that are left out change the outputs."""
    features = expression("pairs")
    engines, states = states_of(TwoLayer(M, threshold=1.0), features)
    take_steps(engines, states, 20, 4, "squared", 3.0)
    monkeypatch.setattr(Movement, "begin_epoch", lambda movement, alpha: movement.limit.__iadd__(1.0))
    with pytest.raises(AssertionError):
        take_steps(engines, states, 20, 4, "squared", 3.0, seed=1)


def test_what_is_not_a_number_shows_in_the_outputs():
    engine, features = Always(), expression("pairs")
    state = engine.initialize(TwoLayer(M, threshold=1.0), features)
    activations = engine.forward(state, np.arange(4))
    assert isinstance(activations, TreeActivations)
    engine.update(state, engine.backward(state, activations, np.full((4, 1), np.nan), 1.0))
    assert np.isnan(engine.forward(state, np.arange(4)).outputs).any()


def test_estimator_same_model_as_scan(tmp_path):
    X, y, _ = make_kron_teacher(120, random_state=0)
    options = {"max_iter": 3, "batch_size": 1, "random_state": 0, "learning_rate_init": 2.0, "output_scale": 1.0}
    models = [KronRegressor(128, engine=name, **options).fit(X, y) for name in ("scan", "tree")]
    assert models[0].loss_curve_ == models[1].loss_curve_
    assert np.array_equal(models[0].predict(X), models[1].predict(X))
    models[1].save(tmp_path / "tree.kron")
    again = load(tmp_path / "tree.kron")
    assert again.engine_ == "tree"
    assert np.array_equal(again.predict(X), models[0].predict(X))
    for model in (models[0], again):
        model.partial_fit(X[:20], y[:20])
    assert np.array_equal(models[0].predict(X), again.predict(X))


def test_threads_do_not_change_a_bit():
    features = expression("with constants")
    network = TwoLayer(512, threshold=1.0)
    engine = Always()
    found = []
    for n_jobs in (1, 2):
        with threads(n_jobs):
            state = engine.initialize(network, features)
            take_steps([engine], [state], 20, 5, "squared", 3.0)
            found.append(engine.arrays(state))
    same_arrays(found[0], found[1])


def step_after_step(X, first, network, rows, rate, engines=None):
    """Both engines on the same single rows, after `first` rows have become all."""
    engines, states = states_of(network, X[np.arange(first)])
    if first < X.n_rows:
        states = [engine.extend(state, X) for engine, state in zip(engines, states, strict=True)]
    for row in rows:
        acts = [engine.forward(state, np.array([row])) for engine, state in zip(engines, states, strict=True)]
        assert acts[0].n_fired == acts[1].n_fired
        assert np.array_equal(acts[0].outputs, acts[1].outputs)
        for engine, state, a in zip(engines, states, acts, strict=True):
            engine.update(state, engine.backward(state, a, np.ones((1, 1)), rate))


def almost_a_kernel():
    """Two rows alike to 2·10⁻⁴, and a third one that their tiny difference would make longer than it is."""
    alike, mixed = 1 - 2.2e-4, np.sqrt((2.2e-4 + 1.6e-5) / 2)
    return Kernel(np.array([[1, alike, mixed], [alike, 1, -mixed], [mixed, -mixed, 1]]))[np.arange(3)]


def test_tables_that_are_no_kernel_to_the_last_digit():
    step_after_step(almost_a_kernel(), 2, TwoLayer(4096, threshold=0.5), [2, 2, 2], 0.3 * 64)


def test_no_row_is_longer_along_the_directions_than_it_is():
    X = almost_a_kernel()
    longest = [
        (Nystrom(X[np.arange(2)], True, allowed).coordinates(X)[0] ** 2).sum(axis=1).max() for allowed in (0.0, distortion(X))
    ]
    assert longest[0] > 1.07
    assert longest[1] <= 1


def test_numbers_that_overflow_in_single_precision():
    """Of a training that diverges in double precision: ±1e39 along different directions is no bound."""
    network = TwoLayer(256, threshold=0.5, dtype="float64")
    rng = np.random.default_rng(0)
    step_after_step(Dense(rng.normal(size=(40, 6)))[np.arange(40)], 40, network, list(range(12)), 1e40)


def test_kernels_of_vectors_far_from_zero_are_not_taken_for_exact():
    rng = np.random.default_rng(0)
    far = RBF(0.1 * rng.normal(size=(50, 3)) + 1e7)
    off = abs(far.entity_inner(far, slice(None), slice(None)).diagonal() - 1).max()
    assert off > 1e-3
    assert far.distortion() >= off
    assert RBF(rng.normal(size=(50, 3))).distortion() < 1e-13


def test_new_entities_longer_than_they_are_said_to_be():
    gram = np.array([[1, 1 - 1e-6], [1 - 1e-6, 1]])
    table = Kernel(gram)
    whole = table.append_entities(table.new_entities(np.array([[0.5, 0.49]])))
    assert whole.entity_inner(whole, slice(None), slice(None))[2, 2] > 10
    assert whole.distortion() > 9


def test_predicting_leaves_the_lists_as_they_are():
    """Several threads may predict at once: nothing may be rearranged meanwhile."""
    X, y, _ = make_kron_teacher(3000, random_state=0)
    model = KronRegressor(64, engine="tree", max_iter=1, batch_size=4, learning_rate_init=2.0, random_state=0).fit(X, y)
    coefficients = model.state_.coefficients
    assert model.state_.movement is not None
    before = coefficients.segments, coefficients.indptr, coefficients.rows, coefficients.values
    model.predict(X[:300])
    after = coefficients.segments, coefficients.indptr, coefficients.rows, coefficients.values
    assert all(mine is its for mine, its in zip(before, after, strict=True))


def test_norms_that_cannot_be_are_refused():
    features = expression("pairs")
    engine = TreeEngine()
    state = engine.initialize(TwoLayer(M, threshold=1.0), features)
    take_steps([engine], [state], 20, 4, "squared", 3.0)
    arrays = engine.arrays(state)
    with pytest.raises(ValueError, match="squared_norms"):
        engine.restore(state, {**arrays, "squared_norms": 0 * arrays["squared_norms"]})
