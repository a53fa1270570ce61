"""Outcomes for people: rows of a table, and the page with its pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from catechism.locate.pictures import heat_map_svg
from catechism.locate.tracing import CausalTrace
from catechism.methods.select import EXPLICIT
from catechism.page import Page, Picture, Row
from catechism.service.outcomes import Outcome, metrics_json
from catechism.service.pictures import charts
from catechism.service.service import Service


def page_of(
    title: str,
    service: Service,
    outcomes: Sequence[Outcome],
    *,
    trace: CausalTrace | None = None,
    proof: Mapping[str, str] | None = None,
) -> Page:
    """The page about a feed: its rows, their pictures, a causal heat map, and the proof of a rollback."""
    live = service.bench.live
    facts = {
        "model": live.name,
        "base": live.base,
        "composition": service.composition().cid,
        "edits in effect": str(len(service.composition().entries)),
        "seconds": f"{sum(sum(o.seconds.values()) for o in outcomes):.1f}",
    }
    rows = [_row(o) for o in outcomes]
    pictures = charts(rows)
    if trace is not None:
        caption = (
            f"{''.join(trace.tokens).strip()!r}: the subject's embeddings are disturbed, and the output of one block "
            "at one token is put back. Red cells bring the answer back (causal tracing, arXiv:2202.05262, section 2)."
        )
        pictures.append(Picture("Where one fact sits", caption, heat_map_svg(trace)))
    return Page(title, facts, rows, pictures, proof)


def _row(o: Outcome) -> Row:
    return Row(
        name=o.name,
        outcome=o.ending.value,
        question=o.lesson.fact.prompt if o.lesson else "",
        before=o.before or "",
        after=o.after,
        wanted=o.lesson.fact.object if o.lesson else "",
        method=method_of(o),
        why=o.reason if o.choice is None or o.reason == o.choice.why else f"{o.choice.why} {o.reason}",
        gates=o.verdict and {result.gate.metric: result.status.value for result in o.verdict.results},
        metrics=o.report and metrics_json(o.report),
        edit=o.edit.id if o.edit else "",
    )


def method_of(o: Outcome) -> str:
    """The method with its layer; "" where none was chosen."""
    if o.choice is None:
        return ""
    if o.choice.method == EXPLICIT:
        return "stays text"
    return o.choice.method if o.choice.layer is None else f"{o.choice.method} @ layer {o.choice.layer}"
