"""Outcomes of a feed on a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from catechism.evaluate import Status
from catechism.service.outcomes import Ending, Outcome
from catechism.service.show import method_of
from catechism.types import Rate

ANSWER_CHARS = 40
_COLOUR = {
    Ending.RELEASED: "green", Ending.WAITING: "yellow", Ending.KNOWN: "blue", Ending.DUPLICATE: "blue",
    Ending.VALIDATED: "green",
}  # fmt: skip


def outcome_table(outcomes: Sequence[Outcome], *, title: str | None = None) -> RenderableType:
    """A row for each fact, and below it a line for each row of the feed in which there was none."""
    grid = Table(title=title, show_lines=True, expand=True)
    for name, share in (("question", 3), ("before", 2), ("after", 2), ("method and why", 4), ("gates", 3)):
        grid.add_column(name, overflow="fold", ratio=share)
    for o in outcomes:
        if o.lesson is not None:
            why = f"{method_of(o)}: {o.choice.why}" if o.choice else o.reason
            answers = (Text(_short(o.before), style="dim"), Text(_short(o.after), style="bold"))
            grid.add_row(Text(o.lesson.fact.prompt), *answers, Text(why), _gates(o))
    unread = [Text.assemble((o.ending.value, "red"), f"  {o.reason}") for o in outcomes if o.lesson is None]
    return Group(grid, *unread) if grid.row_count else Group(*unread)


def _gates(o: Outcome) -> Text:
    """How a row ended, how many gates passed, and each that did not, with its value."""
    said = Text(o.ending.value, style=_COLOUR.get(o.ending, "red"))
    results = o.verdict.results if o.verdict else ()
    if results:
        passed = sum(result.status is Status.PASS for result in results)
        said.append(f"\n{passed} of {len(results)} passed", style="default")
    for result in results:
        if result.status is not Status.PASS:
            value = result.value.value if isinstance(result.value, Rate) else result.value
            found = result.status.value.lower() if value is None else f"{value:.2f}, asked {result.gate.bounds}"
            said.append(f"\n{result.gate.metric} {found}", style="red")
    return said


def _short(text: str | None) -> str:
    return textwrap.shorten(text or "", ANSWER_CHARS, placeholder=" …")
