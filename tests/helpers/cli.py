"""Calls of the command line, and reading and writing of its tables."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from typer.testing import CliRunner

from kronsgd.cli.app import app

SMALL = ["--set", "n_hidden=32", "--set", "max_iter=2"]
FILES = {"model.kron", "config.toml", "history.jsonl", "metrics.json", "tables.json", "tables",
         "loss.png", "fired.png", "predictions.png"}  # fmt: skip


def call(*args) -> str:
    """Standard output of a command that works."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    assert result.exit_code == 0, result.stderr or result.exception
    return result.stdout


def mistake(*args) -> str:
    """The one line on stderr of a command that is wrong."""
    result = CliRunner().invoke(app, [str(arg) for arg in args])
    lines = [line for line in result.stderr.splitlines() if not line.startswith("warning:")]
    assert result.exit_code == 2, (result.exit_code, result.exception)
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("error: ")
    assert not lines[0].startswith("error: '")  # a KeyError's quotes
    return lines[0]


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def column(path, name) -> np.ndarray:
    return np.array([float(row[name]) for row in rows_of(path)])


def write_pairs(path: Path, drugs, proteins, **columns) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["drug", "protein_id", *columns])
        writer.writerows(zip(drugs, proteins, *columns.values(), strict=True))
    return path
