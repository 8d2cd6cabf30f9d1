"""Conformance suite for new leaves and engines: checks raise AssertionError with a sentence that says what is wrong.

A leaf written outside the library passes when `check_features(MyLeaf(...))` returns, an engine when
`check_engine(MyEngine())` does. The library's own leaves and engines are held to the same checks.
"""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kronsgd.engines.base import Engine
from kronsgd.engines.dense import DenseEngine
from kronsgd.features.base import Features
from kronsgd.features.gram import RowGram
from kronsgd.features.known import append_rows
from kronsgd.features.leaves import Dense, OneHot
from kronsgd.features.serialize import compress, features_from_state, features_state, prototype
from kronsgd.features.vector_kernels import RBF
from kronsgd.initial import coordinate_dim
from kronsgd.losses import LOSSES, Loss
from kronsgd.network import TwoLayer

__all__ = ["EXPRESSIONS", "check_engine", "check_features"]

Array = NDArray[Any]
EXACT = {"float64": 1e-12, "float32": 1e-5}  # largest relative difference, in the Frobenius norm, of hidden weights
ROUNDING = {"float64": 1e-10, "float32": 1e-4}  # largest difference of outputs, and of a pair from its threshold


# Features -----------------------------------------------------------------------------------------------------------


def check_features(features: Features, new: Features | None = None) -> None:
    """Raise AssertionError unless the expression keeps every promise of the algebra.

    new: rows of the same expression over other tables. The cost is that of `features.dense()`, so choose small tables;
    leaves known by a kernel alone must have at most `kernel_leaves.MAX_ANCHORS` entities.
    """
    gram = _check_inner(features)
    _check_slicing(features, gram)
    _check_copies(features, gram)
    _check_append(features, gram)
    _check_panels(features, None, gram)
    if new is not None:
        _check_new_rows(features, new)


def _tolerance(features: Features, values: Array) -> float:
    """Allowed rounding of inner products: that of the coarsest table, relative to the largest value."""
    coarse = any(leaf.dtype == np.float32 for leaf in features.leaves())
    return (2e-5 if coarse else 1e-10) * max(float(np.abs(values).max(initial=0.0)), np.finfo(np.float64).tiny)


def _assert_close(what: str, got: Array, expected: Array, tolerance: float) -> None:
    assert got.shape == expected.shape, f"{what}: the shape is {got.shape}, expected is {expected.shape}."
    if got.size == 0:
        return
    difference = np.abs(got.astype(np.float64) - expected)
    where = tuple(int(k) for k in np.unravel_index(int(np.argmax(difference)), difference.shape))
    assert np.isfinite(difference).all(), f"{what}: there are values that are not finite."
    assert difference[where] <= tolerance, (
        f"{what}: the value at {where} is {got[where]:.17g}, expected is {expected[where]:.17g} up to {tolerance:.1g}."
    )


def _check_inner(features: Features) -> Array:
    n = features.n_rows
    assert features.shape == (n, features.dim), f"shape is {features.shape}, expected is {(n, features.dim)}."
    assert len(features) == n, f"len() is {len(features)}, but there are {n} rows."
    gram = np.asarray(features.inner(), dtype=np.float64)
    tolerance = _tolerance(features, gram)
    coordinates = np.asarray(features.dense(), dtype=np.float64)
    expected_shape = (n, coordinate_dim(features))
    assert coordinates.shape == expected_shape, f"dense() has shape {coordinates.shape}, expected is {expected_shape}."
    _assert_close("inner() against dense() @ dense().T", gram, coordinates @ coordinates.T, tolerance)
    _assert_close("inner() against its transpose", gram, gram.T, tolerance)
    _assert_close("inner(features) against inner()", np.asarray(features.inner(features)), gram, tolerance)
    _assert_close("squared_norms() against the diagonal of inner()", features.squared_norms(), np.diag(gram), tolerance)
    smallest = float(np.linalg.eigvalsh((gram + gram.T) / 2)[0])
    assert smallest >= -n * tolerance, f"inner() is not positive semi-definite: an eigenvalue is {smallest:.3g}."
    return gram


