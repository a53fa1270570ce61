"""``catechism study forgetting``: what the literature found about forgetting, put to the test on the model at hand.

Every question is answered from the rows of `catechism.bench.forget` and their audits; what the figures do not hold is
not said.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from rich.console import Console

from catechism.bench import forget
from catechism.bench.charts import value
from catechism.bench.forget_cases import YARDSTICKS
from catechism.settings import Settings
from catechism.types import JSON

Found = Mapping[str, JSON]
#: Audits by method, without the yardsticks.
Audits = Mapping[str, Found]

#: Methods that the questions are put to: ascent, preferences, another answer, representations, a closed form.
METHODS = ("grad_diff", "npo", "simnpo", "idk_dpo", "altpo", "rmu", "undial", "rome_forget")
#: Another answer for every phrasing, each drawn by itself: labels at random, for the question about these.
RANDOM_LABELS = "altpo"
BACK = 0.02  # by how much recall in other words has to be above that of the canonical prompt to be told


def run(request: forget.Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Run the benchmark and answer the questions.

    Returns: what `catechism.bench.forget.run` does, and ``answers``, a paragraph for each question.
    Raises: as that.
    """
    found = forget.run(request, settings, console)
    return {**found, "answers": list[JSON](answers(found))}


def answers(found: Found) -> list[str]:
    """A paragraph for each question."""
    rows = cast("list[dict[str, JSON]]", found["rows"])
    every = cast("dict[str, Found]", found["audits"])
    methods = [str(row["method"]) for row in rows if row["method"] not in YARDSTICKS]
    audits = {method: every[method] for method in methods if method in every}
    if not audits:
        return ["No method could be measured."]
    hidden = {method: audit for method, audit in audits.items() if _forgot(audit)}
    told = [
        _plainly(audits, hidden),
        _attack("Does rounding to 4 bits bring it back?", "int4", "arXiv:2410.16454", hidden),
        _attack("Does rounding to 8 bits?", "int8", "arXiv:2605.02196", hidden),
        _attack("Does emphasis on the keywords bring it back?", "keyword", "arXiv:2509.24675", hidden),
        _attack("Does training on related text bring it back?", "benign_relearning", "arXiv:2406.13356", hidden),
        _attack("Does half of the change, put back?", "half_reset", "arXiv:2404.18466", hidden),
        _probes(hidden),
        _relearning(hidden),
        _unseen(audits),
    ]
    if RANDOM_LABELS in audits:
        told.append(_random_labels(audits[RANDOM_LABELS]))
    return told


def _forgot(audit: Found) -> bool:
    """Whether the model, asked plainly, cannot be told from the control. What was never gone cannot come back."""
    rows = [_row(audit, name) for name in ("recall", "recall_mean", "recall_worst")]
    return not any(row is not None and row["tells"] for row in rows)


def _plainly(audits: Audits, hidden: Audits) -> str:
    question = "Is it gone when it is asked for plainly?"
    if len(hidden) == len(audits):
        return f"{question} Yes, after every one of {len(audits)} methods."
    rest = ", ".join(method for method in audits if method not in hidden)
    gone = f"after {', '.join(hidden)}" if hidden else "after none of them"
    return (
        f"{question} Of {len(audits)} methods {gone}; whether it comes back is asked of these alone. Not after {rest}."
    )


def _attack(question: str, name: str, source: str, audits: Audits) -> str:
    """Whether an attack gets more from the model than from the control."""
    asked = list(_measured(audits, name))
    back = [f"{method} ({_figures(row)})" for method, row in asked if row["tells"]]
    if not asked:
        return f"{question} It was not measured."
    if not back:
        return f"{question} ({source}) For none of {len(asked)} methods does it tell the model from the control."
    return f"{question} ({source}) Yes, beyond the control, for {len(back)} of {len(asked)} methods: {', '.join(back)}."


def _probes(audits: Audits) -> str:
    question = "Do probes still see it? (arXiv:2409.02228)"
    asked = list(_measured(audits, "probe", "lens"))
    told = [f"{method}, {row['name']} at {row['note']} ({_figures(row)})" for method, row in asked if row["tells"]]
    if not asked:
        return f"{question} It was not measured."
    if not told:
        return f"{question} No probe and no lens reads more of it than in the control."
    return f"{question} Yes: {'; '.join(told)}."


def _relearning(audits: Audits) -> str:
    question = "Is it learned again sooner than by a model that never knew it?"
    sooner: list[str] = []
    as_late: list[str] = []
    for method, row in _measured(audits, "relearning"):
        ratio = value(row, "value")
        if ratio is not None:
            (sooner if row["tells"] else as_late).append(f"{method} ({ratio:.2f} of the control's steps)")
    words = [f"sooner: {', '.join(sooner)}"] if sooner else []
    words += [f"not sooner: {', '.join(as_late)}"] if as_late else []
    return f"{question} {'; '.join(words).capitalize() or 'It was not measured'}."


def _unseen(audits: Audits) -> str:
    question = "Does forgetting reach phrasings that no method was shown?"
    canonical, leaking = dict(_measured(audits, "recall")), list[str]()
    for method, every in _measured(audits, "recall_mean"):
        first, mean = value(canonical.get(method, {}), "value"), value(every, "value")
        if first is not None and mean is not None and mean > first + BACK:
            leaking.append(f"{method} ({first:.2f} of canonical prompts, {mean:.2f} of all)")
    if not leaking:
        return f"{question} Yes: for no method do other phrasings get more of it than the canonical prompt."
    return f"{question} Not wholly. More is said in other words by {', '.join(leaking)}."


def _random_labels(audit: Found) -> str:
    """After arXiv:2409.02228: whether training on wrong answers generalises, or stays where it was trained."""
    question = "Does forgetting by random labels generalise? (arXiv:2409.02228)"
    every, probe = _row(audit, "recall_mean"), _row(audit, "probe")
    if every is None:
        return f"{question} It was not measured."
    spread = "tells the model from the control" if every["tells"] else "does not tell it from the control"
    words = f"{question} Asked in all phrasings, {RANDOM_LABELS} {spread} ({_figures(every)})."
    if probe is not None:
        reads = "still reads it" if probe["tells"] else "reads no more of it than in the control"
        words += f" A linear probe {reads} ({_figures(probe)})."
    return words


def _measured(audits: Audits, *names: str) -> Iterator[tuple[str, Found]]:
    """Every method with each of its rows of these names, in this order, that was measured."""
    for method, audit in audits.items():
        for name in names:
            if (row := _row(audit, name)) is not None:
                yield method, row


def _row(audit: Found, name: str) -> Found | None:
    """The row of an audit of this name, if it was measured."""
    for row in cast("list[Found]", audit["rows"]):
        if row["name"] == name and row["value"] is not None:
            return row
    return None


def _figures(row: Found) -> str:
    mine, control = value(row, "value"), value(row, "control")
    return f"{mine:.2f}" if control is None else f"{mine:.2f}, control {control:.2f}"
