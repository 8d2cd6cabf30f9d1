"""The commands by name."""

from __future__ import annotations

from typing import Annotated

import typer

from kronsgd import __version__
from kronsgd.cli.compare import compare
from kronsgd.cli.doctor import doctor
from kronsgd.cli.errors import ErrorGroup
from kronsgd.cli.evaluate import evaluate
from kronsgd.cli.inspect import inspect
from kronsgd.cli.plan import plan
from kronsgd.cli.predict import predict
from kronsgd.cli.rank import rank
from kronsgd.cli.train import train

__all__ = ["app"]

app = typer.Typer(cls=ErrorGroup, add_completion=False, pretty_exceptions_enable=False, invoke_without_command=True)
for command in (train, predict, rank, evaluate, compare, plan, inspect, doctor):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"kronsgd {__version__}")
        raise typer.Exit


@app.callback()
def kronsgd(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Train wide two-layer networks on products of features, without ever building the product."""
    if context.invoked_subcommand is None:
        print(context.get_help())
