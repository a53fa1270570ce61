"""The report as a page: plain data in, one HTML file out that needs no network and runs no code."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import matplotlib as mpl
from jinja2 import Environment, StrictUndefined
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catechism.delta.file import write_atomically
from catechism.types import JSON

_GREEN, _RED, _GREY = "#2e7d32", "#c62828", "#9e9e9e"


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
        pictures: beside those that are drawn from the rows.
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
    pictures = [*_drawn(page.rows), *page.pictures]
    counts = Counter(row.outcome for row in page.rows)
    html = environment.from_string(template).render(page=page, pictures=pictures, counts=counts.most_common())
    return write_atomically(path, html.encode())


def _drawn(rows: Sequence[Row]) -> list[Picture]:
    measured = [row for row in rows if row.metrics]
    if not measured:
        return []
    return [
        Picture(
            "Before and after",
            "Share of a fact's questions that are answered right, before its edit (grey) and with it on.",
            _before_after(measured),
        ),
        Picture(
            "Locality",
            "Share of the questions about other things that are answered as before, with 95 % intervals.",
            _locality(measured),
        ),
    ]


def _before_after(rows: Sequence[Row]) -> str:
    figure, axes = _axes(len(rows))
    for i, row in enumerate(rows):
        for offset, metric in ((0.2, "efficacy"), (-0.2, "paraphrase_mean")):
            rate = (row.metrics or {}).get(metric)
            if isinstance(rate, dict):
                before, after = float(rate["before"] or 0.0), float(rate["value"])
                axes.plot([before, after], [i + offset] * 2, color=_GREY, linewidth=1, zorder=1)
                axes.scatter([before], [i + offset], color=_GREY, s=18, zorder=2)
                axes.scatter([after], [i + offset], color=_GREEN if after >= 0.9 else _RED, s=26, zorder=3)
    _label(axes, rows, "canonical prompt (upper) and paraphrases (lower)")
    return to_svg(figure)


def _locality(rows: Sequence[Row]) -> str:
    figure, axes = _axes(len(rows))
    for i, row in enumerate(rows):
        for offset, metric in ((0.2, "locality_neighbour"), (-0.2, "locality_unrelated")):
            rate = (row.metrics or {}).get(metric)
            if isinstance(rate, dict):
                value, low, high = (float(rate[key]) for key in ("value", "low", "high"))
                axes.plot([low, high], [i + offset] * 2, color=_GREY, linewidth=1, zorder=1)
                axes.scatter([value], [i + offset], color=_GREEN if value >= 0.95 else _RED, s=22, zorder=2)
    _label(axes, rows, "neighbours (upper) and unrelated questions (lower)")
    return to_svg(figure)


def _axes(n: int) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(7.5, 1.0 + 0.42 * n), layout="constrained")
    return figure, figure.add_subplot()


def _label(axes: Axes, rows: Sequence[Row], what: str) -> None:
    axes.set_yticks(
        range(len(rows)), [f"{row.name}: {row.wanted}"[:44].replace("$", r"\$") for row in rows], fontsize=8
    )
    axes.invert_yaxis()
    axes.set_xlim(-0.03, 1.03)
    axes.set_xlabel(what, fontsize=8)
    axes.grid(axis="x", color="#eeeeee")
    axes.set_axisbelow(True)


def to_svg(figure: Figure) -> str:
    """A matplotlib figure as SVG text; the same figure gives the same text."""
    buffer = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "catechism", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    return text[text.index("<svg") :]
