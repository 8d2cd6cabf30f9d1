"""The paper's eager updates, written as fast as we can: an opponent of the lazy engines at small batches.

    python -m benchmarks.run paper.eager    # the measurement; this file only takes steps

Every inner product is stored: z (m, n) in float32, so that a fired neuron's update is one contiguous row of n numbers, and
K (n, n), so that a step forms no inner product at all. Memory: n·m + n² numbers. Squared loss, one output. A copy of z with a
row's neurons side by side would spare the forward pass its gathers, but every update would write n lines of cache a neuron.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

import kronsgd as ks
from kronsgd.features.gram import inverse_norms
from kronsgd.initial import InitialWeights
from kronsgd.kernels.simd import lowest_bit, prefetch
from kronsgd.network import TwoLayer

Array = NDArray[Any]
GROUPS = 64  # of neurons: the units of parallel work
TILE = 2048  # numbers of a row of z that stay in the first-level cache while all of a batch's rows are added
AHEAD = 16  # neurons between asking for a line of z, which caches rarely hold, and using it
MOST = 64  # rows of a batch: a neuron's fired rows are the bits of one word


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def forward(fired: Any, partial: Any, z: Any, rows: Any, a: Any, b: Any) -> None:
    """fired[r]: bit s is set where z[r, rows[s]] > b; partial[g, s]: Σ over group g's neurons of a_r·max(z − b, 0).

    Shape: fired (m,) uint64, partial (GROUPS, S), z (m, n), rows (S,), a (m,). Cost: S·m lines of cache.
    """
    m, n = z.shape
    flat = z.reshape(m * n)
    for group in prange(GROUPS):
        low, high = group * m // GROUPS, (group + 1) * m // GROUPS
        partial[group] = 0
        for r in range(low, high):
            bits = np.uint64(0)
            ahead = min(r + AHEAD, m - 1) * n
            for s in range(len(rows)):
                prefetch(flat, ahead + rows[s])
                excess = max(z[r, rows[s]] - b, np.float32(0))
                partial[group, s] += a[r] * excess
                bits |= np.uint64(excess > 0) << np.uint64(s)
            fired[r] = bits


@njit(cache=True, parallel=True, fastmath={"contract"}, error_model="numpy")
def update(z: Any, K: Any, fired: Any, rows: Any, slopes: Any, a: Any) -> None:
    """z[r] += Σ_s slopes[s]·a_r·K[rows[s]] over the rows that neuron r fires on.

    Shape: z (m, n), K (n, n), fired (m,), rows, slopes (S,), a (m,). Cost: 2·n flops for each fired pair.
    """
    n = z.shape[1]
    firing = np.flatnonzero(fired)
    for k in prange(len(firing)):
        r = firing[k]
        own, c, count, bits = np.empty(MOST, np.int64), np.empty(MOST, z.dtype), 0, fired[r]
        while bits != 0:
            s = lowest_bit(bits)
            bits &= bits - np.uint64(1)
            own[count], c[count] = rows[s], slopes[s] * a[r]
            count += 1
        for first in range(0, n, TILE):
            last = min(first + TILE, n)
            out = z[r, first:last]
            for p in range(0, count - 3, 4):  # four rows at a time load and store z a quarter as often
                x0, x1 = K[own[p], first:last], K[own[p + 1], first:last]
                x2, x3 = K[own[p + 2], first:last], K[own[p + 3], first:last]
                c0, c1, c2, c3 = c[p], c[p + 1], c[p + 2], c[p + 3]
                for i in range(last - first):
                    out[i] += (c0 * x0[i] + c1 * x1[i]) + (c2 * x2[i] + c3 * x3[i])
            for p in range(count - count % 4, count):
                x0, c0 = K[own[p], first:last], c[p]
                for i in range(last - first):
                    out[i] += c0 * x0[i]


class EagerTwin:
    """SGD on squared loss with every inner product stored. Run it inside `kronsgd.parallel.threads`."""

    def __init__(self, features: ks.Features, targets: Array, network: TwoLayer, batch: int, rate: float) -> None:
        """Shape: targets (n, 1). ValueError for what the paper's network does not have, or batches above 64 rows."""
        if network.n_outputs != 1 or network.train_output or not 1 <= batch <= MOST:
            raise ValueError(f"one output, fixed output weights, and at most {MOST} rows a batch; got {network}, {batch} rows.")
        n, m = features.n_rows, network.n_hidden
        self.scale, self.threshold, self.rate = network.scale, np.float32(network.threshold), rate
        self.a = network.output_weights()[:, 0].astype(np.float32)
        self.y = targets[:, 0]
        norms = inverse_norms(features, True)
        self.K = np.ascontiguousarray(features.inner() * norms[:, None] * norms, dtype=np.float32)
        self.z = np.empty((m, n), dtype=np.float32)
        start = InitialWeights(network, features).values(features, True, np.float32)
        for first in range(0, n, 256):
            rows = np.arange(first, min(first + 256, n))
            self.z[:, rows] = start(rows).T
        self.fired = np.zeros(m, dtype=np.uint64)
        self.partial = np.empty((GROUPS, batch), dtype=np.float32)

    def step(self, rows: NDArray[np.int64]) -> float:
        """One step on sorted or unsorted rows. Returns the summed loss before it."""
        partial = self.partial[:, : len(rows)]
        forward(self.fired, partial, self.z, rows, self.a, self.threshold)
        residual = self.scale * partial.sum(axis=0, dtype=np.float64) - self.y[rows]
        slopes = (-self.rate * self.scale / len(rows) * residual).astype(np.float32)
        update(self.z, self.K, self.fired, rows, slopes, self.a)
        return float(0.5 * (residual**2).sum())

    @property
    def n_fired(self) -> int:
        """(row, neuron) pairs that fired in the last step."""
        return int(np.bitwise_count(self.fired).sum())

    @property
    def bytes(self) -> int:
        """Of what is stored."""
        return int(self.z.nbytes + self.K.nbytes)


def check_equal(batch: int) -> float:
    """The scan engine takes the same steps. Largest relative difference of losses and of stored values; asserts 1e-4."""
    from benchmarks.problems import Training, automatic, cycle, random_pairs

    pairs, network = random_pairs(256, (16, 16), 64), automatic(512)
    rate = 10.0 if batch > 1 else 1.0
    ours, twin = Training(pairs.X, pairs.y, network, batch, rate), EagerTwin(pairs.X, pairs.y, network, batch, rate)
    before, batches, losses = twin.z.copy(), cycle(256, batch), []
    for _ in range(min(4 * 256 // batch, 256)):
        rows = next(batches)
        losses.append((ours.step(rows), twin.step(rows)))
    mine, theirs = np.array(losses).T
    difference = float(np.abs(theirs - mine).max() / mine.mean())
    z = before + np.asarray(ours.state.coefficients.matrix(256) @ twin.K)
    moved = float(np.linalg.norm(z - before))
    assert moved > 1.0, "the steps do not move anything, so nothing is checked"
    difference = max(difference, float(np.linalg.norm(twin.z - z)) / moved)
    assert difference < 1e-4, (batch, difference)
    return difference
