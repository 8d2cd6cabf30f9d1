"""Peak memory of a whole fit, counted: everything that is allocated beside the caller's own rows and tables.

Each engine says what is alive in every stage of a fit; the peak is that of the worst stage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from kronsgd.engines.base import PREDICT_BATCH
from kronsgd.engines.coefficients import LISTS_PER_TAIL, STEPS, TAIL
from kronsgd.engines.dense import TILE
from kronsgd.engines.grid import PREDICT_ROWS
from kronsgd.engines.scan import lanes_for
from kronsgd.engines.segments import SHORT, bits_for
from kronsgd.engines.tensors import TILE as LISTED
from kronsgd.features.nystrom import CHUNK, LANDMARKS
from kronsgd.initial import CACHE_BYTES, LOT, MOST_DRAWS
from kronsgd.kernels.eager import COLUMNS
from kronsgd.kernels.grid import ROWS
from kronsgd.kernels.scan import LANES
from kronsgd.kernels.tree import DIRECTIONS, LEVELS
from kronsgd.parallel import n_threads
from kronsgd.planner.problem import Problem, Table
from kronsgd.planner.work import grid_cells, grid_lanes

__all__ = ["ON_GPU", "PEAK_STAGES", "device_parts", "peak_bytes"]

Parts = Mapping[str, float]  # what takes the memory -> bytes
SLACK, FIXED = 1.02, 768 * 1024  # for what is not counted: allocators, Python objects
UNEVEN = 1.1  # mean room of a tail for batches over that of a neuron that fires like the average one
ROW_VECTORS = 4  # numbers of 8 bytes for each row: weights, shuffled order, batches, row numbers
HELD_OUT = 3  # more where some rows are held out: what is left has indices of its own
GROWN = 0.84  # of all coefficients are in the lists that the last compaction of an only epoch finds (measured: 0.71 to 0.83)
TARGET_VECTORS = 4  # copies of the targets
SETTING_UP = 9, TARGET_VECTORS  # both, while rows are checked and sorted, before anything else is made
COPIES = 4  # of α's lists, kept as the best model and while they are written anew
WORKSPACE = 72 << 20  # of PyTorch's matrix products (63 MiB were measured on a processor)
ON_GPU = "torch on a GPU"  # the engine, where its device has memory of its own


def peak_bytes(engine: str, p: Problem) -> tuple[float, Parts]:
    """(bytes, what they are) of the worst moment of a fit."""
    parts: Parts = max(PEAK_STAGES[engine](p), key=lambda stage: sum(stage.values()))
    row, target = ROW_VECTORS + (HELD_OUT if p.schedule.validation else 0), TARGET_VECTORS
    if sum(parts.values()) < 8.0 * p.n_rows * (SETTING_UP[0] - row + (SETTING_UP[1] - target) * p.network.n_outputs):
        parts, (row, target) = {}, SETTING_UP  # the rows themselves, while they are checked and planned for
    rows = 8.0 * p.n_rows * (row + target * p.network.n_outputs) + p.copied + _spans(p)
    parts = {"rows": rows, "output weights": _output_weights(p), **parts}
    return SLACK * sum(parts.values()) + FIXED, parts


def _output_weights(p: Problem) -> float:
    """a, (m, C) and quadratic in the number of networks; where it is trained also its change, the sum, and a mask."""
    one = float(p.network.n_hidden * p.network.n_outputs)
    return one * (3 * p.itemsize + 1 if p.network.train_output else p.itemsize)


def _spans(p: Problem) -> float:
    """Inverse roots of kernel tables, which stay with them."""
    return sum(8.0 * table.span**2 for table in p.tables)


def _tangent(p: Problem) -> float:
    """A tangent kernel of the probed rows: hidden values and fired pairs in float64, and matrices between rows; its
    eigenvectors."""
    rows, item = p.schedule.probe, max(table.itemsize for table in p.tables)
    inner = rows**2 * (8.0 + p.inner_arrays * item) + p.scratch
    return max(16.0 * rows * p.network.n_hidden + inner, 24.0 * rows**2)


def _projection(p: Problem) -> float:
    """The most that is alive while a block of a table's starting values is made."""
    block = max(size for _, _, size in p.network.block_sizes())
    draws = [8.0 * block * max(p.rank, 1) * (t.entities + 3 * min(t.dim, 1e6)) for t in p.tables]
    spans = [8.0 * 3 * t.entities * t.span for t in p.tables]
    return max(d + s for d, s in zip(draws, spans, strict=True)) + p.scratch


