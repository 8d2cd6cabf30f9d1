"""Every mistake a user can make as one line on stderr, in one place."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from kronsgd.cli.ranks import first_rank

__all__ = ["ErrorGroup", "one_line", "say"]

# What the library documents for bad input; anything else is a defect of kronsgd, and its traceback is wanted.
EXPECTED = (ValueError, LookupError, TypeError, OSError, ModuleNotFoundError, MemoryError)


def one_line(error: BaseException) -> str:
    """The message of an error, without line breaks and without the quotes that KeyError puts around it."""
    if hasattr(error, "format_message"):  # typer's own errors about flags
        context = getattr(error, "ctx", None)
        text = str(error.format_message()).rstrip(". ")
        text += f"; see {context.command_path} --help." if context else "."
    elif isinstance(error, OSError) and error.strerror and error.filename is not None:
        text = f"{error.filename}: {error.strerror.lower()}; check the path and your rights to it."
    elif isinstance(error, MemoryError) and "memory_limit" not in str(error):  # the plan's own says what to do
        text = f"there is not enough memory ({error}); use fewer rows or neurons."
    elif isinstance(error, KeyError) and error.args:
        text = str(error.args[0])
    else:
        text = str(error)
    return " ".join(text.split()) or type(error).__name__


def say(kind: str, text: str) -> None:
    """`error: …` or `warning: …` on stderr, as one line that no terminal width breaks; of several processes, says which."""
    rank = "" if first_rank() else f" (rank {os.environ['RANK']})"
    print(f"{kind}{rank}: {text}", file=sys.stderr)


class ErrorGroup(TyperGroup):
    """The group of all commands; set KRONSGD_TRACEBACK=1 to see where an error comes from."""

    def main(self, args: Sequence[str] | None = None, *rest: Any, **extra: Any) -> Any:
        if not first_rank() and list(sys.argv[1:] if args is None else args)[:1] != ["train"]:
            sys.exit(0)  # only training is shared; the first process does the rest
        try:
            code = super().main(args, *rest, **{**extra, "standalone_mode": False})
        except (KeyboardInterrupt, typer.Abort):
            code = 130
        except Exception as error:
            known = isinstance(error, EXPECTED) or hasattr(error, "format_message")
            if not known or os.environ.get("KRONSGD_TRACEBACK"):
                raise
            say("error", one_line(error))
            code = 2
        if code == 130:
            say("error", "interrupted; nothing more was written.")
        sys.exit(code if isinstance(code, int) else 0)
