"""What every benchmark shares: machine and commit beside each number, a table on the screen, a JSON file for the record."""

from __future__ import annotations

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"


def data_folder(name: str) -> Path:
    """The folder of a published set below $KRONSGD_DATA. SystemExit with the next step if it is not there."""
    root = os.environ.get("KRONSGD_DATA")
    if root is None or not (Path(root) / name).is_dir():
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


def report(name: str, claim: str, command: str, rows: list[dict[str, Any]], note: str = "") -> None:
    """Print the rows as a table and keep them, with where and when, in results/NAME.json."""
    print(f"\n{claim}\n{table(rows)}\n{note}")
    record = {
        "name": name, "claim": claim, "command": command, "machine": machine(), "commit": commit(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"), "rows": rows, "note": note,
    }  # fmt: skip
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def table(rows: list[dict[str, Any]]) -> str:
    """A Markdown table; floats with four significant digits."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(_cell(row.get(c, "")) for c in columns) + " |" for row in rows]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
