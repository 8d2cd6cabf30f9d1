"""The paper's max-tree over stored inner products against comparing all m of them, both compiled, on one core.

    python -m benchmarks.run paper.stored_tree
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from benchmarks.common import interleaved, plot, report
from kronsgd.kernels.simd import lowest_bit
from kronsgd.network import auto_threshold

Array = NDArray[Any]
NEURONS = [2**k for k in range(10, 21, 2)]
POOL = 2**23  # stored values: enough rows that neither caches nor branch predictors know the next one
BATCH, REPETITIONS = 64, 40


@njit(cache=True)
def tree_query(nodes: Any, rows: Any, b: Any, out: Any, counts: Any) -> None:
    """Leaves above b of some rows, ascending, and how many. Shape: nodes (n, 2m) heaps, rows, counts (S,), out (S, m)."""
    m, stack = nodes.shape[1] // 2, np.empty(64, np.int64)
    for s in range(len(rows)):
        tree, found, count, top = nodes[rows[s]], out[s], 0, 0
        if tree[1] > b:
            stack[0], top = 1, 1
        while top:
            top -= 1
            k = stack[top]
            while k < m:  # an open node has an open child: go on with it, keep the other for later
                left, right = tree[2 * k] > b, tree[2 * k + 1] > b
                if left and right:
                    stack[top] = 2 * k + 1
                    top += 1
                k = 2 * k + (0 if left else 1)
            found[count] = k - m
            count += 1
        counts[s] = count


@njit(cache=True)
def flat_query(values: Any, rows: Any, b: Any, out: Any, counts: Any) -> None:
    """The same from the values themselves. Shape: values (n, m)."""
    m = values.shape[1]
    mask = np.empty(m, np.uint8)
    words = mask.view(np.uint64)
    for s in range(len(rows)):
        row, found, count = values[rows[s]], out[s], 0
        for r in range(m):
            mask[r] = row[r] > b
        for w in range(len(words)):
            word = words[w]
            while word != 0:
                found[count] = 8 * w + (lowest_bit(word) >> 3)
                count += 1
                word &= word - np.uint64(1)
        counts[s] = count


@njit(cache=True)
def tree_update(nodes: Any, rows: Any, leaves: Any, counts: Any, new: Any) -> None:
    """A new value for some leaves of some rows, each with its ancestors. Cost: log₂ m nodes for each."""
    m = nodes.shape[1] // 2
    for s in range(len(rows)):
        tree = nodes[rows[s]]
        for p in range(counts[s]):
            k = m + leaves[s, p]
            tree[k] = new
            while k > 1:
                k >>= 1
                tree[k] = max(tree[2 * k], tree[2 * k + 1])


@njit(cache=True)
def flat_update(values: Any, rows: Any, leaves: Any, counts: Any, new: Any) -> None:
    """New values, and nothing else."""
    for s in range(len(rows)):
        row = values[rows[s]]
        for p in range(counts[s]):
            row[leaves[s, p]] = new


def heap(values: Array) -> Array:
    """Max-trees of several rows. Shape: values (n, m), m a power of two -> (n, 2m)."""
    nodes = np.empty((len(values), 2 * values.shape[1]), dtype=values.dtype)
    nodes[:, values.shape[1] :] = values
    for k in range(values.shape[1].bit_length() - 2, -1, -1):
        low = 1 << k
        nodes[:, low : 2 * low] = nodes[:, 2 * low : 4 * low].reshape(len(values), low, 2).max(axis=2)
    return nodes


def contestants(values: Array, b: Any) -> dict[str, Callable[[], Any]]:
    """What is timed: queries of a random batch of rows, and, in copies of their own, updates of as many leaves as fire."""
    n, m = values.shape
    nodes, rng, size = heap(values), np.random.default_rng(1), min(BATCH, n)
    out, counts = np.empty((size, m), np.int64), np.empty(size, np.int64)
    fired, n_fired = out.copy(), counts.copy()
    for query, table in ((flat_query, values), (tree_query, nodes)):
        rows = rng.permutation(n)[:size]
        query(table, rows, b, fired, n_fired)
        for i, leaves, count in zip(rows, fired, n_fired, strict=True):
            assert np.array_equal(leaves[:count], np.flatnonzero(values[i] > b))

    changed, changed_nodes = values.copy(), nodes.copy()

    def batch() -> Any:
        return rng.permutation(n)[:size]

    return {
        "tree, query": lambda: tree_query(nodes, batch(), b, out, counts),
        "flat, query": lambda: flat_query(values, batch(), b, out, counts),
        "tree, update": lambda: tree_update(changed_nodes, batch(), fired, n_fired, b),
        "flat, update": lambda: flat_update(changed, batch(), fired, n_fired, b),
    }


def measure(m: int) -> dict[str, Any]:
    """Microseconds for one row."""
    b = np.float32(auto_threshold(m))
    values = np.random.default_rng(0).standard_normal((POOL // m, m)).astype(np.float32)
    fired, size = 100 * float(np.mean(values > b)), min(BATCH, len(values))
    seconds = interleaved(contestants(values, b), REPETITIONS, warm=2, of=np.min)
    us = {name: 1e6 * s / size for name, s in seconds.items()}
    return {
        "neurons m": m, "fired %": fired, **{f"{name}, µs": t for name, t in us.items()},
        "query: tree / flat": us["tree, query"] / us["flat, query"],
        "update: tree / flat": us["tree, update"] / us["flat, update"],
    }  # fmt: skip


def main() -> None:
    """Each width on its own."""
    rows = [measure(m) for m in NEURONS]
    plot("paper.stored_tree", lambda axes: _draw(axes, rows))
    report("paper.stored_tree", "A tree over stored inner products loses to comparing all of them",
           rows,
           "Standard normal values in float32, b = √(0.4 ln m), one core; µs for one row, batches of up to "
           f"{BATCH} random rows, the fastest of {REPETITIONS} in turns. Update: a value for as many neurons as fire. Queries "
           "give equal sets.")  # fmt: skip


def _draw(axes: Any, rows: list[dict[str, Any]]) -> None:
    m = [row["neurons m"] for row in rows]
    for name in ("tree, query, µs", "flat, query, µs", "tree, update, µs", "flat, update, µs"):
        axes.plot(m, [row[name] for row in rows], "o-" if "tree" in name else "s--", label=name.removesuffix(", µs"))
    axes.set(xscale="log", yscale="log", xlabel="neurons m", ylabel="µs for one row")
    axes.legend(fontsize=8)
