"""The command line. Its packages come with the extra `cli`, so nothing of them is imported before `main` runs."""

from __future__ import annotations

import sys

__all__ = ["main"]

NEEDED = ("typer", "rich", "pydantic", "tomli_w")


def main() -> None:
    """Run the command in `sys.argv`; exits with 0, 1 (something is wrong), 2 (a wrong call), 130 (Ctrl-C) or 143 (SIGTERM)."""
    try:
        from kronsgd.cli.app import app
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        if package not in NEEDED:
            raise
        print(f'error: the command line needs {package}; run pip install "kronsgd[cli]".', file=sys.stderr)
        sys.exit(2)
    app(prog_name="kronsgd")
