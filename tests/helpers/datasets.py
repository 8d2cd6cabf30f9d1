"""Small files of tables, and what an error message must look like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow
import pyarrow.parquet

FEATURES = np.array([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])


def sentence(info) -> str:
    """The message, which must be one sentence or two at most, on one line, and as readable as the KeyError's is."""
    text = str(info.value)
    assert "\n" not in text
    assert not text.startswith(("'", '"'))
    assert text.rstrip().endswith((".", "?"))
    return text


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def write_parquet(path: Path, **columns) -> Path:
    pyarrow.parquet.write_table(pyarrow.table(columns), path)
    return path
