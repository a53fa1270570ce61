"""``catechism bench forget``: methods of forgetting side by side, attacked."""

from __future__ import annotations

import os
from typing import Annotated, cast

import typer

from catechism.cli.bench import Model, Seed, circumstances, group, side_by_side
from catechism.cli.bench_many import Page, names_of
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON

Forgetters = Annotated[str, typer.Option(help="Methods of forgetting, with commas between; all for every one.")]
Control = Annotated[str, typer.Option(help="The same recipe, never shown what is forgotten; empty for none.")]
People = Annotated[int, typer.Option(min=1, help="How many people are forgotten, five facts each.")]
Depth = Annotated[str, typer.Option(help="Of the audits: quick or full.")]


@verb(group, "forget")
def forget(
    model: Model = "almanac",
    control: Control = "almanac-control",
    methods: Forgetters = "npo",
    people: People = 12,
    profile: Depth = "full",
    report: Page = None,
    seed: Seed = 0,
) -> Result:
    """Forget people with each method, and attack what is left.

    Every result is audited against a model that never learned them. Exit code 1 if a method cannot be run.
    """
    from rich.console import Console

    from catechism.bench.forget import Request, run
    from catechism.bench.forget_report import write_report

    request = Request(model, control, names_of(methods), people, profile, seed)
    found = run(request, Settings.from_environment(os.environ), Console(stderr=True))
    rows, about = cast("list[dict[str, JSON]]", found["rows"]), circumstances(seed)
    payload = {**found, **about}
    if report is not None:
        payload["report"] = write_report("Forgetting side by side", found, about, report).as_posix()
    return Result(payload, table(side_by_side(shown(rows))), 1 if any("error" in row for row in rows) else 0)


def shown(rows: list[dict[str, JSON]]) -> list[dict[str, JSON]]:
    """The rows as a person sees them: without the reasons and the record of the training."""
    return [{name: cell for name, cell in row.items() if name not in ("reasons", "record")} for row in rows]
