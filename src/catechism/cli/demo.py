"""``catechism demo``: the whole path of a fact on a shipped model, offline."""

from __future__ import annotations

import typer

from catechism.cli.output import Result, verb


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "demo")(demo)


def demo() -> Result:
    """Learn, ask and undo one fact.

    A model that ships with the package learns a fact, is asked about it and about its neighbours, and forgets it again
    byte for byte. Nothing is downloaded.
    """
    from rich.console import Console

    from catechism.bench.demo import run

    return Result(run(Console()))
