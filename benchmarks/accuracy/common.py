"""A comparison as a recorded benchmark."""

from __future__ import annotations

from typing import Any

import numpy as np

from benchmarks.common import report
from kronsgd.compare import Row, compare


def record(name: str, claim: str, data: Any, note: str, **how: Any) -> None:
    """Compare all methods and keep the table; `how` goes to `kronsgd.compare.compare`."""
    compared = compare(data, **{"n_inner": 2, "seeds": 2, **how}, done=_say)
    header, cells = compared.cells()
    ran = [row for row in compared.rows if row.refusal is None]
    rows = [{**dict(zip(header, line, strict=True)), "settings tried": row.run["n_settings"]}
            for row, line in zip(ran, cells, strict=True)]  # fmt: skip
    left = " ".join(f"Left out: {sentence}" for sentence in compared.left_out)
    report(f"accuracy.{name}", claim, rows, f"{note} {compared.how} {left}".strip(), draw=lambda axes, _: _draw(axes, ran))


def _say(row: Row) -> None:
    print(row.name, row.refusal or row.mean, flush=True)


def _draw(axes: Any, rows: list[Row]) -> None:
    key = "accuracy" if "accuracy" in rows[0].mean else "r2"
    axes.barh([row.name for row in rows], [row.mean[key] for row in rows], xerr=[row.deviation[key] for row in rows])
    least = min(row.mean[key] for row in rows)
    axes.set(xlabel={"accuracy": "accuracy", "r2": "R²"}[key] + ", held-out rows", xlim=(min(0, least) if key == "r2" else
             np.floor(20 * least) / 20, 1))  # fmt: skip
    axes.invert_yaxis()
