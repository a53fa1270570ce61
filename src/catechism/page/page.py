"""The report as a page: plain data in, one HTML file out that needs no network and runs no code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from catechism.delta.file import write_atomically
from catechism.types import JSON


@dataclass(frozen=True, slots=True)
class Row:
    """What became of one row of the feed.

    Attributes:
        name: the feed's own identifier or line.
        outcome: one word: released, waiting, refused, known ...
        question: the canonical prompt; "" where the row could not be read.
        before: what the model said before.
        after: what it says with the edit on; None where there is no edit.
        wanted: the new object.
        method: the method with its layer, "rome @ 0" for instance; "" where none was chosen.
        why: the selector's reason, or the reason of a refusal.
        gates: outcome of each gate by metric.
        metrics: rates by metric, as of `Rate.json`.
        edit: the edit's id.
    """

    name: str
    outcome: str
    question: str = ""
    before: str = ""
    after: str | None = None
    wanted: str = ""
    method: str = ""
    why: str = ""
    gates: Mapping[str, str] | None = None
    metrics: Mapping[str, JSON] | None = None
    edit: str = ""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing as SVG text with what it shows."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True, slots=True)
class Page:
    """Everything that stands on the page.

    Attributes:
        title: its heading.
        facts: short lines of name and value: model, base, composition, seconds.
        rows: one for each row of the feed, in its order.
        pictures: below the table.
        proof: lines of name and value about the rollback; empty where nothing was rolled back.
    """

    title: str
    facts: Mapping[str, str]
    rows: Sequence[Row]
    pictures: Sequence[Picture] = ()
    proof: Mapping[str, str] | None = None


def write_page(page: Page, path: Path) -> Path:
    """Write the page, all or nothing. Whatever a feed or a model said stands there as text, never as markup."""
    template = (resources.files("catechism.page") / "page.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    counts = Counter(row.outcome for row in page.rows)
    html = environment.from_string(template).render(page=page, counts=counts.most_common())
    return write_atomically(path, html.encode())
