"""The torch engine on the device that is there, beside a dense PyTorch layer, the scan engine, and the device's own peak.

    python -m benchmarks.run gpu    # on a machine with a GPU; without one, a small size on the processor, which it says

Equal first: the same losses and coefficients as the scan engine, and the same bits on a second run.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from benchmarks.common import available_memory, interleaved, report
from benchmarks.opponents import TorchDense
from benchmarks.problems import Pairs, Training, automatic, random_pairs
from kronsgd.engines.device import Device
from kronsgd.parallel import threads
from kronsgd.planner import Schedule, make_plan
from kronsgd.planner.gpu import gpu_in_use

BATCH, RATE, COLUMNS = 64, 1.0, (256, 256)
SIZES = {  # rows, neurons, entities of each table
    True: ((8192, 8192, 512), (100_000, 65_536, 2048)),
    False: ((2048, 2048, 256),),
}
SMALL = (512, 512, 64)
ROOM = 0.8  # share of free memory that a dense layer may take


def problem(n: int, entities: int, columns: tuple[int, ...] = COLUMNS) -> Pairs:
    """Random pairs."""
    return random_pairs(n, columns, entities)


def check_equal() -> dict[str, float]:
    """Two epochs of a small copy with scan and torch, and again with torch. Largest relative differences; asserts limits."""
    n, m, entities = SMALL
    pairs, found = problem(n, entities, (32, 32)), {}
    for dtype, limit in (("float64", 1e-9), ("float32", 1e-3)):
        runs = []
        for engine in ("scan", "torch", "torch"):
            run = Training(pairs.X, pairs.y, automatic(m, dtype=dtype), BATCH, 100.0, engine)
            losses = np.array([run.step() for _ in range(2 * n // BATCH)])
            runs.append((losses, run.engine.outputs(run.state, pairs.X), run.engine.arrays(run.state)))
        (exact, theirs, _), (losses, ours, arrays), (_, _, again) = runs
        assert exact.std() > 1e-3 * exact.mean(), "the problem does not train, so that equality would mean nothing"
        assert all(np.array_equal(array, again[name]) for name, array in arrays.items()), "two runs differ"
        worst = max(np.abs(losses / exact - 1).max(), np.abs(ours - theirs).max() / np.abs(theirs).max())
        assert worst < limit, (dtype, worst)
        found[dtype] = float(worst)
    return found


def synchronize() -> None:
    """Wait for the device."""
    if Device.current().is_gpu:
        torch.cuda.synchronize()


def timed(step: Callable[[], Any]) -> Callable[[], None]:
    """The step until its last bit is there."""

    def run() -> None:
        step()
        synchronize()

    return run


def device_peak(tf32: bool = False) -> float:
    """Flops of a large float32 matrix product on this device."""
    size, name = (8192 if Device.current().is_gpu else 2048), Device.current().name
    a, b = (torch.randn(size, size, device=name) for _ in range(2))
    with Switch(tf32):
        return 2.0 * size**3 / best(lambda: a @ b)


def best(run: Callable[[], Any], repetitions: int = 10) -> float:
    """Least seconds of one call."""
    step, least = timed(run), np.inf
    for _ in range(2 + repetitions):
        started = time.perf_counter()
        step()
        least = min(least, time.perf_counter() - started)
    return float(least)


class Switch:
    """PyTorch's own switch for TF32 within a block."""

    def __init__(self, on: bool) -> None:
        self.on = on

    def __enter__(self) -> None:
        self.before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = self.on

    def __exit__(self, *_: Any) -> None:
        torch.backends.cuda.matmul.allow_tf32 = self.before


def dense_layer(pairs: Pairs, state: Any) -> TorchDense | None:
    """PyTorch's layer on the materialised product, on the device; None where it does not fit."""
    d = int(np.prod([table.shape[1] for table in pairs.tables]))
    need, device = 4.0 * d * (len(pairs.y) + state.network.n_hidden + BATCH), Device.current()
    if need > ROOM * min(available_memory(), device.free_bytes if device.is_gpu else np.inf):
        return None
    layer = TorchDense(pairs, state, BATCH, RATE)
    for name, value in vars(layer).items():
        if isinstance(value, torch.Tensor):
            setattr(layer, name, value.to(device.name))
    return layer