def _started(p: Problem) -> float:
    """Starting values that are kept: of entities, or of rows where weights are true Gaussians."""
    one = p.network.n_hidden * p.itemsize * max(p.rank, 1)
    if not p.rank:
        return float(p.n_rows * one) if p.n_rows * one <= CACHE_BYTES else 0.0
    return sum(float(t.entities) for t in p.kept(p.network.n_hidden * p.rank)) * one


def _lots(p: Problem) -> float:
    """The most that is alive while a lot of entities is projected: draws for some blocks, and the lot's values."""
    rank = max(p.rank, 1)
    block = 8.0 * max(size for _, _, size in p.network.block_sizes()) * rank
    draws = max(max(MOST_DRAWS, block * min(t.dim, 1e6)) + 2 * block * min(t.dim, 1e6) for t in p.tables)
    return draws + 3 * 8.0 * LOT * p.network.n_hidden * rank + max(8.0 * 2 * t.span**2 + t.scratch for t in p.tables)


def _grams(tables: Sequence[Table], itemsize: int) -> tuple[float, float]:
    """(bytes of the inner products between entities, most that is alive on top while they are made)."""
    made = [float(t.entities) ** 2 for t in tables]
    extra = [
        count * max(t.itemsize * t.gram_arrays - itemsize, t.itemsize if t.itemsize != itemsize else 0) + t.scratch
        for count, t in zip(made, tables, strict=True)
    ]
    return itemsize * sum(made), max(extra, default=0.0)


def _lists(
    p: Problem, count: float, n_slices: int, size: float, place: float = 2.0
) -> tuple[dict[str, float], dict[str, float], dict[str, float]]:
    """α by neuron, of rows or cells: (while it is compacted, at rest and as the best model too, while that is saved).

    Lists in slices, where a place takes so many bytes, and tails with room for a quarter of the lists and for eight batches
    of `size`. A saved list has plain row numbers.
    """
    m, entry, value = p.network.n_hidden, 4.0 + p.itemsize, 2.0 if p.network.narrow else float(p.itemsize)
    mean, bounds, merged = count * p.alpha_last, 8.0 * m * n_slices, GROWN if p.schedule.one_epoch else 1.0
    added = STEPS * p.fired * size
    room = _larger(merged * mean / LISTS_PER_TAIL, UNEVEN * max(TAIL, added)) + (UNEVEN - 1) * 4 * (1 - p.fired) ** 2 * added
    tails, lists = m * room * entry, (place + value) * mean * m
    saved = (4.0 + value) * mean * m + 8.0 * m + tails
    compacting = {"tails": tails, "coefficients": (1 + merged) * lists + bounds, "compaction": 4.0 * m * room + 3 * bounds}
    at_rest = {"tails": tails, "coefficients": lists + bounds, "best model": saved}
    return compacting, at_rest, {**at_rest, "best model": 2 * saved}


def _larger(a: float, b: float) -> float:
    """Mean of the larger of two positive numbers that vary between neurons around a and b."""
    return float((a**3 + b**3) ** (1 / 3))


