"""Requests to forget one after another, and what all of them look like at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from catechism.errors import UsageError
from catechism.evaluate.audit.items import Kept, items_of
from catechism.evaluate.audit.profile import QUICK, Profile
from catechism.evaluate.audit.recall import plain_recall
from catechism.evaluate.audit.result import Audit
from catechism.evaluate.audit.run import Auditor
from catechism.model import LiveModel
from catechism.types import Forgetting

#: Forgets one request on a model that carries what was forgotten before, by putting a delta on it.
ForgetOne = Callable[[LiveModel, Forgetting], None]


@dataclass(frozen=True)
class InSequence:
    """What a series of requests came to.

    Attributes:
        before: recall of each request's facts just before its turn, mean over facts and phrasings.
        after: the same just after its turn.
        at_end: the same after the last request.
        audits: of every request by itself, with everything on the model.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    at_end: tuple[float, ...]
    audits: tuple[Audit, ...]

    @property
    def returned(self) -> tuple[float, ...]:
        """How much of each request later ones have brought back."""
        return tuple(end - after for end, after in zip(self.at_end, self.after, strict=True))


def in_sequence(
    live: LiveModel,
    control: LiveModel | None,
    requests: Sequence[Forgetting],
    kept: Kept,
    forget_one: ForgetOne,
    *,
    profile: Profile = QUICK,
    seed: int = 0,
) -> InSequence:
    """Forget requests one after another and audit all of them at the end. The deltas stay on the model.

    A fact that was forgotten before is taken out of what later requests retain.

    Args:
        live: the model; deltas that are on it already stay and count as part of it.
        control: never learned any of it, or None.
        requests: in order.
        kept: what has to stay through all of them.
        forget_one: fits and applies; it gets the model as the requests before have left it.

    Raises: UsageError if there is no request, or two of them forget the same fact.
    """
    facts = [one.fact for request in requests for one in request.forget]
    if not facts or len(set(facts)) < len(facts):
        raise UsageError("A fact is in two requests, or there is none. Give each fact once.")
    before: list[float] = []
    after: list[float] = []
    forgotten: set[object] = set()
    for request in requests:
        retain = tuple(one for one in request.retain if one.fact not in forgotten)
        before.append(_recall(live, request, kept))
        forget_one(live, replace(request, retain=retain))
        after.append(_recall(live, request, kept))
        forgotten |= {one.fact for one in request.forget}
    spared = replace(kept, neighbours=[one for one in kept.neighbours if one.fact not in forgotten])
    audits = [
        Auditor(
            control,
            replace(request, retain=tuple(one for one in request.retain if one.fact not in forgotten)),
            spared,
            profile=profile,
            seed=seed,
        ).audit(live)
        for request in requests
    ]
    at_end = [_recall(live, request, kept) for request in requests]
    return InSequence(tuple(before), tuple(after), tuple(at_end), tuple(audits))


def _recall(live: LiveModel, request: Forgetting, kept: Kept) -> float:
    values = plain_recall(live, items_of(request, kept, rivals=0, seed=0))["recall_mean"]
    return math.fsum(values) / len(values)
