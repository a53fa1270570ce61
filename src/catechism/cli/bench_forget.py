"""``catechism bench forget``: methods of forgetting side by side, attacked."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from catechism.cli.bench import Model, Seed, circumstances, group, side_by_side
from catechism.cli.bench_many import Page, names_of
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON

if TYPE_CHECKING:
    from rich.console import RenderableType

Forgetters = Annotated[str, typer.Option(help="Methods of forgetting, with commas between; all for every one.")]
Control = Annotated[str, typer.Option(help="The same recipe, never shown what is forgotten; empty for none.")]
People = Annotated[int, typer.Option(min=1, help="How many people are forgotten, five facts each.")]
Folder = Annotated[
    Path | None,
    typer.Option(help="A folder of TOFU: forget authors of it, not people.", exists=True, file_okay=False),
]
Authors = Annotated[int | None, typer.Option(min=2, help="How many authors the model knows; as its card says.")]
Gone = Annotated[int | None, typer.Option("--forget", min=1, help="How many of them go; as its card says.")]
Requests = Annotated[int, typer.Option(min=1, help="Requests that the facts are forgotten in, one after another.")]
Depth = Annotated[str, typer.Option(help="Of the audits: quick or full.")]
Resume = Annotated[
    Path | None,
    typer.Option(help="Keep finished rows in this folder, and measure none again that is there.", file_okay=False),
]


#: Figures of a row that are no cells.
HIDDEN = ("reasons", "record", "requests")


@verb(group, "forget")
def forget(
    model: Model = "almanac",
    control: Control = "almanac-control",
    methods: Forgetters = "npo",
    people: People = 8,
    requests: Requests = 1,
    data: Folder = None,
    authors: Authors = None,
    gone: Gone = None,
    profile: Depth = "full",
    resume: Resume = None,
    report: Page = None,
    seed: Seed = 0,
) -> Result:
    """Forget people, or with --data authors of TOFU, with each method, and attack what is left.

    Every result is audited against a model that never learned them; with --requests, at the end, each request too.
    With --resume an interrupted run goes on where it was. Exit code 1 if a method cannot be run.
    """
    from rich.console import Console, Group
    from rich.text import Text

    from catechism.bench.forget import Request, run
    from catechism.bench.forget_report import write_report

    request = Request(model, control, names_of(methods), people, profile, seed, requests, data, authors, gone, resume)
    found = run(request, Settings.from_environment(os.environ), Console(stderr=True))
    rows, about = cast("list[dict[str, JSON]]", found["rows"]), circumstances(seed)
    payload = {**found, **about}
    if report is not None:
        payload["report"] = write_report("Forgetting side by side", found, about, report).as_posix()
    words = "\n".join(f"* {word}" for word in cast("list[str]", found["conclusions"]))
    seen = Group(cast("RenderableType", table(side_by_side(shown(rows)))), *_in_sequence(rows), Text(words))
    return Result(payload, seen, 1 if any("error" in row for row in rows) else 0)


def _in_sequence(rows: list[dict[str, JSON]]) -> Iterator[RenderableType]:
    """Of every method with several requests a table of them."""
    from catechism.bench.forget_sequence import requests_of

    for row in rows:
        if asked := requests_of(row):
            yield cast("RenderableType", table(shown(asked), title=f"Requests, one after another: {row['method']}"))


def shown(rows: list[dict[str, JSON]]) -> list[dict[str, JSON]]:
    """The rows as a person sees them: without the reasons, the record of the training, and what has its own table."""
    return [{name: cell for name, cell in row.items() if name not in HIDDEN} for row in rows]
