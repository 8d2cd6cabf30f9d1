"""How much memory a training may take."""

from __future__ import annotations

import math
import os
import re
from pathlib import Path

__all__ = ["available_memory", "describe_bytes", "parse_memory"]

SHARE = 0.9  # of the memory that is free now; the rest is left to everything else
LEAST = 2.0**20  # bytes: no training fits into less, and who writes 0.5 means a share or gigabytes
UNITS = {"": 1, "b": 1} | {f"{p}{i}b": base**k for i, base in (("", 1000), ("i", 1024)) for k, p in enumerate("kmgt", 1)}


def describe_bytes(size: float) -> str:
    """`1.5 GiB`, with three significant digits."""
    if size == math.inf:
        return "no limit"
    if size > 1e300:  # a whole number of any length, of a product's dimensions
        return f"10^{math.floor(math.log10(size))} B"
    unit, power = next(((u, k) for k, u in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")) if size >= 1024**k), ("B", 0))
    return f"{size / 1024**power:.3g} {unit}" if size < 999.5 * 1024**power else f"{size / 1024**power:.0f} {unit}"


def parse_memory(value: int | float | str) -> float:
    """Bytes from a number, a text such as "8 GiB" or "500MB", or "auto" (what is free now × 0.9). ValueError otherwise."""
    if value == "auto":
        return SHARE * available_memory()
    found = re.fullmatch(r"\s*(\d+\.?\d*(?:e\+?\d+)?)\s*([a-z]*)\s*", str(value).lower())
    size = float(found[1]) * UNITS.get(found[2], 0) if found else 0.0
    if not 0 < size < math.inf:
        raise ValueError(f'memory_limit={value!r} is no amount of memory; give bytes, a text such as "8 GiB", or "auto".')
    if size < LEAST:
        raise ValueError(
            f'memory_limit={value!r} is {size:g} bytes, less than 1 MiB; give bytes, such as {8 * 2**30}, a text such as '
            '"8 GiB", or "auto".'
        )
    return size


def available_memory() -> float:
    """Bytes that are free now for this process: of the machine, and of the control group that it runs in."""
    return min(_machine_free(), _group_free())


def _machine_free() -> float:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return 1024.0 * next(int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, OSError, ValueError):  # a system that does not tell
        return math.inf


def _group_free() -> float:
    """The tightest limit of the control groups above this process, less what they use and cannot drop."""
    free = math.inf
    for folder, limit, used in _groups():
        try:
            top = (folder / limit).read_text(encoding="ascii").strip()
            stat = dict(line.split() for line in (folder / "memory.stat").read_text(encoding="ascii").splitlines())
            now = int((folder / used).read_text(encoding="ascii")) - int(stat.get("inactive_file", 0))
            free = min(free, math.inf if top == "max" else max(0.0, float(top) - now))
        except (OSError, ValueError):
            continue
    return free


def _groups(root: Path = Path("/sys/fs/cgroup")) -> list[tuple[Path, str, str]]:
    """(folder, file of the limit, file of the use) of every control group of this process."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    out = []
    for _, controllers, path in (line.split(":", 2) for line in lines):
        if controllers not in ("", "memory"):
            continue
        base = root / "memory" if controllers else root
        names = ("memory.limit_in_bytes", "memory.usage_in_bytes") if controllers else ("memory.max", "memory.current")
        own = base / path.lstrip("/")
        out += [(folder, *names) for folder in (own, *own.parents) if folder == base or base in folder.parents]
    return out
