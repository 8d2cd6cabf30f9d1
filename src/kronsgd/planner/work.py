"""What one step of each engine computes, phase by phase: counted, never timed."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from kronsgd.engines.dense import TILE
from kronsgd.engines.scan import lanes_for
from kronsgd.kernels.tree import DIRECTIONS
from kronsgd.planner.problem import Problem

__all__ = ["ON_HOST", "STEP_WORK", "Work", "epoch_steps", "grid_cells", "grid_lanes"]


LOOSE = 1.7  # pairs that the tree engine evaluates, in multiples of those that fire (measured)
LONGER = 1.5  # their neurons' lists, in multiples of the mean: who fires here fires often
LINE = 64  # bytes of a cache line
CACHE = 4 << 20  # bytes that stay near a core, where they are read NEAR times as fast as from memory
NEAR = 4
STREAMED = 5  # times as fast as other bytes: long rows that are read, added to and written
RECORD = 100  # operations of putting a coefficient into a list that nobody reads in that step: mostly waiting for memory
ON_HOST = "inner products"  # the phase of the torch engine that is numpy's, wherever the rest is done


@dataclass(frozen=True)
class Work:
    """Operations of one kind each; `rates.Rates` says what they cost."""

    gemm: float = 0  # flops in matrix products
    lanes: float = 0  # flops in sums of rows of a batch's width
    tiles: float = 0  # flops in sums of such rows, several at a time
    moved: float = 0  # bytes of arrays that are passed over
    gathered: float = 0  # numbers picked one by one from all over a table
    scalar: float = 0  # operations one by one
    calls: float = 0  # calls from Python

    @property
    def flops(self) -> float:
        """All floating-point operations."""
        return self.gemm + self.lanes + self.tiles + self.scalar


def _dense(p: Problem) -> dict[str, Work]:
    size, m, d = p.schedule.batch_size, p.network.n_hidden, p.d
    tiles = -(-m // TILE)
    product = 2.0 * size * m * d
    pairs = float(size * m * p.itemsize)
    return {
        "forward": Work(gemm=product, moved=p.itemsize * (0.5 * m * d + 2.5 * size * d) + 3 * pairs, calls=6 + 4 * tiles),
        "backward": Work(gemm=2.0 * size * m * p.network.n_outputs, moved=2 * pairs, calls=6),
        "update": Work(gemm=product, moved=p.itemsize * (m * d + 2.5 * size * d) + pairs, calls=3 + 3 * tiles),
    }


def _scan(p: Problem) -> dict[str, Work]:
    return _lazy(p, lanes_for(p.schedule.batch_size))


def _lazy(p: Problem, lanes: int) -> dict[str, Work]:
    """Panels of so many columns, and every neuron evaluated."""
    size, m, n, c, item = p.schedule.batch_size, p.network.n_hidden, p.n_rows, p.network.n_outputs, p.itemsize
    width = -(-size // lanes) * lanes
    entities = sum(table.entities for table in p.tables)
    kept = p.kept()
    anew = sum(2.0 * table.entities * size * table.dim for table in p.tables if table not in kept)
    factors = max(len(p.tables), p.passes)
    fired = p.fired * size * m
    return {
        "panel": Work(
            gemm=anew, moved=item * width * (0.8 * n * p.passes + 6.0 * entities), calls=16 + 4 * factors
        ),
        "start": Work(gathered=float(size * m * (1 if p.rank < 2 else 2 * p.rank) * len(p.tables)), calls=6),
        "coefficients": Work(lanes=2.0 * width * (p.alpha * n * m + m * c), moved=1.5 * item * width * m, calls=12),
        "record": Work(scalar=fired * (2 * c + math.log2(2 + p.alpha * n)) + m * width / 64, calls=3),
    }


def _tree(p: Problem) -> dict[str, Work]:
    size, m, c = p.schedule.batch_size, p.network.n_hidden, p.network.n_outputs
    fired, evaluated = p.fired * size * m, min(1.0, LOOSE * p.fired) * size * m
    scan = _lazy(p, 1)
    return {
        "panel": scan["panel"],
        "start": scan["start"],
        "bounds": Work(moved=10.0 * size * m, scalar=8 * evaluated, calls=14),
        "evaluation": Work(scalar=evaluated * LONGER * p.alpha * p.n_rows),
        "update": Work(scalar=fired * (2 * c + 2 * DIRECTIONS + math.log2(2 + p.alpha * p.n_rows)), moved=8.0 * m, calls=25),
    }


def _eager(p: Problem) -> dict[str, Work]:
    size, m, n, c, item = p.schedule.batch_size, p.network.n_hidden, p.n_rows, p.network.n_outputs, p.itemsize
    fired, neurons = p.fired * size * m, (1 - (1 - p.fired) ** size) * m
    scan, near = _lazy(p, 1), NEAR if m * n * item <= CACHE else 1
    return {
        "panel": scan["panel"],
        "start": scan["start"],
        "look-up": Work(moved=float(LINE * size * m / near), scalar=2 * c * fired, calls=12),
        "update": Work(moved=2 * item * n * (neurons / near + fired / 8) / STREAMED, calls=10),
        "record": Work(scalar=fired * (2 * c + RECORD / near) + m, calls=8),
    }


def grid_lanes(p: Problem) -> int:
    """Most outer entities of a strip."""
    return 16 if p.schedule.block_size < 256 else 64


def grid_cells(p: Problem) -> tuple[float, float]:
    """(tile rows, cells) of one step of blocks with about batch_size rows: unobserved pairs between them are visited too."""
    assert p.sides is not None
    inner, outer, _ = p.sides
    strips = -(-outer // grid_lanes(p))
    if not p.schedule.blocks:  # random rows fall into all strips
        return (rows := float(min(p.schedule.batch_size, inner * strips))), rows * outer / strips
    observed = p.n_rows / strips / inner  # rows of a strip at one inner entity
    rows = min(float(inner), max(1.0, p.schedule.block_size / max(observed, 1e-9)))
    return rows, rows * outer / strips


def epoch_steps(engine: str, p: Problem) -> int:
    """Batches that visit every row once; blocks never reach over several strips."""
    if engine != "grid" or not p.schedule.blocks:
        return -(-p.n_rows // p.schedule.batch_size)
    assert p.sides is not None
    inner, outer, _ = p.sides
    return -(-outer // grid_lanes(p)) * math.ceil(inner / grid_cells(p)[0])


def _grid(p: Problem) -> dict[str, Work]:
    assert p.sides is not None
    inner, outer, pairs = p.sides
    m, c, item, lanes = p.network.n_hidden, p.network.n_outputs, p.itemsize, grid_lanes(p)
    strips = -(-outer // lanes)
    rows, _ = grid_cells(p)
    cells = rows * lanes
    fired = p.fired * cells * pairs / (inner * outer) * m
    share = strips / epoch_steps("grid", p) if p.schedule.blocks else strips  # strips made, for each step
    return {
        "strip": Work(lanes=2.0 * lanes * p.alpha * pairs * m * share, moved=item * m * inner * lanes * share, calls=10),
        "activate": Work(
            tiles=2.0 * cells * (inner + p.network.init_rank + c) * m, moved=1.5 * item * cells * m, calls=90
        ),
        "record": Work(lanes=2.0 * lanes * fired, scalar=fired * (2 * c + 4) + m * rows, calls=15),
    }


def _torch(p: Problem) -> dict[str, Work]:
    size, m, n, c, item = p.schedule.batch_size, p.network.n_hidden, p.n_rows, p.network.n_outputs, p.itemsize
    groups, pairs = len(p.tables), float(size * m)
    anew = sum(2.0 * table.entities * size * table.dim for table in p.tables if table not in p.kept())
    return {
        **({ON_HOST: Work(gemm=anew, calls=10)} if anew else {}),
        "panel": Work(moved=item * size * n * (3.0 * groups + 3), calls=8 + 3 * groups),
        "start": Work(moved=item * pairs * (2.0 * groups + 4) * max(p.rank, 1), calls=8 + 2 * groups),
        "coefficients": Work(gemm=2.0 * size * m * (n + c), moved=item * (float(n) * m + 6 * pairs), calls=14),
        "update": Work(gemm=2.0 * pairs * c, moved=item * 6 * pairs, calls=14),
    }


STEP_WORK: dict[str, Callable[[Problem], dict[str, Work]]] = {
    "dense": _dense, "scan": _scan, "grid": _grid, "tree": _tree, "eager": _eager, "torch": _torch,
}  # fmt: skip
