"""``catechism bench index``: the search for the nearest of many stored masks."""

from __future__ import annotations

from typing import Annotated, cast

import typer

from catechism.cli.bench import Seed, circumstances, group
from catechism.cli.output import Result, table, verb
from catechism.types import JSON

#: Columns for a person; a program gets all.
SHOWN = ("masks", "recall", "milliseconds_per_query", "milliseconds_in_full", "build_seconds", "memory_mb")


@verb(group, "index")
def index(
    masks: Annotated[int, typer.Option(min=1, help="The largest number of stored masks.")] = 1_000_000,
    features: Annotated[int, typer.Option(min=1, help="Features there are: the width of the edited matrix.")] = 768,
    ones: Annotated[int, typer.Option(min=1, help="Features in a mask.")] = 215,
    least: Annotated[float, typer.Option(help="Share of them from which on a match counts.")] = 0.45,
    seed: Seed = 0,
) -> Result:
    """Search the nearest of many stored masks.

    Recall against a search that compares every mask, milliseconds of a query, seconds to build and memory, for powers
    of ten up to the number of masks.
    """
    from catechism.bench.index import Sizes, run

    found = run(Sizes(masks, features, ones, least), seed)
    rows = cast("list[dict[str, JSON]]", found["rows"])
    shown = [{name: row[name] for name in SHOWN} for row in rows]
    return Result({**found, **circumstances(seed)}, table(shown))
