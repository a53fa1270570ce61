"""``catechism study editors``: which editor does what, and how far one model can be edited, with the answer in words.

Two experiments. **Side effects**: every method learns the same facts, all in one model, and everything is asked
afterwards. **Capacity**: more and more facts are written by a closed form into one matrix or several, and by a bank of
adapters, one for each fact, that act where their own question is recognised. What the numbers say is written from the
numbers; nothing is said that they do not hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import cast

import torch

from catechism.bench import editors
from catechism.bench.charts import value
from catechism.bench.single import Request
from catechism.bench.trial import Job
from catechism.settings import Settings
from catechism.types import JSON

Row = Mapping[str, JSON]

#: What an editor must reach to be called fit, by free decoding: the bounds of the default gates.
RELIABLE, GENERAL, LOCAL = 0.95, 0.90, 0.95
#: Reliability under which a model counts as full.
FULL = 0.90


@dataclass(frozen=True, slots=True)
class Study:
    """What to compare.

    Attributes:
        request: the model, where the facts come from, the methods of the first experiment and its number of facts.
        sizes: numbers of facts of the second experiment, rising.
        closed_form, bank: its two methods.
    """

    request: Request
    sizes: tuple[int, ...] = (100, 300, 1000)
    closed_form: str = "sequential"
    bank: str = "memoir"


def run(study: Study, settings: Settings) -> dict[str, JSON]:
    """Run both experiments.

    Returns: ``rows``, those of the first experiment and then those of the second, told apart by ``experiment``;
        ``conclusions``, in words; the rest as `catechism.bench.editors.run` gives it for the first.
    Raises: as that.
    """
    job = Job(study.request, settings, "", threads=torch.get_num_threads())
    first = editors.run(study.request, settings, job=job)
    effects = [{"experiment": "side effects", **row} for row in cast("list[dict[str, JSON]]", first["rows"])]
    capacity: list[dict[str, JSON]] = []
    for size in study.sizes:
        request = replace(study.request, facts=size, methods=tuple(dict.fromkeys((study.closed_form, study.bank))))
        found = editors.run(request, settings, job=job)
        capacity += [{"experiment": "capacity", **row} for row in cast("list[dict[str, JSON]]", found["rows"])]
    words = [*say_effects(effects), *say_capacity(capacity, study.closed_form, study.bank)]
    return {**first, "rows": [*effects, *capacity], "conclusions": list(words)}


def say_effects(rows: Sequence[Row]) -> list[str]:
    """What the first experiment shows, in words."""
    measured = [row for row in rows if value(row, "average") is not None]
    if not measured:
        return ["No method could be measured."]
    n = measured[0]["n"]
    best = sorted(measured, key=lambda row: -(value(row, "average") or 0.0))
    words = [
        f"After {n} facts in one model the highest averages of reliability, generalisation and locality are "
        f"{_told(best[:3], 'average')}."
    ]
    fit = [row for row in best if _reaches(row, reliability=RELIABLE, generalisation=GENERAL, locality=LOCAL)]
    bounds = f"reliability {RELIABLE:g}, generalisation {GENERAL:g} and locality {LOCAL:g}"
    words.append(f"{_listed(_names(fit))} reached {bounds} together." if fit else f"No method reached {bounds}.")
    narrow = [row for row in best if _reaches(row, reliability=RELIABLE) and not _reaches(row, generalisation=GENERAL)]
    if narrow:
        told = _told(narrow, "generalisation")
        words.append(f"Learned in the prompt they were given, but not in other words, by generalisation: {told}.")
    rough = [row for row in best if _reaches(row, reliability=RELIABLE) and not _reaches(row, locality=LOCAL)]
    if rough:
        words.append(f"Learned at the cost of other answers, by locality: {_told(rough, 'locality')}.")
    weak = [row for row in best if not _reaches(row, reliability=RELIABLE)]
    if weak:
        words.append(f"Not even learned, by reliability: {_told(weak, 'reliability')}.")
    if failed := [row for row in rows if row.get("error")]:
        words.append(f"Failed as a whole: {_listed(_names(failed))}.")
    return words


def say_capacity(rows: Sequence[Row], closed_form: str, bank: str) -> list[str]:
    """What the second experiment shows, in words."""
    words: list[str] = []
    for name, kind in ((closed_form, "the closed form"), (bank, "the bank of adapters")):
        own = [row for row in rows if row["method"] == name and value(row, "reliability") is not None]
        if not own:
            words.append(f"{name}, {kind}, could not be measured.")
            continue
        held = [row for row in own if (value(row, "reliability") or 0.0) >= FULL]
        last = own[-1]
        limit = f"held {FULL:g} reliability up to {held[-1]['n']} facts" if held else f"never held {FULL:g} reliability"
        where = "the most that was tried" if held and held[-1] is last else "and was full beyond"
        words.append(
            f"{name}, {kind}, {limit}{f', {where}' if held else ''}. At {last['n']} facts: reliability "
            f"{_figure(last, 'reliability')}, generalisation {_figure(last, 'generalisation')}, locality "
            f"{_figure(last, 'locality')}, {_megabytes(last)} MB."
        )
    pairs = [
        (one, other)
        for one in rows
        for other in rows
        if one["method"] == closed_form and other["method"] == bank != closed_form and one["n"] == other["n"]
        if value(one, "seconds_per_edit") and value(other, "seconds_per_edit")
    ]
    if pairs:
        one, other = pairs[-1]
        ratio = (value(other, "seconds_per_edit") or 0.0) / (value(one, "seconds_per_edit") or 1.0)
        faster, times = (closed_form, ratio) if ratio >= 1 else (bank, 1 / ratio)
        spared = max((one, other), key=lambda row: value(row, "locality") or 0.0)
        words.append(
            f"At {one['n']} facts {faster} takes in {times:.1f} times as many facts a second, and {spared['method']} "
            f"is the more specific, by locality: {_told((one, other), 'locality')}."
        )
    return words


def _reaches(row: Row, **bounds: float) -> bool:
    return all((value(row, name) or 0.0) >= bound for name, bound in bounds.items())


def _names(rows: Sequence[Row]) -> list[str]:
    return [str(row["method"]) for row in rows]


def _told(rows: Sequence[Row], name: str) -> str:
    """The methods, each with one figure."""
    return _listed([f"{row['method']} ({_figure(row, name)})" for row in rows])


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def _figure(row: Row, name: str) -> str:
    found = value(row, name)
    return "not measured" if found is None else f"{found:.3f}"


def _megabytes(row: Row) -> str:
    return f"{(value(row, 'delta_bytes') or 0.0) / 1e6:.1f}"
