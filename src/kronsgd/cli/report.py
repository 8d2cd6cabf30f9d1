"""Tables on the terminal."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kronsgd.cli.scores import label

__all__ = ["console", "facts", "number", "say_plain", "score_table", "show_table"]


def console() -> Console:
    """Made afresh, so that it writes to what is stdout now; nothing in the user's text is taken for markup."""
    return Console(markup=False, highlight=False, emoji=False, soft_wrap=False)


def number(value: float) -> str:
    """Four significant digits, or – where there is no value."""
    return "–" if not math.isfinite(value) else f"{value:.4g}"


def say_plain(text: str, style: str = "") -> None:
    """One line, however narrow the terminal: paths can be copied, and programs can read it."""
    console().print(Text(text, style=style), soft_wrap=True)


def facts(rows: Mapping[str, Any], title: str) -> None:
    """A heading, and a line for each fact."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(name), Text(str(value)))
    say_plain(title, style="bold")
    console().print(table)


def show_table(header: Sequence[str], rows: Sequence[Sequence[str]], title: str) -> None:
    """A table whose columns after the first are numbers."""
    table = Table(box=None, padding=(0, 2, 0, 1))
    for k, name in enumerate(header):
        table.add_column(Text(name), justify="left" if k == 0 else "right", no_wrap=k > 0)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    say_plain(title, style="bold")
    console().print(table)


def score_table(columns: Mapping[str, Mapping[str, str]], title: str) -> None:
    """Scores by their names, with a column for each part of the rows."""
    keys = next(iter(columns.values()))
    rows = [[label(key), *(column.get(key, "–") for column in columns.values())] for key in keys]
    show_table(["", *columns], rows, title)