def scan_twin(ours: Training, pairs: Pairs) -> Training:
    """The scan engine with the same coefficients, as a model file would bring them."""
    twin = Training(pairs.X, pairs.y, ours.state.network, BATCH, RATE, "scan")
    twin.engine.restore(twin.state, ours.engine.arrays(ours.state))
    return twin


def measure(n: int, m: int, entities: int, peaks: dict[bool, float]) -> list[dict[str, Any]]:
    """One problem: rows of the table, in the engine's second epoch."""
    pairs, on_gpu = problem(n, entities), Device.current().is_gpu
    ours = Training(pairs.X, pairs.y, automatic(m), BATCH, RATE, "torch")
    ours.epoch()
    plan = make_plan(ours.state.network, pairs.X, Schedule(BATCH), engine="torch", memory_limit="1 TiB")
    plan = plan.corrected(ours.fired, ours.state.coefficients.nnz / (n * m))
    rows = []
    for tf32 in (False, True)[: 1 + on_gpu]:
        with Switch(tf32):
            seconds = interleaved({"torch": timed(ours.step)}, 20)["torch"]
        flops = 2.0 * BATCH * n * m / seconds
        rows.append({
            "step": f"torch engine{', TF32' * tf32}", "n": n, "m": m, "ms": 1e3 * seconds, "TFLOP/s": flops / 1e12,
            "of this device's matrix product": flops / peaks[tf32],
            "of the plan's time": "" if tf32 else plan.costs["torch"].seconds / seconds,
        })  # fmt: skip
    scan = scan_twin(ours, pairs)
    start = scan.state
    rows.append({"step": "scan engine, same α, on the processor", "n": n, "m": m,
                 "ms": 1e3 * interleaved({"scan": scan.step}, 5)["scan"]})  # fmt: skip
    fired, filled = ours.fired, plan.problem.alpha
    del ours, scan
    layer = dense_layer(pairs, start)
    if layer is None:
        rows.append({"step": "PyTorch, dense layer", "n": n, "m": m, "ms": "does not fit"})
    else:
        batch = np.arange(BATCH)
        rows.append({"step": "PyTorch, dense layer", "n": n, "m": m,
                     "ms": 1e3 * interleaved({"layer": timed(lambda: layer.step(batch))}, 5)["layer"]})  # fmt: skip
    rows[0] |= {"fired %": 100 * fired, "α filled %": 100 * filled}
    return rows


def main() -> None:
    """Equal first, then the device's rates, then the problems one after another."""
    device, gpu = Device.current(), gpu_in_use()
    with threads():
        differences = check_equal()
        peaks = {tf32: device_peak(tf32) for tf32 in (False, True)[: 1 + device.is_gpu]}
        rows = [row for size in SIZES[device.is_gpu] for row in measure(*size, peaks)]
    columns = dict.fromkeys(key for row in rows for key in row)
    where = device.label if device.is_gpu else f"the CPU ({torch.get_num_threads()} PyTorch threads): no GPU here, a small size"
    plan = "" if gpu is None else f" The plan's times are by {gpu.source}."
    report("gpu", "The torch engine on a GPU", [{key: row.get(key, "") for key in columns} for row in rows],
           f"Device: {where}. 256 ⊗ 256 columns, batch {BATCH}, float32, medians in the second epoch; a large float32 product "
           f"runs at {' and with TF32 at '.join(f'{peak / 1e12:.3g}' for peak in peaks.values())} TFLOP/s.{plan} Losses and "
           f"outputs as the scan engine's to {differences['float64']:.1g} in float64 and {differences['float32']:.1g} in "
           "float32 (two epochs of a small copy), and the same bits on a second run.")  # fmt: skip
