"""What a step costs does not depend on the product's dimension: counted operations and allocated bytes, no clocks."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from kronsgd import RBF, Dense
from kronsgd.engines import ScanEngine
from kronsgd.engines import coefficients as coefficients_module
from kronsgd.features import gram, grouping, kernel_leaves, leaf, leaves, vector_kernels
from kronsgd.kernels import panels, products
from kronsgd.kernels import scan as kernels
from kronsgd.losses import LOSSES
from kronsgd.network import TwoLayer
from kronsgd.training import train_step

N_ENTITIES, N_ROWS, BATCH, N_STEPS = 30, 60, 16, 3
KERNELS = {
    panels: panels.__all__, products: products.__all__, kernels: [name for name in kernels.__all__ if name.islower()],
}  # fmt: skip
PRODUCTS = {"2^12": 8, "2^24": 64, "2^40": 1024}

pytestmark = pytest.mark.usefixtures("one_thread")


def four_factors(columns, infinite=False):
    """Four tables of 30 entities each under a row index of its own; the last one an RBF leaf if `infinite`."""
    rng, rows = np.random.default_rng(0), np.random.default_rng(1)  # the same rows for every number of columns
    tables = [Dense(rng.normal(size=(N_ENTITIES, columns))) for _ in range(4)]
    if infinite:
        tables[3] = RBF(rng.normal(size=(N_ENTITIES, columns)))
    indexed = [table[rows.integers(0, N_ENTITIES, N_ROWS)] for table in tables]
    return indexed[0] * indexed[1] * indexed[2] * indexed[3]


class Counter:
    """Calls of every compiled kernel and of every matrix product, with the shapes of their arrays."""

    def __init__(self, monkeypatch):
        self.calls = []
        for module, names in KERNELS.items():
            for name in names:
                monkeypatch.setattr(module, name, self.counted(name, getattr(module, name)))
        for module in (leaf, leaves, kernel_leaves, vector_kernels):
            monkeypatch.setattr(module, "matmul", self.counted("matmul", module.matmul))

    def counted(self, name, function):
        def call(*arguments):
            self.calls.append((name, *[np.shape(a) for a in arguments]))
            return function(*arguments)

        return call

    def elements(self):
        """Numbers in all arrays that were passed, those that hold coefficients left out: they depend on what fires."""
        return sum(int(np.prod(shape)) for name, *shapes in self.calls for shape in shapes if name != "forward")


def warm_state(features):
    """A state after two steps: the second is the first that needs inner products between entities, and makes them once."""
    network = TwoLayer(n_hidden=24, threshold=-1000.0, output_scale=1.0)  # every pair fires, whatever the features
    state = ScanEngine().initialize(network, features)
    y = np.random.default_rng(1).normal(size=(N_ROWS, 1))

    def step(k):
        rows = np.arange(k * BATCH % 40, k * BATCH % 40 + BATCH)
        return train_step(ScanEngine(), state, LOSSES["squared"], rows, y[rows], np.ones(BATCH), 1e-3, 0.0)

    step(0)
    step(0)
    return state, step


def cases():
    return {**{name: four_factors(columns) for name, columns in PRODUCTS.items()}, "∞": four_factors(64, infinite=True)}


def test_products_have_the_dimensions_that_they_are_named_after():
    for name, features in cases().items():
        assert features.dim == (float("inf") if name == "∞" else 2 ** int(name[2:]))


def test_counted_operations_do_not_depend_on_the_dimension(monkeypatch):
    counted = {}
    for name, features in cases().items():
        with monkeypatch.context() as patch:
            _, step = warm_state(features)
            counter = Counter(patch)
            fired = [step(k)[1] for k in range(1, 1 + N_STEPS)]
        assert fired == [24 * BATCH] * N_STEPS
        counted[name] = counter.calls
        assert counter.elements() > N_ROWS * BATCH
        names = {call[0] for call in counter.calls}
        assert {"forward", "panel_tiles", "start_tiles"} <= names
        assert "matmul" not in names  # inner products and starting values of entities are kept
    assert counted["2^24"] == counted["2^12"]
    assert counted["2^40"] == counted["2^12"]
    assert counted["∞"] == counted["2^12"]


def test_allocated_bytes_do_not_depend_on_the_dimension():
    peaks = {}
    for name, features in cases().items():
        _, step = warm_state(features)
        step(1)
        tracemalloc.start()
        try:
            step(2)
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            step(3)
            peaks[name] = tracemalloc.get_traced_memory()[1] - before
        finally:
            tracemalloc.stop()
    assert min(peaks.values()) > 1000  # numpy's arrays are seen
    assert max(peaks.values()) - min(peaks.values()) <= 2048, peaks  # Python's own objects vary a little


def test_bytes_of_a_state_grow_with_tables_only():
    """What stays in memory beyond the tables is the same for every dimension."""
    sizes = {}
    for name, features in cases().items():
        tracemalloc.start()
        try:
            kept = warm_state(features)
            sizes[name] = tracemalloc.get_traced_memory()[0]
        finally:
            tracemalloc.stop()
        assert kept
    tables = 4 * N_ENTITIES * 1024 * 8  # one copy of the largest tables, from dropping unused entities
    assert max(sizes.values()) <= min(sizes.values()) + 2 * tables, sizes


def test_new_rows_cost_the_sum_of_the_columns(monkeypatch):
    """Inner products with new entities: flops in proportion to the sum of the columns, not to their product."""
    flops = {}
    for name in ("2^12", "2^24"):
        features = four_factors(PRODUCTS[name])
        state, _ = warm_state(features)
        with monkeypatch.context() as patch:
            counter = Counter(patch)
            ScanEngine().outputs(state, features[:20])
        products = [call[1:3] for call in counter.calls if call[0] == "matmul"]
        flops[name] = sum(2 * a[0] * a[1] * b[1] for a, b in products)
    assert flops["2^12"] > 0
    assert flops["2^24"] == 8 * flops["2^12"]


def test_products_of_entities_are_made_once(monkeypatch):
    features = four_factors(8)
    with monkeypatch.context() as patch:
        counter = Counter(patch)
        _, step = warm_state(features)
        first = sum(call[0] == "matmul" for call in counter.calls)
        for k in range(1, 4):
            step(k)
        assert sum(call[0] == "matmul" for call in counter.calls) == first > 0


def test_memory_limit_of_kept_inner_products(monkeypatch):
    """Without room, inner products are computed anew at each step, with the same result."""
    features = four_factors(8)
    kept, step = warm_state(features)
    step(1)
    monkeypatch.setattr(gram, "CACHE_BYTES", 0)
    monkeypatch.setattr("kronsgd.initial.CACHE_BYTES", 0)
    counter = Counter(monkeypatch)
    anew, step = warm_state(features)
    before = len(counter.calls)
    step(1)
    assert any(call[0] == "matmul" for call in counter.calls[before:])
    mine, theirs = (ScanEngine().hidden_weights(state) for state in (anew, kept))
    np.testing.assert_allclose(mine, theirs, rtol=1e-5, atol=1e-6)


def test_factors_over_one_index_are_multiplied_once_per_entity(monkeypatch):
    """Leaves that share a row index make one gather over rows, not one for each leaf."""
    rng = np.random.default_rng(0)
    i, j = rng.integers(0, N_ENTITIES, N_ROWS), rng.integers(0, N_ENTITIES, N_ROWS)
    a, b, c, d = (Dense(rng.normal(size=(N_ENTITIES, 5))) for _ in range(4))
    for features, gathers in ((a[i] * b[i] * c[i] * d[j], 2), (a[i] * b[i], 1), ((1 + a[i]) ** 2 * c[j] + d[i], 3)):
        assert len(grouping.groups(grouping.group_by_index(features))) == gathers
        with monkeypatch.context() as patch:
            _, step = warm_state(features)
            counter = Counter(patch)
            step(1)
        over_rows = [call[2] for call in counter.calls if call[0] in ("set_rows", "multiply_rows", "add_rows")]
        in_one_pass = [call[3][1] for call in counter.calls if call[0] == "panel_tiles"]  # columns of its index
        assert sum(panel[1] <= N_ENTITIES for panel in over_rows) + sum(in_one_pass) == gathers


def test_tails_bound_the_work_of_compaction(monkeypatch):
    """Tails grow with their lists, so that all compactions of a first epoch move each coefficient a few times only."""
    moved = []
    compact = coefficients_module.Coefficients.compact
    monkeypatch.setattr(coefficients_module.Coefficients, "compact", lambda self: (moved.append(self.nnz), compact(self))[1])
    rng = np.random.default_rng(0)
    n = 4000
    a, b = (Dense(rng.normal(size=(50, 3)))[rng.integers(50, size=n)] for _ in range(2))
    network, y = TwoLayer(n_hidden=24, threshold=-1000.0, output_scale=1.0), rng.normal(size=(n, 1))
    state = ScanEngine().initialize(network, a * b)
    for rows in np.arange(n).reshape(-1, 20):
        train_step(ScanEngine(), state, LOSSES["squared"], rows, y[rows], np.ones(20), 1e-3, 0.0)
    assert state.coefficients.nnz == 24 * n
    assert 5 < len(moved) < 30  # of 200 steps
    assert sum(moved) < 8 * 24 * n
