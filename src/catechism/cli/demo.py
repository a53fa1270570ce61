"""``catechism demo``: the whole path of a fact on a shipped model, offline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from catechism.cli.output import Result, verb
from catechism.settings import Settings


def register(app: typer.Typer) -> None:
    """Add the command to the command line."""
    verb(app, "demo")(demo)


def demo(
    page: Annotated[Path, typer.Option(help="Where the report goes.", dir_okay=False)] = Path("catechism-demo.html"),
) -> Result:
    """Take a feed of facts through its whole life.

    On a model that ships with the package: read, checked, written out, located, edited, judged, released or refused;
    then one edit is rolled back and the weights are proven to be the old bytes. Last a person's record is forgotten,
    attacked beside a model that never knew it, and certified. Nothing is downloaded.
    """
    from rich.console import Console

    from catechism.bench.demo import run

    return Result(run(Console(), Settings.from_environment(os.environ), page=page))
