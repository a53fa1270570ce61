"""The report of a benchmark of many edits, as one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

from catechism.bench.charts import value
from catechism.bench.rows import FIRST, SUMMARY
from catechism.page import Picture
from catechism.page.figures import Figures, Table, table_of, write_figures
from catechism.types import JSON

Row = Mapping[str, JSON]
MISSES_SHOWN = 60


def write_report(
    title: str, found: Mapping[str, JSON], circumstances: Mapping[str, object], pictures: Sequence[Picture], path: Path
) -> Path:
    """Write what was found as a page with its pictures.

    Args:
        title: its heading.
        found: what the benchmark returned: rows, model, data, layers, misses, failures; conclusions, where it drew any.
        circumstances: machine, seed, command, version.
        pictures: of the rows.
        path: where it goes.
    """
    rows = cast("list[Row]", found["rows"])
    model, data = cast("Row", found.get("model") or {}), cast("Row", found.get("data") or {})
    machine = cast("Mapping[str, object]", circumstances.get("machine") or {})
    facts = {
        "model": f"{model.get('name')} ({model.get('type')}), {model.get('base')}",
        "facts": f"{data.get('format')} {data.get('file') or ''}, {data.get('read')} read",
        "machine": ", ".join(str(part) for part in machine.values()),
        "command": str(circumstances.get("command")),
        "seed": str(circumstances.get("seed")),
        "version": str(circumstances.get("version")),
    }
    tables = [
        table_of("What the model says", rows, ("method", "n", *SUMMARY, *FIRST[:8], "retained"), FREE),
        table_of("What it takes", rows, ("method", "n", *FIRST[8:], "layer", "seconds_prepare", "failed"), COST),
        table_of("Teacher-forced, as the papers have it", rows, _forced(rows), FORCED),
        table_of("Damage", rows, ("method", "n", "kl_neighbour", "norm_growth", "perplexity_ratio", "weights_exact")),
    ]
    misses, failures = cast("list[Row]", found.get("misses") or []), cast("list[Row]", found.get("failures") or [])
    if misses:
        columns = ("method", "fact", "kind", "prompt", "before", "after")
        note = f"The first {MISSES_SHOWN} of those that are listed."
        tables.append(table_of("Questions that went wrong", misses[:MISSES_SHOWN], columns, note))
    if failures:
        tables.append(table_of("Facts that could not be taken in", failures, ("method", "fact", "message")))
    errors = [row for row in rows if row.get("error")]
    if errors:
        tables.append(table_of("Methods that failed", errors, ("method", "error")))
    words = cast("list[str]", found.get("conclusions") or conclusions(rows))
    return write_figures(Figures(title, facts, words, pictures, _filled(tables)), path)


FREE = (
    "By free greedy decoding with the model's own stop, after the last edit. Locality: neighbours, other questions "
    "about the subject and unrelated questions, answered as before, in one count. Portability: reversed, one-hop, "
    "multi-hop and alias questions in one count. Average: of reliability, generalisation and locality."
)
COST = (
    "Seconds of learning for each fact; memory of the method's own process until its last edit; bytes of the one delta "
    "that holds all facts."
)
FORCED = "The model is fed the right answer and its probabilities are read. Not what it says."


def conclusions(rows: Sequence[Row]) -> list[str]:
    """What the rows say, in words."""
    last = list({str(row["method"]): row for row in rows if value(row, "average") is not None}.values())
    if not last:
        return []
    best = max(last, key=lambda row: value(row, "average") or 0.0)
    words = [
        f"After {best['n']} edits {best['method']} has the highest average, {_points(best, 'average')}: reliability "
        f"{_points(best, 'reliability')}, generalisation {_points(best, 'generalisation')}, locality "
        f"{_points(best, 'locality')}."
    ]
    if len(last) > 1:
        fast = min(last, key=lambda row: value(row, "seconds_per_edit") or 0.0)
        seconds = value(fast, "seconds_per_edit") or 0.0
        words.append(f"{fast['method']} is the fastest, {seconds:.3g} seconds for an edit.")
        spared = max(last, key=lambda row: value(row, "locality") or 0.0)
        words.append(f"{spared['method']} moves least of what was to stay, locality {_points(spared, 'locality')}.")
    return words


def _points(row: Row, name: str) -> str:
    found = value(row, name)
    return "-" if found is None else f"{found:.3f}"


def _forced(rows: Sequence[Row]) -> tuple[str, ...]:
    return ("method", "n", *dict.fromkeys(key for row in rows for key in row if key.startswith("tf_")))


def _filled(tables: Sequence[Table]) -> list[Table]:
    return [table for table in tables if table.rows]
