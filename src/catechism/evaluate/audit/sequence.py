"""Requests to forget one after another, and what all of them look like at the end."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace

from catechism.errors import UsageError
from catechism.evaluate.audit.items import Kept, items_of
from catechism.evaluate.audit.measures import Before, Progress
from catechism.evaluate.audit.profile import QUICK, Profile
from catechism.evaluate.audit.recall import plain_recall
from catechism.evaluate.audit.result import Audit
from catechism.evaluate.audit.run import Auditor
from catechism.model import LiveModel
from catechism.types import Fact, Forgetting

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


class Series:
    """Requests in order with what is asked about each of them, so that a control is measured once for many methods.

    A fact that is forgotten in any of them is no neighbour, and is not retained by any request after its own.

    Args:
        control: never learned any of it, or None.
        requests: in order.
        kept: what has to stay through all of them.
        profile: of the audits. seed: of every draw.
        progress: told what is being measured.

    Raises: UsageError if there is no request, two of them forget the same fact, or nothing asks for a fact.
    """

    def __init__(
        self,
        control: LiveModel | None,
        requests: Sequence[Forgetting],
        kept: Kept,
        *,
        profile: Profile = QUICK,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        facts = [one.fact for request in requests for one in request.forget]
        if not facts or len(set(facts)) < len(facts):
            raise UsageError("A fact is in two requests, or there is none. Give each fact once.")
        self._requests, self._kept, self._tell = requests, kept, progress or (lambda *_: None)
        spared = replace(kept, neighbours=[one for one in kept.neighbours if one.fact not in facts])
        self._auditors = [
            Auditor(control, _without(request, set(facts)), spared, profile=profile, seed=seed, progress=progress)
            for request in requests
        ]
        self._measured: dict[str, list[Before]] = {}

    def run(self, live: LiveModel, forget_one: ForgetOne) -> InSequence:
        """Forget one after another and audit all of them at the end. The deltas stay on the model.

        Args:
            live: the model; deltas that are on it already stay, and what it does with them is what was before.
            forget_one: fits and applies; it gets the model as the requests before have left it.
        """
        befores = self._befores(live)
        before: list[float] = []
        after: list[float] = []
        forgotten: set[Fact] = set()
        n = len(self._requests)
        for i, request in enumerate(self._requests):
            self._tell("forgetting request", i, n)
            before.append(_recall(live, request, self._kept))
            forget_one(live, _without(request, forgotten))
            after.append(_recall(live, request, self._kept))
            forgotten |= {one.fact for one in request.forget}
        audits: list[Audit] = []
        for i, (auditor, was) in enumerate(zip(self._auditors, befores, strict=True)):
            self._tell("auditing request", i, n)
            audits.append(auditor.audit(live, before=was))
        at_end = [_recall(live, request, self._kept) for request in self._requests]
        return InSequence(tuple(before), tuple(after), tuple(at_end), tuple(audits))

    def _befores(self, live: LiveModel) -> list[Before]:
        """What the model does before the first request, measured once for models of one digest. The copy that is kept
        for patching is one for all."""
        digest = live.digest()
        if digest not in self._measured:
            found: list[Before] = []
            for auditor in self._auditors:
                one = auditor.measure_before(live)
                found.append(replace(one, full=found[0].full) if found else one)
            self._measured = {digest: found}
        return self._measured[digest]


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
    """Forget requests one after another and audit all of them at the end: a `Series` for one model. Raises as that."""
    return Series(control, requests, kept, profile=profile, seed=seed).run(live, forget_one)


def _without(request: Forgetting, forgotten: Collection[Fact]) -> Forgetting:
    """The request, retaining none of these facts."""
    return replace(request, retain=tuple(one for one in request.retain if one.fact not in forgotten))


def _recall(live: LiveModel, request: Forgetting, kept: Kept) -> float:
    values = plain_recall(live, items_of(request, kept, rivals=0, seed=0))["recall_mean"]
    return math.fsum(values) / len(values)
