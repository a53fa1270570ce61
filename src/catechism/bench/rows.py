"""A row of a benchmark of many edits: what became of the facts, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catechism.bench.course import Failure, Scored
from catechism.evaluate import METRICS, wilson
from catechism.types import JSON, Kind, Rate

#: The first columns of a row, after its name. `neighbour` and `unrelated` are locality.
FIRST = (
    "efficacy", "paraphrase_mean", "paraphrase_worst", "neighbour", "unrelated", "portability",
    "retention_first_decile", "perplexity_ratio", "seconds_per_edit", "peak_rss_mb", "delta_bytes",
)  # fmt: skip
#: The four figures that papers on streams of edits give, here by free decoding.
SUMMARY = ("reliability", "generalisation", "locality", "average")
_RENAMED = {"neighbour": "locality_neighbour", "unrelated": "locality_unrelated"}


@dataclass(frozen=True, slots=True)
class Costs:
    """What the edits took.

    Attributes:
        seconds: of learning, for each fact that was learned.
        peak_rss_mb: highest memory of the method's process until its last edit.
        delta_bytes: of the one delta that holds all facts.
    """

    seconds: float
    peak_rss_mb: float
    delta_bytes: int


def row_of(
    method: str, n: int, scored: Scored, costs: Costs, failed: Sequence[Failure], at_once: Sequence[bool | None] = ()
) -> dict[str, JSON]:
    """The row of one method after `n` edits.

    Args:
        at_once: whether each fact was answered right just after its own edit; None or nothing where it was not asked.
    """
    metrics = {name: as_json(scored.report.metrics[name]) for name in METRICS}
    metrics["retained"] = as_json(_retained(scored, at_once))
    values: dict[str, JSON] = {
        **metrics,
        **{name: metrics[metric] for name, metric in _RENAMED.items()},
        "retention_first_decile": as_json(scored.first_decile),
        "seconds_per_edit": costs.seconds,
        "peak_rss_mb": costs.peak_rss_mb,
        "delta_bytes": costs.delta_bytes,
    }
    row: dict[str, JSON] = {"method": method, "n": n} | {name: values[name] for name in FIRST}
    row |= {"reliability": metrics["efficacy"], "generalisation": metrics["paraphrase_mean"]}
    row |= {"locality": metrics["locality"], "average": _average(scored)}
    row |= {"failed": len(failed), "superseded": len(scored.effect.superseded)}
    row |= {"not_asked": sum(scored.effect.dropped.values())}
    rest = {name: value for name, value in metrics.items() if name not in row and name not in _RENAMED.values()}
    return row | rest


def _average(scored: Scored) -> float | None:
    rates = [scored.report.metrics[name] for name in ("efficacy", "paraphrase_mean", "locality")]
    known = [rate.value for rate in rates if isinstance(rate, Rate)]
    return sum(known) / len(known) if len(known) == len(rates) else None


def _retained(scored: Scored, at_once: Sequence[bool | None]) -> Rate | None:
    """Of the facts that were answered right just after their own edit, those that still are."""
    still = [
        mark.right is True
        for mark in scored.report.marks
        if mark.question.kind is Kind.REWRITE
        and (place := scored.effect.places[mark.fact]) < len(at_once)
        and at_once[place]
    ]
    return wilson(sum(still), len(still)) if still else None


def as_json(value: Rate | float | None) -> JSON:
    """A rate as an object, a figure as it is."""
    return value.json() if isinstance(value, Rate) else value


def misses_of(method: str, scored: Scored) -> list[dict[str, JSON]]:
    """The questions that went wrong, with the answers before and after."""
    return [
        {
            "method": method,
            "fact": scored.effect.catechisms[mark.fact].fact.id,
            "kind": str(mark.question.kind),
            "prompt": mark.question.text,
            "before": mark.before,
            "after": mark.after,
            "accept": list(mark.question.accept),
        }
        for mark in scored.report.misses()
    ]


def short(row: Mapping[str, JSON], columns: Sequence[str]) -> dict[str, JSON]:
    """Some columns of a row, as the terminal shows them."""
    return {name: row.get(name) for name in columns}
