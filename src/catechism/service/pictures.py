"""Charts of a feed's edits, as SVG text for the page."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catechism.locate.pictures import svg_of
from catechism.page import Picture, Row

_GREEN, _RED, _GREY = "#2e7d32", "#c62828", "#9e9e9e"


def charts(rows: Sequence[Row]) -> list[Picture]:
    """Before and after, and locality, of the rows that were measured; none where nothing was."""
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
    return svg_of(figure)


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
    return svg_of(figure)


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
