"""What is near enough to the forgotten to be hurt, and what a method is shown of it."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catechism.facts.bank import TemplateBank
from catechism.matching import contains, name_key
from catechism.registry.manifest import forget_key
from catechism.service.forgetting.target import known_facts, normal
from catechism.types import JSON, Catechism, Fact, Kind, Question

_WORD = re.compile(r"[^\W\d_]{3,}")
#: Words of names that say nothing about who or what is named.
_COMMON = frozenset("the and for von van der den saint mount river lake sea new san los las isle island".split())


@dataclass(frozen=True, slots=True)
class Neighbour:
    """A fact near the forgotten.

    Attributes:
        fact: which.
        why: what it has in common, the closest first.
        depends: whether it names the forgotten subject, or is about the forgotten answer.
    """

    fact: Fact
    why: tuple[str, ...]
    depends: bool

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"fact": self.fact.sentence, "why": list(self.why), "depends": self.depends}


@dataclass(frozen=True, slots=True)
class Sizes:
    """How many facts are shown to a method, and how many others are asked before and after, of either sort."""

    shown: int = 120
    asked: int = 60


@dataclass(frozen=True)
class Surroundings:
    """What has to stay.

    Attributes:
        near: facts near the forgotten, nearest first.
        retain: facts that a method is shown, near and far.
        neighbours, utility: near and far facts that it is not shown and that are asked before and after.
    """

    near: tuple[Neighbour, ...] = ()
    retain: tuple[Catechism, ...] = ()
    neighbours: tuple[Catechism, ...] = ()
    utility: tuple[Catechism, ...] = ()

    @property
    def dependents(self) -> tuple[Neighbour, ...]:
        """Those of `retain` that depend on what is forgotten."""
        shown = {forget_key(one.fact) for one in self.retain}
        return tuple(one for one in self.near if one.depends and forget_key(one.fact) in shown)


def neighbour(fact: Fact, targets: Sequence[Fact]) -> Neighbour | None:
    """What a fact has in common with the forgotten ones; None if it is nothing."""
    why: dict[str, None] = {}
    depends = False
    for target in targets:
        if name_key(fact.subject) == name_key(target.subject) and fact.subject:
            why["same subject"] = None
        elif target.subject and contains(fact.sentence, target.subject):
            why["names the subject"] = None
        depends |= bool(target.subject) and contains(fact.sentence, target.subject)
        if fact.subject and name_key(fact.subject) == name_key(target.object):
            why["about the answer"], depends = None, True
        if name_key(fact.object) == name_key(target.object):
            why["same answer"] = None
        if shared := sorted(_words(fact.subject) & _words(target.subject) - _COMMON):
            why[f"name shared: {shared[0]}"] = None
        if fact.relation is not None and fact.relation == target.relation:
            why["same relation"] = None
    return Neighbour(fact, tuple(sorted(why, key=_closeness)), depends) if why else None


def candidates(
    targets: Sequence[Fact], bank: TemplateBank, taught: Iterable[Fact], sizes: Sizes, *, seed: int
) -> list[Fact]:
    """Facts that could stay, each once, less what is forgotten: those that our edits teach, then those of the bank.

    Of the bank's the nearest come first; of both sorts there are no more than it takes, and some to spare for what is
    not known.
    """
    gone = {forget_key(fact) for fact in targets}
    ours = {key: fact for fact in taught if (key := forget_key(fact)) not in gone}
    found = {forget_key(fact): fact for fact in known_facts(bank)}
    near, far = _sorts(targets, [fact for key, fact in found.items() if key not in gone and key not in ours])
    random.Random(f"far-{seed}").shuffle(far)
    most = sizes.shown + sizes.asked
    return [*ours.values(), *(one.fact for one in near[: 2 * most]), *far[: most + most // 4]]


def part(
    targets: Sequence[Fact],
    known: Sequence[Fact],
    taught: Iterable[Fact],
    bank: TemplateBank,
    sizes: Sizes,
    *,
    seed: int,
) -> Surroundings:
    """Part known facts into what is shown to a method and what is asked; no subject near the forgotten is in both.

    What our edits teach is shown, the nearest first: they are asked again in any case, and have to hold without fail.
    """
    rng = random.Random(f"retain-{seed}")
    ours = {forget_key(fact) for fact in taught}
    near, far = _sorts(targets, known)
    first = [fact for fact in (*(one.fact for one in near), *far) if forget_key(fact) in ours][: sizes.shown]
    others = [one.fact for one in near if forget_key(one.fact) not in ours]
    far = [fact for fact in far if forget_key(fact) not in ours]
    theirs = {name_key(fact.subject) for fact in first}
    subjects = [name for name in dict.fromkeys(name_key(fact.subject) for fact in others) if name not in theirs]
    held = set(rng.sample(subjects, len(subjects) // 2))
    rng.shuffle(far)
    n = min(sizes.shown, len(far) - len(far) // 3)  # a third is asked where there are few
    shown = [*first, *[fact for fact in others if name_key(fact.subject) not in held][: sizes.shown], *far[:n]]
    rng.shuffle(shown)
    asked = [fact for fact in others if name_key(fact.subject) in held][: sizes.asked]
    return Surroundings(
        tuple(near),
        tuple(_lesson(fact, bank, seed) for fact in shown),
        tuple(_asked(fact, bank, seed) for fact in asked),
        tuple(_asked(fact, bank, seed) for fact in far[n : n + sizes.asked]),
    )


def _sorts(targets: Sequence[Fact], facts: Iterable[Fact]) -> tuple[list[Neighbour], list[Fact]]:
    """Facts near the forgotten, nearest first, and all others."""
    found = [(fact, neighbour(fact, targets)) for fact in facts]
    near = [one for _, one in found if one is not None]
    near.sort(key=lambda one: (not one.depends, _closeness(one.why[0])))
    return near, [fact for fact, one in found if one is None]


def _lesson(fact: Fact, bank: TemplateBank, seed: int) -> Catechism:
    return normal(Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (fact.object,)),)), bank, seed)


def _asked(fact: Fact, bank: TemplateBank, seed: int) -> Catechism:
    """The canonical prompt and one other: there are many of them."""
    made = _lesson(fact, bank, seed)
    return Catechism(made.fact, made.questions[:2])


def _words(name: str) -> set[str]:
    return {word.casefold() for word in _WORD.findall(name)}


def _closeness(why: str) -> int:
    order = ("about the answer", "same subject", "names the subject", "same answer", "name shared", "same relation")
    return next(i for i, start in enumerate(order) if why.startswith(start))