def _check_slicing(features: Features, gram: Array) -> None:
    n, tolerance = features.n_rows, _tolerance(features, gram)
    rng = np.random.default_rng(0)
    shuffled = rng.integers(0, n, size=2 * n)
    mask = rng.random(n) < 0.5
    chosen: list[tuple[str, Any, Array]] = [
        ("a list with repeats", shuffled.tolist(), shuffled),
        ("an array of negative numbers", shuffled - n, shuffled),
        ("a slice", slice(None, None, -2), np.arange(n)[::-2]),
        ("a mask", mask, np.flatnonzero(mask)),
        ("no rows", [], np.zeros(0, dtype=np.int64)),
        ("one number", n - 1, np.array([n - 1])),
    ]
    for how, key, numbers in chosen:
        part = features[key]
        assert part.shape == (len(numbers), features.dim), f"rows picked by {how} have shape {part.shape}."
        _assert_close(f"inner products of rows picked by {how}", part.inner(features), gram[numbers], tolerance)
        _assert_close(f"norms of rows picked by {how}", part.squared_norms(), np.diag(gram)[numbers], tolerance)
    third = shuffled[::3]
    among = gram[np.ix_(third, third)]
    _assert_close("inner products of rows picked twice", features[shuffled][::3].inner(), among, tolerance)
    _assert_close("inner products after compress()", compress(features[third]).inner(), among, tolerance)


def _check_copies(features: Features, gram: Array) -> None:
    """Pickles and the state in model files give back the same rows to the last bit."""
    arrays, tree = features_state(features)
    assert all(isinstance(array, np.ndarray) for array in arrays.values()), "state() must give numpy arrays."
    copies = {
        "a pickled copy": pickle.loads(pickle.dumps(features)),
        "a copy from state()": features_from_state(arrays, json.loads(json.dumps(tree))),
    }
    for what, copied in copies.items():
        assert copied.shape == features.shape, f"{what} has shape {copied.shape}, expected is {features.shape}."
        assert repr(copied) == repr(features), f"{what} is {copied!r}, expected is {features!r}."
        features.check_compatible(copied)
        assert np.array_equal(np.asarray(copied.inner(), dtype=np.float64), gram), f"{what} has other inner products."


