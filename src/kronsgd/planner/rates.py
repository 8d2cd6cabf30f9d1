"""What each kind of work costs: built-in rates, or those that a calibration has measured on this machine.

Every constant of the cost model that was measured stands in BUILT_IN. They are the same on every machine, so that
engine="auto" chooses the same engine everywhere unless somebody has asked for a calibration.
"""

from __future__ import annotations

import json
import math
import os
import platform
import sys
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import chain
from pathlib import Path
from typing import Any

from kronsgd.engines.scan import lanes_for
from kronsgd.parallel import n_threads
from kronsgd.planner.work import Work

__all__ = ["BUILT_IN", "Rates", "cache_file", "current_rates", "machine_key", "save_rates"]


@dataclass(frozen=True)
class Rates:
    """Operations per second; pairs of numbers are for float32 and float64."""

    gemm: tuple[float, float]  # flops
    lanes: tuple[float, float]  # flops at 64 columns
    narrow: tuple[float, float]  # flops at 16 columns
    moved: float  # bytes
    gathered: float  # numbers
    scalar: float  # operations
    call: float  # seconds of a call from Python
    source: str = "built-in rates of a 2-core AVX-512 machine; kronsgd plan --calibrate measures this one"

    def seconds(self, work: Work, itemsize: int, columns: int) -> float:
        """Time of some work on batches of `columns` rows."""
        kind = 0 if itemsize == 4 else 1
        lanes = self.narrow if lanes_for(columns) == 16 else self.lanes
        return (
            work.gemm / self.gemm[kind] + (work.lanes + work.tiles / TILES) / lanes[kind] + work.moved / self.moved
            + work.gathered / self.gathered + work.scalar / self.scalar + work.calls * self.call
        )  # fmt: skip


TILES = 2  # sums of rows run so much faster where each row, once loaded, is added to several sums
BUILT_IN = Rates(
    gemm=(200e9, 100e9), lanes=(200e9, 110e9), narrow=(70e9, 50e9), moved=10e9, gathered=6e9, scalar=2e9, call=1.4e-6,
)  # fmt: skip


def machine_key() -> dict[str, Any]:
    """What measured rates hold for: processor, cores, threads in use, versions."""
    return {
        "processor": _processor(), "cores": os.cpu_count(), "threads": n_threads(), "python": platform.python_version(),
        **{name: version(name) for name in ("numpy", "numba", "scipy")},
    }  # fmt: skip


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def cache_file() -> Path:
    """Where measured rates are kept, in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    default = Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache")
    return (Path(home) if home else default) / "kronsgd" / "calibration.json"


def current_rates() -> Rates:
    """The measured rates of this machine where there are some, else the built-in ones; never measures."""
    if os.environ.get("KRONSGD_CALIBRATION", "").lower() == "off":
        return BUILT_IN
    try:
        kept = json.loads(cache_file().read_text(encoding="utf-8"))
        if kept["machine"] != machine_key():
            return BUILT_IN
        rates: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in kept["rates"].items()}
        return _checked(Rates(**rates))
    except (OSError, ValueError, KeyError, TypeError, RuntimeError):  # none yet, or not readable: the built-in ones do
        return BUILT_IN


def _checked(rates: Rates) -> Rates:
    """Raise ValueError unless every rate is a positive number, or a pair of them."""
    pairs = [rates.gemm, rates.lanes, rates.narrow]
    single = [rates.moved, rates.gathered, rates.scalar, rates.call]
    if any(len(pair) != 2 for pair in pairs) or not all(0 < rate < math.inf for rate in chain(*pairs, single)):
        raise ValueError("a rate is not a positive number")
    return rates


def save_rates(rates: Rates) -> Path | None:
    """Keep measured rates for later plans; None where the folder cannot be written."""
    path = cache_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"machine": machine_key(), "rates": asdict(rates)}, indent=1), encoding="utf-8")
    except OSError:
        return None
    return path
