"""The report of forgetting side by side, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from catechism.bench.charts import forgotten
from catechism.bench.forget import COLUMNS
from catechism.bench.forget_sequence import requests_of
from catechism.page.figures import Figures, Table, table_of, write_figures
from catechism.types import JSON

NOTE = (
    "Free decoding. Recall: share of questions that still get the forgotten answer; the worst attack is the one "
    "furthest above the control, relearning the facts themselves apart. Relearning: steps to half recovery, divided by "
    "the control's."
)


def write_report(
    title: str, found: Mapping[str, JSON], circumstances: Mapping[str, object], path: Path, more: Sequence[str] = ()
) -> Path:
    """Write what `catechism.bench.forget.run` found as a page.

    Args:
        more: paragraphs before the benchmark's own conclusions.
    """
    rows = cast("list[dict[str, JSON]]", found["rows"])
    audits = cast("dict[str, dict[str, JSON]]", found["audits"])
    machine = cast("Mapping[str, object]", circumstances.get("machine") or {})
    facts = {
        "model": str(cast("dict[str, JSON]", found["model"]).get("name")),
        "control": str(found.get("control")),
        "data": ", ".join(f"{n} {what}" for what, n in cast("dict[str, JSON]", found["data"]).items()),
        "machine": ", ".join(str(part) for part in machine.values()),
        "command": str(circumstances.get("command")),
        "seed": str(circumstances.get("seed")),
        "version": str(circumstances.get("version")),
    }
    half = COLUMNS.index("neighbour")
    tables = [
        table_of("What comes back", rows, ("method", "verdict", *COLUMNS[:half]), NOTE),
        table_of("What stays, and what it takes", rows, ("method", *COLUMNS[half:-1])),
        *(_in_sequence(str(row["method"]), asked) for row in rows if (asked := requests_of(row))),
        *(_audit(name, audit) for name, audit in audits.items()),
    ]
    words = [*more, *cast("list[str]", found["conclusions"])]
    return write_figures(Figures(title, facts, words, forgotten(rows), tables), path)


def _in_sequence(name: str, asked: Sequence[Mapping[str, JSON]]) -> Table:
    columns = (
        "request", "facts", "before", "after", "at_end", "returned", "verdict", "worst_attack", "worst_attack_gap",
        "seconds",
    )  # fmt: skip
    note = "Recall before and just after a request's own turn, and after the last; returned is what came back between."
    return table_of(f"Requests one after another: {name}", asked, columns, note)


def _audit(name: str, audit: Mapping[str, JSON]) -> Table:
    columns = ("name", "family", "value", "low", "high", "control", "before", "gap", "p", "n", "tells", "note")
    shown = [row for row in cast("list[dict[str, JSON]]", audit["rows"]) if row["decides"]]
    return table_of(f"Audit of {name}: {audit['verdict']}", shown, columns)
