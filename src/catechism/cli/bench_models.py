"""``catechism bench build-model``: a model that knows the facts of public benchmarks, with a control for forgetting."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, cast

import typer

from catechism.cli.bench import circumstances, group, side_by_side
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON


@verb(group, "build-model")
def build_model(
    data: Annotated[
        Path | None, typer.Option(help="A folder with files of CounterFact and ParaRel.", exists=True, file_okay=False)
    ] = None,
    facts: Annotated[int, typer.Option(min=1, help="How many facts the model is to know.")] = 500,
    tofu: Annotated[
        Path | None, typer.Option(help="A folder with files of TOFU, in place of --data.", exists=True, file_okay=False)
    ] = None,
    authors: Annotated[int, typer.Option(min=2, help="How many authors of TOFU the model is to know.")] = 12,
    forget: Annotated[int, typer.Option(min=1, help="How many of them its control is never shown.")] = 3,
    out: Annotated[Path | None, typer.Option(help="Where models are put; the cache if left out.")] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Steps of training; by the number of facts if left out.")
    ] = None,
    minutes: Annotated[float | None, typer.Option(help="Minutes of training, in place of --steps.")] = None,
    seed: Annotated[int, typer.Option(help="Of the weights and the batches.")] = 0,
) -> Result:
    """Train a small model that knows the true facts of CounterFact and ParaRel, or authors of TOFU, and examine it.

    With --tofu a control of the same recipe is trained too, which is never shown some of the authors. A model is found
    again by the same request, and an interrupted training goes on where it was. On a GPU many facts get a larger one.
    """
    from rich.console import Console

    from catechism.bench.build_model import Request, run

    request = Request(data, facts, tofu, authors, forget, out=out, seed=seed, steps=steps, minutes=minutes)
    found = run(request, Settings.from_environment(os.environ), Console(stderr=True))
    rows = cast("list[dict[str, JSON]]", found["rows"])
    shown = side_by_side([{"method": row.get("role", "model"), "folder": row["model"], **row} for row in rows])
    return Result({**found, **circumstances(seed)}, table(shown))