def _check_append(features: Features, gram: Array) -> None:
    n, tolerance = features.n_rows, _tolerance(features, gram)
    same, numbers = append_rows(features, features)
    assert same.n_rows == n, f"append_rows of rows that are all known made {n} rows {same.n_rows}."
    _assert_close("rows found by append_rows", same[numbers].inner(features), gram, tolerance)
    half = features[: (n + 1) // 2]
    merged, numbers = append_rows(half, features[::-1])
    assert merged.n_rows <= n, f"append_rows made {merged.n_rows} rows from {n} different ones."
    _assert_close("rows that append_rows kept", merged[: len(half)].inner(features), gram[: len(half)], tolerance)
    _assert_close("rows that append_rows added", merged[numbers].inner(features), gram[::-1], tolerance)


def _check_panels(features: Features, new: Features | None, gram: Array) -> None:
    """Panels for several batches: fewer rows than lanes, as many, more, and several full tiles."""
    rows_of = features if new is None else new
    rng = np.random.default_rng(1)
    exact_norms, norms = np.sqrt(features.squared_norms()), np.sqrt(rows_of.squared_norms())
    for dtype, normalize in (("float64", True), ("float64", False), ("float32", True)):
        expected = gram / _or_one(exact_norms)[:, None] / _or_one(norms) if normalize else gram
        rounding = 2e-5 * float(np.abs(expected).max()) if dtype == "float32" else 0.0
        tolerance = max(_tolerance(features, expected), rounding)
        row_gram = RowGram(features, dtype, normalize)
        for lanes, size in ((1, 1), (4, 3), (4, 4), (4, 9), (16, 1), (16, 17), (64, 64)):
            rows = rng.integers(0, rows_of.n_rows, size=size)
            panel = row_gram.panel(rows, lanes, new)
            what = f"panel of {size} rows in {lanes} lanes ({dtype}, normalize={normalize})"
            tiles = -(-size // lanes)
            assert panel.shape == (tiles, features.n_rows, lanes), f"{what}: the shape is {panel.shape}."
            assert panel.dtype == dtype, f"{what}: the dtype is {panel.dtype}."
            flat = panel.transpose(1, 0, 2).reshape(features.n_rows, tiles * lanes)
            _assert_close(what, flat[:, :size], expected[:, rows], tolerance)
            assert not flat[:, size:].any(), f"{what}: lanes past the last row are not 0."


def _or_one(norms: Array) -> Array:
    return np.where(norms == 0, 1.0, norms)


def _check_new_rows(features: Features, new: Features) -> None:
    features.check_compatible(new)
    new.check_compatible(features)
    cross = np.asarray(features.inner(new), dtype=np.float64)
    tolerance = _tolerance(features, cross)
    basis = prototype(features)
    mine, theirs = basis.coordinates(features), basis.coordinates(new)
    _assert_close("inner(new) against coordinates", cross, np.asarray(mine @ theirs.T, dtype=np.float64), tolerance)
    _assert_close("inner products in the other direction", np.asarray(new.inner(features)), cross.T, tolerance)
    norms = new.squared_norms()
    shortfall = float(((theirs.astype(np.float64) ** 2).sum(axis=1) - norms).max())
    assert shortfall <= _tolerance(features, norms), "coordinates of new rows are longer than squared_norms() says."
    _check_panels(features, new, cross)
    merged, numbers = append_rows(features, new)
    assert merged.n_rows <= features.n_rows + new.n_rows, "append_rows made more rows than there are."
    _assert_close("new rows after append_rows", merged[numbers].inner(features), cross.T, tolerance)
    again, _ = append_rows(merged, new)
    assert again.n_rows == merged.n_rows, "append_rows of the same new rows a second time added rows."


# Engines ------------------------------------------------------------------------------------------------------------


def _kronecker(rng: np.random.Generator, n: int) -> Features:
    a, b = Dense(rng.normal(size=(7, 4))), Dense(rng.normal(size=(5, 3)))
    return a[rng.integers(0, 7, n)] * b[rng.integers(0, 5, n)]


def _polynomial(rng: np.random.Generator, n: int) -> Features:
    return (1 + Dense(rng.normal(size=(n, 4)), normalize=False)) ** 2


def _mixture(rng: np.random.Generator, n: int) -> Features:
    a, b = Dense(rng.normal(size=(n, 3))), OneHot(np.arange(6))[rng.integers(0, 6, n)]
    return a * b + 0.5 + b[::-1]


def _three_factors(rng: np.random.Generator, n: int) -> Features:
    table = Dense(rng.normal(size=(6, 3)))
    kernel = RBF(3 * np.arange(5.0)[:, None], gamma=0.3)  # far apart, so that coordinates are exact to the last digits
    return table[rng.integers(0, 6, n)] * table[rng.integers(0, 6, n)] * kernel[rng.integers(0, 5, n)]


EXPRESSIONS: dict[str, Callable[[np.random.Generator, int], Features]] = {
    "A * B": _kronecker, "(1 + A) ** 2": _polynomial, "A * B + c + B": _mixture, "A * A * K": _three_factors,
}  # fmt: skip
"""Random problems for an engine: name -> function of a random generator and a number of rows."""

OUTPUTS = {"squared": 2, "logistic": 1, "softmax": 3}
N_ROWS = 40  # rows of a random problem
N_NEW = 12  # rows that it has beside them


def check_engine(
    engine: Engine, *, losses: Sequence[str] = tuple(LOSSES), expressions: Sequence[str] = tuple(EXPRESSIONS),
    batch_sizes: Sequence[int] = (1, 16, 40), inits: Sequence[str] = ("structured", "gaussian"),
    dtypes: Sequence[str] = ("float64", "float32"), n_steps: int = 200, seed: int = 0,
) -> None:  # fmt: skip
    """Raise AssertionError unless the engine takes the same steps as DenseEngine in float64, on random problems.

    Runs `n_steps` steps for every loss × expression × batch size × init × dtype; the other options vary from one to the
    next. Compared: fired sets and outputs at every step (in float32 a row with a pair within rounding of the threshold
    is left out of the step), hidden and output weights at the end, arrays/restore, pickles, new rows and extend.
    """
    cases = product(losses, expressions, batch_sizes, inits, dtypes)
    for number, (loss, expression, size, init, dtype) in enumerate(cases):
        assert size <= N_ROWS, f"batch_sizes must be at most {N_ROWS}, not {size}."
        rng = np.random.default_rng([seed, number])
        rows = EXPRESSIONS[expression](rng, N_ROWS + N_NEW)
        normalize, threshold = bool(rng.random() < 0.8), float(rng.choice([0.0, 0.7, -0.3]))
        network = TwoLayer(
            n_hidden=int(rng.choice([10, 20, 30, 140])), n_outputs=OUTPUTS[loss], threshold=threshold,
            output_scale=float(rng.choice([0.3, 1.0])), init=init, init_rank=int(rng.integers(1, 4)),
            antisymmetric=bool(rng.random() < 0.5), train_output=bool(rng.random() < 0.5), seed=number, dtype=dtype,
        )  # fmt: skip
        decay = float(rng.choice([0.0, 0.001, 0.1]))  # by each step, of what has been learned
        case = f"{engine.name} engine, {loss} loss, {expression}, batches of {size}, decay {decay:g}, {network}"
        twins = _Twins(engine, network, rows[:N_ROWS], normalize, LOSSES[loss], decay, size, rng, case)
        twins.run(n_steps)
        twins.check_new_rows(rows[N_ROWS:])
        twins.check_restore()
        twins.check_extend(rows[N_ROWS:], n_steps // 4)


@dataclass
class _Twins:
    """The engine under test and the oracle, led through the same batches."""

    engine: Engine
    network: TwoLayer
    rows: Features
    normalize: bool
    loss: Loss
    decay: float
    size: int
    rng: np.random.Generator
    case: str

    def __post_init__(self) -> None:
        self.oracle = DenseEngine()
        self.state = self.engine.initialize(self.network, self.rows, self.normalize)
        self.truth = self.oracle.initialize(replace(self.network, dtype="float64"), self.rows, self.normalize)
        self.rate = self._stable_rate()
        self.alpha = self.decay / self.rate
        self.targets = self._targets(self.rows.n_rows)
        self.weights = self.rng.uniform(0.5, 1.5, size=len(self.targets))
        self._compare_weights("before training")

    def _stable_rate(self) -> float:
        """½ / (curvature · largest entry of the tangent kernel, were at least half of all neurons to fire)."""
        hidden = self.oracle.forward(self.truth, np.arange(self.rows.n_rows)).hidden
        fired = np.maximum((hidden > 0).sum(axis=1), self.network.n_hidden / 2)
        diagonal = fired * (self.truth.rows**2).sum(axis=1)
        if self.network.train_output:
            diagonal = diagonal + (hidden**2).sum(axis=1)
        return float(0.5 / (self.loss.curvature * self.network.scale**2 * diagonal.max()))

    def _targets(self, n: int) -> Array:
        if self.network.n_outputs == 3:
            return np.asarray(np.eye(3)[self.rng.integers(0, 3, n)])
        if self.network.n_outputs == 2:
            return self.rng.normal(size=(n, 2))
        return self.rng.integers(0, 2, (n, 1)).astype(np.float64)

    def run(self, n_steps: int) -> None:
        """Steps on random batches, compared one by one, and the weights after them."""
        start = self.oracle.hidden_weights(self.truth)
        for _ in range(n_steps):
            self._step()
        change = float(np.linalg.norm(self.oracle.hidden_weights(self.truth) - start) / np.linalg.norm(start))
        assert n_steps == 0 or change > 1e-3, f"{self.case}: the problem does not train, so nothing is checked."
        self._compare_weights(f"after {n_steps} steps")

    def _step(self) -> None:
        """One step of both. Rows where rounding decides whether a neuron fires get a slope of 0, so no coefficients."""
        batch = np.sort(self.rng.choice(len(self.targets), size=self.size, replace=False)).astype(np.int64)
        ours, theirs = self.engine.forward(self.state, batch), self.oracle.forward(self.truth, batch)
        weights = self.weights[batch] * self._same_fired(ours, theirs) / len(batch)
        for engine, state, activations in ((self.engine, self.state, ours), (self.oracle, self.truth, theirs)):
            slopes = self.loss.derivative(activations.outputs, self.targets[batch]) * weights[:, None]
            engine.update(state, engine.backward(state, activations, slopes, self.rate, self.alpha))

    def _same_fired(self, ours: Any, theirs: Any) -> NDArray[np.bool_]:
        """For each row, whether both fire the same neurons; AssertionError where that is not a matter of rounding."""
        slack = ROUNDING[self.network.dtype]
        mine = np.asarray(self.engine.hidden(self.state, ours), dtype=np.float64)
        exact = np.asarray(self.oracle.hidden(self.truth, theirs), dtype=np.float64)
        size = max(1.0, float(exact.max(initial=0.0)))
        _assert_close(f"{self.case}: max(z − b, 0)", mine, exact, slack * size)
        differ = (mine > 0) != (exact > 0)
        assert self.network.dtype == "float32" or not differ.any(), f"{self.case}: the fired sets differ."
        n_fired = int(np.count_nonzero(mine > 0))
        assert ours.n_fired == n_fired, f"{self.case}: n_fired is {ours.n_fired}, but {n_fired} pairs fire."
        size = max(1.0, float(np.abs(theirs.outputs).max(initial=0.0)))
        _assert_close(f"{self.case}: outputs", ours.outputs, theirs.outputs, slack * size)
        return np.asarray(~differ.any(axis=1))

    def _compare_weights(self, when: str, slack: float = 1.0) -> None:
        got, expected = self.engine.hidden_weights(self.state), self.oracle.hidden_weights(self.truth)
        assert got.shape == expected.shape, f"{self.case}: hidden weights {when} have shape {got.shape}."
        for what, a, b in (
            ("hidden", got, expected), ("output", np.asarray(self.state.output_weights), self.truth.output_weights),
        ):  # fmt: skip
            error = float(np.linalg.norm(a - b) / np.linalg.norm(b))
            allowed = slack * EXACT[self.network.dtype]
            assert error <= allowed, f"{self.case}: {what} weights {when} are off by {error:.2g}."

    def check_new_rows(self, new: Features) -> None:
        """Fired sets and outputs of rows that the model has not seen."""
        pairs = zip(self.engine.batches(self.state, new), self.oracle.batches(self.truth, new), strict=True)
        for ours, theirs in pairs:
            self._same_fired(ours, theirs)

    def check_restore(self) -> None:
        """arrays/restore and pickles give a state that goes on to the last bit, and bad arrays are refused."""
        arrays = {name: array.copy() for name, array in self.engine.arrays(self.state).items()}
        fresh, kept = self._restored(arrays), pickle.loads(pickle.dumps(self.state))
        going_on = self._one_more_step(self.state)
        for what, state in (("restore", fresh), ("a pickle", pickle.loads(pickle.dumps(kept)))):
            for name, array in self._one_more_step(state).items():
                assert np.array_equal(array, going_on[name]), f"{self.case}: {name} differ a step after {what}."
        self.state = kept
        for name in arrays:
            self._assert_refused({k: v for k, v in arrays.items() if k != name}, f"without array '{name}'")
            self._assert_refused({**arrays, name: arrays[name][None]}, f"with array '{name}' in another shape")
            if arrays[name].dtype.kind == "f" and arrays[name].size:
                bad = arrays[name].copy()
                bad.flat[0] = np.nan
                self._assert_refused({**arrays, name: bad}, f"with NaN in array '{name}'")

    def _one_more_step(self, state: Any) -> dict[str, Array]:
        """What a step on the first rows leads to; the oracle has no part in it."""
        batch = np.arange(self.size)
        activations = self.engine.forward(state, batch)
        slopes = self.loss.derivative(activations.outputs, self.targets[batch]) / self.size
        self.engine.update(state, self.engine.backward(state, activations, slopes, self.rate, self.alpha))
        return {
            "outputs": self.engine.outputs(state, self.rows),
            "hidden weights": self.engine.hidden_weights(state),
            "output weights": np.asarray(state.output_weights),
        }

    def _restored(self, arrays: dict[str, Array]) -> Any:
        state = self.engine.initialize(self.network, self.state.features, self.normalize, self.engine.basis(self.state))
        self.engine.restore(state, {name: array.copy() for name, array in arrays.items()})
        return state

    def _assert_refused(self, arrays: dict[str, Array], how: str) -> None:
        try:
            self._restored(arrays)
        except ValueError:
            return
        raise AssertionError(f"{self.case}: restore {how} must raise ValueError.")

    def check_extend(self, new: Features, n_steps: int) -> None:
        """Training goes on over more rows, old coefficients staying as they are."""
        merged, _ = append_rows(self.state.features, new)
        self.state = self.engine.extend(self.state, merged)
        self.truth = self.oracle.extend(self.truth, append_rows(self.truth.features, new)[0])
        assert self.state.features.n_rows == merged.n_rows, f"{self.case}: extend did not take over the new rows."
        self.targets = np.concatenate([self.targets, self._targets(merged.n_rows - len(self.targets))])
        self.weights = np.ones(len(self.targets))
        self._compare_weights("after extend")
        for _ in range(n_steps):
            self._step()
        self._compare_weights("after extend and more steps", slack=4.0)
