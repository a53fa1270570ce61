"""Requests one after another in ``catechism bench forget``: how facts are cut into them, and what is said of them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from typing import cast

from catechism.delta import Delta
from catechism.errors import UsageError
from catechism.evaluate.audit import InSequence
from catechism.methods.forgetting import Forgetter
from catechism.model import LiveModel
from catechism.model.surgery import Applied
from catechism.types import JSON, Forgetting, How

BACK = 0.02  # by how much recall has to rise after a request's own turn to count as coming back
#: What is put in the place of the forgotten where a method only replaces.
INSTEAD = "unknown"


def cut(request: Forgetting, requests: int) -> list[Forgetting]:
    """The facts in as many requests, whoever they are about one after another; sizes differ by one at most.

    Raises: UsageError for more requests than facts, or none.
    """
    facts = request.forget
    if not 1 <= requests <= len(facts):
        raise UsageError(
            f"{requests} requests cannot be made of {len(facts)} facts. Ask for 1 to {len(facts)}, or forget more."
        )
    subjects = list(dict.fromkeys(one.fact.subject for one in facts))
    ordered = sorted(facts, key=lambda one: subjects.index(one.fact.subject))
    bounds = [len(facts) * i // requests for i in range(requests + 1)]
    return [replace(request, forget=tuple(ordered[a:b])) for a, b in zip(bounds, bounds[1:], strict=False)]


def asked_of(request: Forgetting, hows: frozenset[How]) -> Forgetting:
    """The request as a method can meet it: erase if it can, else abstain, else replace."""
    how = next(one for one in (How.ERASE, How.ABSTAIN, How.REPLACE) if one in hows)
    return replace(request, how=how, replacement=INSTEAD if how is How.REPLACE else "")


class Turns:
    """The turns that a method has had on a model, each fitted on what the ones before have left there."""

    def __init__(self, method: Forgetter, seed: int) -> None:
        self._method, self._seed = method, seed
        self._on: list[Applied] = []
        self.deltas: list[Delta] = []
        self.seconds: list[float] = []

    def forget(self, live: LiveModel, request: Forgetting) -> None:
        """Fit one more request, and put what comes of it on the model."""
        started = time.perf_counter()
        request = asked_of(request, self._method.hows)
        delta = self._method.fit(live, request, self._method.Spec(seed=self._seed))
        self.seconds.append(time.perf_counter() - started)
        self.deltas.append(delta)
        self._on.append(live.apply(delta))

    def take_off(self, live: LiveModel) -> None:
        """Take everything off again."""
        while self._on:
            live.revert(self._on.pop())


def request_rows(found: InSequence, turns: Turns) -> list[JSON]:
    """A row for each request, in their order."""
    rows: list[JSON] = []
    for i, audit in enumerate(found.audits):
        attack = audit.worst_attack
        rows.append({
            "request": i + 1, "facts": audit.facts, "before": found.before[i], "after": found.after[i],
            "at_end": found.at_end[i], "returned": found.returned[i], "verdict": str(audit.verdict),
            "worst_attack": attack and attack.name, "worst_attack_gap": attack and attack.gap,
            "seconds": turns.seconds[i], "record": turns.deltas[i].info.get("record"),
            "reasons": list[JSON](audit.reasons),
        })  # fmt: skip
    return rows


def requests_of(row: Mapping[str, JSON]) -> list[dict[str, JSON]]:
    """The rows of the requests in a method's row; none where there was one request."""
    return cast("list[dict[str, JSON]]", row.get("requests") or [])


def in_words(row: Mapping[str, JSON]) -> str:
    """Whether requests came back after their turn, and what became of all of them."""
    asked = requests_of(row)
    before, after, at_end = (
        sum(_figure(one, name) for one in asked) / len(asked) for name in ("before", "after", "at_end")
    )
    back = [f"{one['request']} (+{_figure(one, 'returned'):.2f})" for one in asked if _figure(one, "returned") > BACK]
    returned = f"returned after their turn: {', '.join(back)}" if back else "no earlier one returned after its turn"
    words = [str(one["verdict"]) for one in asked]
    verdicts = ", ".join(f"{words.count(word)} {word}" for word in dict.fromkeys(words))
    return (
        f"{row['method']}, {len(asked)} requests one after another: recall {before:.2f} before, {after:.2f} just after "
        f"its own turn, {at_end:.2f} at the end, mean over the requests; {returned}. At the end: {verdicts}."
    )


def _figure(row: Mapping[str, JSON], name: str) -> float:
    return float(cast(float, row[name]))