def _largest_batch(p: Problem) -> int:
    """Rows of the largest batch: a block takes whole groups of inner entities."""
    if not p.schedule.blocks or p.sides is None:
        return p.schedule.batch_size
    inner, outer, _ = p.sides
    strip = p.n_rows / -(-outer // grid_lanes(p))
    step = ROWS if inner * p.schedule.batch_size >= ROWS * strip else 1
    units, parts = -(-inner // step), max(round(strip / p.schedule.batch_size), 1)
    return min(p.n_rows, math.ceil(-(-units // parts) * strip / units))


def _in_tiles(rows: int) -> int:
    """Columns of all tiles of a batch."""
    return -(-rows // lanes_for(rows)) * lanes_for(rows)


def _scan(p: Problem, place: float = 2.0, at_once: bool = False) -> list[dict[str, float]]:
    """at_once: panels of whole batches, also of the rows that are probed, as the tree engine makes them."""
    m, n, item, rank, size = p.network.n_hidden, p.n_rows, p.itemsize, p.rank, _largest_batch(p)
    entities = float(sum(table.entities for table in p.tables))
    grams, making_grams = _grams(p.kept(), item)
    started = _started(p)
    anew = max((table.scratch for table in p.tables if table not in p.kept()), default=0)  # for every panel
    making = _lots(p) if rank else 8.0 * p.d * (2 * n + m / 64)
    two_batches = p.network.exchange.size > 1 and p.network.train_output  # the gradient of one, while the next begins

    def evaluated(rows: int) -> dict[str, float]:
        lanes, width = lanes_for(rows), _in_tiles(rows)
        columns = width if at_once or p.passes > 1 else lanes
        hidden = m * width * (item + 2 / 8) + 8.0 * m + 64 * p.network.n_outputs * width * item
        values = 0.0 if rank and p.passes == 1 else float(rows * m * item * (len(p.tables) + 2) * max(rank, 1))
        panel = float(n * columns * item) * (1 + p.nested) + anew
        return {"panel": panel, "hidden": hidden + values, "entity panels": entities * width * item}

    compacting, at_rest, saving = _lists(p, n, (n - 1 >> bits_for(p.alpha_last, item)) + 1, size, place)
    base = {"row norms": n * (16.0 + item + 4 * len(p.tables)), "tails": at_rest["tails"], "entity inner products": grams}
    fresh = {**base, "starting values": started, **evaluated(max(size, p.schedule.probe))}
    step = evaluated(size)
    state = fresh if at_once else {**fresh, "panel": step["panel"], "entity panels": step["entity panels"]}
    state = {**state, "next batch": two_batches * float(m * _in_tiles(size) * item)}
    if not at_once:  # no panel is made before anything is learned
        fresh |= {"entity inner products": 0.0, "panel": 0.0, "entity panels": 0.0}
    stages = [
        {**state, "starting values": 0.0 if at_once else started, "making inner products": making_grams},
        {**fresh, "making starting values": making},
        {**fresh, "choosing the step": _tangent(p)},
        {**state, **compacting},
    ]
    if p.schedule.validation:
        held = p.schedule.validation
        view = evaluated(min(PREDICT_BATCH, held))
        tables = 1.5 * item * m * max(rank, 1) * sum(t.entities * (1 - math.exp(-held / t.entities)) for t in p.tables)
        passing_new = 4 * view.pop("entity panels")  # in the tables' own precision, and then in tiles
        validating = {"validation": sum(view.values()) + max(passing_new, tables) + p.scratch}
        best = {"best model": at_rest["best model"]}
        stages += [{**state, **compacting, **best}, {**state, **at_rest, **validating}, {**state, **saving}]
    return stages


def _tree(p: Problem) -> list[dict[str, float]]:
    m, n, c, item, size = p.network.n_hidden, p.n_rows, p.network.n_outputs, p.itemsize, _largest_batch(p)
    rows, block = max(size, p.schedule.probe), max(size for _, _, size in p.network.block_sizes())
    bounds = 4.0 * ((DIRECTIONS + len(LEVELS)) * n + (DIRECTIONS + len(LEVELS) + 2) * m) + 24.0 * m
    pairs = rows * 64.0 * (block * (12 + item) + c * item)
    landmarks, stages = float(min(n, LANDMARKS)), _scan(p, 4.0, at_once=True)
    inner = min(n, CHUNK) * landmarks * 8 * p.inner_arrays + 4 * 8 * landmarks**2 + p.scratch
    making = {"row norms": stages[0]["row norms"], "bounds": bounds, "making directions": inner}
    return [making, *({**stage, "bounds": bounds, "pairs": pairs} for stage in stages)]


def _eager(p: Problem) -> list[dict[str, float]]:
    m, n, item = p.network.n_hidden, p.n_rows, p.itemsize
    filling = float(n * max(COLUMNS, _largest_batch(p)) * item) * (1 + p.nested)

    def stage(scan: dict[str, float]) -> dict[str, float]:
        return {**scan, "panel": max(scan.get("panel", 0.0), filling), "stored inner products": float(m * n * item)}

    return [stage(scan) for scan in _scan(p)]


def _dense(p: Problem) -> list[dict[str, float]]:
    m, n, item, d, size = p.network.n_hidden, p.n_rows, p.itemsize, float(p.d), _largest_batch(p)
    block = max(size for _, _, size in p.network.block_sizes())
    weights, rows = m * d * item, n * d * item
    state = {"weights": 2 * weights, "rows of the product": rows}

    def step(count: int) -> float:
        return count * (2 * d * item + m * (2.0 * item + 1)) + min(m, TILE * n_threads()) * d * item

    stages = [
        {"making weights": 16.0 * m * d + 8.0 * block * max(p.rank, 1) * d},
        {"weights": weights, "making rows": n * d * (8 + max(p.coordinate_size, item)) + p.scratch},
        {**state, "choosing the step": max(step(p.schedule.probe), _tangent(p))},
        {**state, "weights": 3 * weights, "step": step(size)},
    ]
    if p.schedule.validation:
        stages += [
            {**state, "weights": 4 * weights, "step": step(size)},
            {**state, "weights": 4 * weights, "validation": min(PREDICT_BATCH, p.schedule.validation) * (m * item + 16.0 * d)},
            {**state, "weights": 5 * weights},
        ]
    return stages


def _grid(p: Problem) -> list[dict[str, float]]:
    assert p.sides is not None
    inner, outer, pairs = p.sides
    m, item = p.network.n_hidden, p.itemsize
    (rows, cells), lanes = grid_cells(p), grid_lanes(p)
    place = 2.0 if outer <= 1 << SHORT else 4.0
    compacting, at_rest, saving = _lists(p, pairs, inner, cells * pairs / (inner * outer), place)
    started = float(inner + outer) * m * max(p.rank, 1) * item
    outputs = p.network.n_outputs * rows * lanes * ((len(p.network.blocks) - 1) * item + 16.0)
    state = {
        "row norms": 48.0 * p.n_rows, "partial outputs": outputs, "tails": at_rest["tails"],
        "entity inner products": float(inner**2 + outer**2) * item,
        "starting values": started, "strip": float(m * (inner + p.rank) * lanes * item),
        "hidden": m * (rows + 4) * lanes * item,
    }  # fmt: skip
    stages = [
        {**state, "making tables": max(started, _projection(p))},
        {**state, "choosing the step": _tangent(p)},
        {**state, **compacting},
    ]
    if p.schedule.validation:
        strip, tile = LANES[-1] * float(inner + p.rank), LANES[-1] * float(min(PREDICT_ROWS, inner))
        validating = {"validation": m * item * (strip + tile) + 3 * started + p.scratch}
        best = {"best model": at_rest["best model"]}
        stages += [{**state, **compacting, **best, **validating}, {**state, **at_rest, **validating}, {**state, **saving}]
    return stages


def device_parts(p: Problem) -> Parts:
    """What the torch engine keeps on its device, where that has memory of its own, at the worst moment of a fit."""
    m, n, c, item = p.network.n_hidden, float(p.n_rows), p.network.n_outputs, p.itemsize
    size = max(p.schedule.batch_size, p.schedule.probe, min(PREDICT_BATCH, p.schedule.validation))
    groups, rank, tile = len(p.tables), max(p.rank, 1), min(float(LISTED), n * m)
    return {
        "coefficients": n * m * item,
        "tables": _grams(p.kept(), item)[0] + sum(float(t.entities) for t in p.kept(m * rank)) * m * rank * item,
        "rows": n * (item + 4.0 * groups), "panel": n * size * item * (1.0 + min(groups, 2)),
        "hidden": size * m * item * ((1.0 + min(groups, 2)) * rank + 3) + 2.0 * m * c * item,
        "lists": tile * (item + p.alpha_last * (24.0 + item)), "workspace": float(WORKSPACE),
    }  # fmt: skip


def _torch(p: Problem) -> list[dict[str, float]]:
    """All of it, where the device is the processor."""
    device = dict(device_parts(p))
    tables, lists = device.pop("tables"), device.pop("lists")  # the tables are the host's own
    stages = _torch_host(p, tables)
    return [*({**stage, **device} for stage in stages), {**stages[-1], **device, "lists": lists}]


def _torch_host(p: Problem, tables: float | None = None) -> list[dict[str, float]]:
    """What is numpy's, beside a device with memory of its own."""
    m, n, item = p.network.n_hidden, float(p.n_rows), p.itemsize
    grams, making_grams = _grams(p.kept(), item)
    tables = device_parts(p)["tables"] if tables is None else tables
    lists = n * m * p.alpha_last * (4.0 + item) + 8.0 * m
    state = {"row norms": n * (16.0 + item + 8 * len(p.tables)), "tables": tables}
    stages = [
        {**state, "tables": grams, "making inner products": making_grams},
        {**state, "making starting values": _lots(p) if p.rank else 8.0 * p.d * (2 * n + m / 64)},
        {**state, "choosing the step": _tangent(p)},
    ]
    return [*stages, {**state, "best model": COPIES * lists}] if p.schedule.validation else stages


Stages = Callable[[Problem], list[dict[str, float]]]
PEAK_STAGES: dict[str, Stages] = {
    "dense": _dense, "scan": _scan, "grid": _grid, "tree": _tree, "eager": _eager, "torch": _torch, ON_GPU: _torch_host,
}  # fmt: skip
