"""``catechism bench``: methods side by side, scored by what the model says."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from importlib import import_module
from pathlib import Path
from typing import Annotated, cast

import typer

from catechism import __version__
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON


def register(app: typer.Typer) -> None:
    """Add the group to the command line, with the commands that stand in files of their own."""
    for name in ("bench_forget", "bench_index", "bench_many", "bench_models", "bench_values"):
        import_module(f"catechism.cli.{name}")  # importing it adds its commands
    app.add_typer(group, name="bench")


group = typer.Typer(help="Methods side by side, scored by what the model says.", no_args_is_help=True)


@group.callback()
def _group() -> None:
    """Methods side by side, scored by what the model says."""


Model = Annotated[str, typer.Option(help="A shipped model, a folder, or a hub name.")]
Facts = Annotated[int, typer.Option(min=1, help="How many facts, drawn by the seed.")]
Data = Annotated[
    Path | None,
    typer.Option(help="A feed or a public benchmark's file, not the model's own world.", exists=True, dir_okay=False),
]
Text = Annotated[
    Path | None, typer.Option(help="Plain text for statistics and perplexity.", exists=True, dir_okay=False)
]
Layer = Annotated[int | None, typer.Option(min=0, help="The layer to edit; measured where it is not given.")]
Seed = Annotated[int, typer.Option(help="Draws the facts and their new objects.")]
KnownOnly = Annotated[bool, typer.Option("--known-only", help="Only facts whose old object the model says.")]


@verb(group, "single")
def single(
    model: Model = "almanac",
    methods: Annotated[str, typer.Option(help="Methods by name, with commas between them.")] = "rome",
    facts: Facts = 100,
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    seed: Seed = 0,
    known_only: KnownOnly = False,
) -> Result:
    """Edit one fact at a time.

    Each edit is scored by what the model then says, taken back, and the bytes are proven to be the old ones.
    """
    from rich.console import Console

    from catechism.bench.single import Request, run

    names = tuple(name.strip() for name in methods.split(",") if name.strip())
    request = Request(model, names, facts, data, text, layer, seed, known_only)
    return _answer(run(request, Settings.from_environment(os.environ), Console(stderr=True)), seed)


@verb(group, "ablation")
def ablation(
    model: Model = "almanac",
    facts: Facts = 20,
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    seed: Seed = 0,
) -> Result:
    """Show what each phase of the distillation is good for.

    Both phases, A alone, B alone and plain fine-tuning on the text, with the same budget, each fact on a clean model.
    """
    from rich.console import Console

    from catechism.bench.ablation import run
    from catechism.bench.single import Request

    request = Request(model=model, facts=facts, data=data, text=text, layer=layer, seed=seed)
    return _answer(run(request, Settings.from_environment(os.environ), Console(stderr=True)), seed)


@verb(group, "path")
def path(model: Model = "almanac", facts: Facts = 50, seed: Seed = 0) -> Result:
    """Take a feed of drawn facts the whole path.

    Into a store of its own, from the feed to the release: seconds and share of each station, how the rows ended, and
    why facts were refused.
    """
    from rich.console import Console

    from catechism.bench.path import run

    found = run(model, facts, seed, Settings.from_environment(os.environ), Console(stderr=True))
    rows = cast("list[dict[str, JSON]]", found["rows"])
    return Result({**found, **circumstances(seed)}, table(rows))


def _answer(found: dict[str, JSON], seed: int) -> Result:
    rows = cast("list[dict[str, JSON]]", found["rows"])
    return Result({**found, **circumstances(seed)}, table(side_by_side(rows)))


def side_by_side(rows: list[dict[str, JSON]]) -> list[dict[str, JSON]]:
    """A line for each figure and a column for each method: a row of thirty figures does not fit on a screen."""
    figures = dict.fromkeys(key for row in rows for key in row if key != "method")
    return [{"figure": figure} | {str(row["method"]): row.get(figure) for row in rows} for figure in figures]


def circumstances(seed: int) -> dict[str, object]:
    """What a reader needs to know beside a figure: the machine, the seed, the command, the version."""
    machine = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpus": os.cpu_count(),
        "python": platform.python_version(),
    }
    command = shlex.join(["catechism", *sys.argv[1:]])
    return {"machine": machine, "seed": seed, "command": command, "version": __version__}
