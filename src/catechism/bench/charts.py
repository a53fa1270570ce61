"""Pictures of a benchmark of many edits, as SVG text for its report. The same rows give the same text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from catechism.bench.forget_cases import YARDSTICKS
from catechism.locate.pictures import svg_of
from catechism.page import Picture
from catechism.types import JSON

_COLOURS = ("#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#bbbbbb")
_MARKS = "osD^vP*X"
Row = Mapping[str, JSON]


def pareto(rows: Sequence[Row]) -> list[Picture]:
    """What an edit reaches against what it moves, and against what it takes; none where nothing was measured."""
    measured = [row for row in rows if value(row, "generalisation") is not None and value(row, "locality") is not None]
    if not measured:
        return []
    return [
        Picture(
            "What is learned, and what moves",
            "Each method by the share of other questions that are answered as before (across) and of paraphrases that "
            "are answered right (up), with 95 % intervals, after the last edit. Filled marks: no other method is "
            "better in both.",
            _scatter(measured),
        ),
        Picture(
            "What it takes",
            "Seconds for an edit (across, logarithmic) and the mean of reliability, generalisation and locality (up).",
            _seconds(measured),
        ),
    ]


def curves(rows: Sequence[Row]) -> list[Picture]:
    """How the figures of a stream go as it gets longer; none where there is no row."""
    if not rows:
        return []
    figures = ("reliability", "generalisation", "locality", "retention_first_decile")
    figure = Figure(figsize=(9.6, 5.6), layout="constrained")
    names = list(dict.fromkeys(str(row["method"]) for row in rows))
    for place, name in enumerate(figures):
        axes = figure.add_subplot(2, 2, place + 1)
        for i, method in enumerate(names):
            points = [(row["n"], value(row, name)) for row in rows if row["method"] == method]
            known = [(n, y) for n, y in points if isinstance(n, int) and y is not None]
            axes.plot(
                *zip(*known, strict=True), marker=_MARKS[i % 8], color=_COLOURS[i % 7], label=method
            ) if known else None
        axes.set_xscale("log")
        axes.set_ylim(-0.03, 1.03)
        axes.set_title(name.replace("_", " "), fontsize="medium")
        axes.set_xlabel("edits so far", fontsize="small")
        axes.grid(color="#eeeeee")
    figure.axes[0].legend(fontsize="small")
    caption = "All edits so far, asked again after the last one, by free decoding."
    return [Picture("A stream of edits", caption, svg_of(figure))]


def forgotten(rows: Sequence[Row]) -> list[Picture]:
    """What attacks get beyond a model that never learned against what stays of the rest; none where none was measured.

    Without a control, what they get at all.
    """
    measured = [row for row in rows if value(row, "worst_attack_recall") is not None and "error" not in row]
    if not measured:
        return []
    controlled = any(row["method"] == "control" for row in measured)
    up = "worst_attack_gap" if controlled else "worst_attack_recall"
    figure = Figure(figsize=(8.5, 5.6), layout="constrained")
    axes = figure.add_subplot()
    points = [(value(row, "neighbour") or 0.0, value(row, up) or 0.0) for row in measured]
    theirs = [(x, -y) for row, (x, y) in zip(measured, points, strict=True) if row["method"] not in YARDSTICKS]
    for i, (row, (x, y)) in enumerate(zip(measured, points, strict=True)):
        is_front = front([(x, -y), *theirs])[0]
        colour = "#888888" if row["method"] in YARDSTICKS else _COLOURS[i % 7]
        axes.scatter(
            [x], [y], marker=_MARKS[i % 8], s=60, edgecolors=colour, facecolors=colour if is_front else "white",
            zorder=3, label=str(row["method"]),
        )  # fmt: skip
    _shares(axes, "neighbours answered right", "recall by the worst attack" + ", less the control's" * controlled)
    axes.set_xlim(min(x for x, _ in points) - 0.05, 1.03)
    axes.set_ylim(min(-0.05, *(y for _, y in points)), 1.03)
    figure.legend(loc="outside right upper", fontsize="x-small")
    caption = (
        "Each method by neighbours that are answered right (across) and by what its worst attack, relearning apart, "
        f"brings back{' beyond the model that never learned' * controlled} (up; lower is better). Filled marks: no "
        "method is better in both."
    )
    return [Picture("What comes back, and what stays", caption, svg_of(figure))]


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which points no other one beats or equals in both coordinates, being better in one."""
    return [not any(a >= x and b >= y and (a > x or b > y) for a, b in points) for x, y in points]


def value(row: Row, name: str) -> float | None:
    """A rate's value or a plain figure."""
    found = row.get(name)
    if isinstance(found, dict):
        found = found["value"]
    return float(found) if isinstance(found, (int, float)) else None


def _scatter(rows: Sequence[Row]) -> str:
    figure = Figure(figsize=(7.5, 5.2), layout="constrained")
    axes = figure.add_subplot()
    points = [(value(row, "locality") or 0.0, value(row, "generalisation") or 0.0) for row in rows]
    for i, (row, (x, y), is_front) in enumerate(zip(rows, points, front(points), strict=True)):
        colour = _COLOURS[i % 7]
        (left, right), (low, high) = _interval(row, "locality", x), _interval(row, "generalisation", y)
        axes.plot([left, right], [y, y], color=colour, linewidth=1)
        axes.plot([x, x], [low, high], color=colour, linewidth=1)
        axes.scatter(
            [x], [y], marker=_MARKS[i % 8], s=60, edgecolors=colour, facecolors=colour if is_front else "white",
            zorder=3, label=str(row["method"]),
        )  # fmt: skip
    _shares(axes, "locality", "generalisation")
    axes.legend(fontsize="small")
    return svg_of(figure)


def _shares(axes: Axes, across: str, up: str) -> None:
    """A plane of two shares, with a grid behind what is drawn on it."""
    axes.set_xlim(-0.03, 1.03)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)


def _seconds(rows: Sequence[Row]) -> str:
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for i, row in enumerate(rows):
        x, y = value(row, "seconds_per_edit") or 0.0, value(row, "average")
        if y is not None and x > 0:
            axes.scatter([x], [y], marker=_MARKS[i % 8], s=60, color=_COLOURS[i % 7], label=str(row["method"]))
    axes.set_xscale("log")
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("seconds for an edit")
    axes.set_ylabel("average")
    axes.grid(color="#eeeeee")
    axes.set_axisbelow(True)
    axes.legend(fontsize="small")
    return svg_of(figure)


def _interval(row: Row, name: str, otherwise: float) -> tuple[float, float]:
    found = row.get(name)
    return (float(found["low"]), float(found["high"])) if isinstance(found, dict) else (otherwise, otherwise)
