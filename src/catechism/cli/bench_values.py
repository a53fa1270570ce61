"""``catechism bench values``: the search for target values, by the published procedure and in one batch."""

from __future__ import annotations

import os
from typing import cast

from catechism.cli.bench import Data, Facts, Layer, Model, Seed, Text, circumstances, group, side_by_side
from catechism.cli.output import Result, table, verb
from catechism.settings import Settings
from catechism.types import JSON


@verb(group, "values")
def values(
    model: Model = "almanac",
    facts: Facts = 20,
    data: Data = None,
    text: Text = None,
    layer: Layer = None,
    seed: Seed = 0,
) -> Result:
    """Search target values one fact at a time and in one batch.

    Seconds per edit of the published procedure and of ours on the same facts, with early stopping and without it, how
    far apart the values are, and what our time is made of.
    """
    from rich.console import Console

    from catechism.bench.single import Request
    from catechism.bench.values import run

    request = Request(model=model, facts=facts, data=data, text=text, layer=layer, seed=seed)
    found = run(request, Settings.from_environment(os.environ), Console(stderr=True))
    rows = cast("list[dict[str, JSON]]", found["rows"])
    return Result({**found, **circumstances(seed)}, table(side_by_side(rows)))
