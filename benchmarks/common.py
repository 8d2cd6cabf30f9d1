"""What every benchmark shares: fair timing, and a table, a plot and a JSON file with machine and commit beside each number."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

RESULTS = Path(__file__).parent / "results"


def data_folder(name: str) -> Path:
    """The folder of a published set below $KRONSGD_DATA. SystemExit with the next step if it is not there."""
    root = os.environ.get("KRONSGD_DATA")
    if not root or not (Path(root) / name).is_dir():
        raise SystemExit(f"set KRONSGD_DATA to the folder that holds '{name}' (see the docstring of kronsgd.datasets).")
    return Path(root) / name


def machine() -> str:
    """Processor, cores and Python."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    simd = "AVX-512" if any("avx512f" in line for line in lines) else "AVX2 or less"
    return f"{model}, {os.cpu_count()} cores, {simd}, Python {platform.python_version()}"


def commit() -> str:
    """Short hash of the sources, with a + where they have changes."""
    run = subprocess.run(["git", "describe", "--always", "--dirty=+"], capture_output=True, text=True, check=False)
    return run.stdout.strip() or "unknown"


def report(
    name: str, claim: str, rows: list[dict[str, Any]], note: str = "",
    draw: Callable[[Any, list[dict[str, Any]]], None] | None = None,
) -> None:  # fmt: skip
    """Print the rows as a table and keep them, with where and when, in results/NAME.json.

    `draw` puts the rows on a plot's axes, which is kept as results/NAME.svg.
    """
    if draw is not None:
        plot(name, lambda axes: draw(axes, rows))
    print(f"\n{claim}\n{table(rows)}\n{note}")
    record = {
        "name": name, "claim": claim, "command": f"python -m benchmarks.run {name}", "machine": machine(),
        "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "rows": rows, "note": note,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def interleaved(
    contestants: Mapping[Any, Callable[[], Any]], repetitions: int, warm: int = 1, of: Callable[..., Any] = np.median
) -> dict[Any, float]:
    """Median (or another statistic) of the seconds of one call of each.

    Taken in turns, so that a slow spell of the machine meets all of them alike.
    Each turn starts with a call that is not counted, because the others' data fills the caches.
    """
    times: dict[Any, list[float]] = {name: [] for name in contestants}
    for turn in range(warm + repetitions):
        for name, run in contestants.items():
            run()
            started = time.perf_counter()
            run()
            times[name] += [time.perf_counter() - started] if turn >= warm else []
    return {name: float(of(seconds)) for name, seconds in times.items()}


def slope(x: Any, y: Any) -> float:
    """Exponent p of the least-squares fit y ∝ x^p."""
    return float(np.polyfit(np.log(np.asarray(x, dtype=float)), np.log(np.asarray(y, dtype=float)), 1)[0])


def target(value: float, *, at_least: float | None = None, at_most: float | None = None) -> str:
    """The target beside a measured value, and whether it is met."""
    met = (at_least is None or value >= at_least) and (at_most is None or value <= at_most)
    return f"{f'≥ {at_least:g}' if at_least is not None else f'≤ {at_most:g}'}: {'met' if met else 'missed'}"


def peak_memory(module: str, call: str, warm_up: str = "") -> tuple[float, float]:
    """MiB at the peak of `module.call` in a new process: in all, and beyond the imports and `module.warm_up`. Linux only.

    The warm-up is the same work at a tiny size, which loads compiled code and starts threads.
    """
    peak = "int(next(l for l in open('/proc/self/status') if l.startswith('VmHWM')).split()[1])"  # getrusage inherits ours
    code = f"import {module} as b\n{warm_up and 'b.' + warm_up}\nbase = {peak}\nb.{call}\nprint({peak}, base)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    whole, base = (int(word) / 1024 for word in run.stdout.split()[-2:])
    return whole, whole - base


def available_memory() -> int:
    """Bytes that can be allocated now without swapping. Linux only."""
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) << 10


def plot(name: str, draw: Callable[[Any], None]) -> None:
    """results/NAME.svg, of what `draw` puts on the axes; the same bytes for the same numbers."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}):
        figure, axes = pyplot.subplots(figsize=(5.6, 3.4), layout="constrained")
        draw(axes)
        axes.grid(alpha=0.3)
        RESULTS.mkdir(exist_ok=True)
        figure.savefig(RESULTS / f"{name}.svg", metadata={"Date": None})
        pyplot.close(figure)


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; floats with four significant digits."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
