"""What is to be asked when many edits are on one model: a question that another edit answers anew need not stay.

A neighbour of one fact may be edited by another. Its question then must move, and to count it as lost would punish the
model for what it was taught. Here every catechism is held against all edits that are in effect together. A question
goes from the exam, or from the study, where another edit has changed its answer:

* it is, letter for letter, a phrasing of the other fact, in its exam or its study;
* a neighbour's question names the subject of another fact of the same relation;
* it names the subject of another fact whose old object is among the answers that pass, or, for questions of one hop
  and more, that fact goes on from the new object.

A reversed question that two edits share passes with either subject. A fact with a later one about the same thing is
superseded, and nothing is asked for it. On the side of caution: a name inside a longer name counts as named.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from catechism.matching import fold
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question

_HOPS = frozenset({Kind.ONE_HOP, Kind.MULTI_HOP})
_CHECKED = UNMOVED | _HOPS | {Kind.REVERSED, Kind.NEGATIVE}


@dataclass(frozen=True, slots=True)
class InEffect:
    """The catechisms of edits that are on one model together.

    Attributes:
        places: where each one stood among those that came in; superseded ones are left out.
        catechisms: with the questions that count.
        superseded: places of facts that a later one replaced.
        dropped: how many exam questions of each kind went, because another edit changed their answer.
    """

    places: tuple[int, ...]
    catechisms: tuple[Catechism, ...]
    superseded: tuple[int, ...]
    dropped: Mapping[str, int]


def in_effect(catechisms: Sequence[Catechism]) -> InEffect:
    """Hold the catechisms of edits that are on one model together, the later ones last, against each other."""
    last: dict[object, int] = {}
    for place, one in enumerate(catechisms):
        for key in _slots(one.fact):
            last[key] = place
    superseded = {
        place
        for place, one in enumerate(catechisms)
        if any(fold(catechisms[last[key]].fact.object).text != fold(one.fact.object).text for key in _slots(one.fact))
    }
    places = tuple(place for place in range(len(catechisms)) if place not in superseded)
    edits = _Edits([catechisms[place] for place in places])
    dropped: Counter[str] = Counter()
    found: list[Catechism] = []
    for place in places:
        one = catechisms[place]
        exam = tuple(edits.asked(one.fact, one.questions))
        dropped.update(str(kind) for kind in (Counter(_kinds(one.questions)) - Counter(_kinds(exam))).elements())
        found.append(replace(one, questions=exam, study=tuple(edits.asked(one.fact, one.study))))
    return InEffect(places, tuple(found), tuple(sorted(superseded)), dict(sorted(dropped.items())))


def _kinds(questions: Iterable[Question]) -> Iterator[Kind]:
    return (question.kind for question in questions)


def _slots(fact: Fact) -> Iterator[object]:
    """What the fact is about: equal for two facts of which only one can hold."""
    yield fact.prompt
    if fact.relation is not None and fact.subject:
        yield fold(fact.subject).text, fact.relation


class _Edits:
    """All facts that are in effect, looked up by what a question may have to do with them."""

    def __init__(self, catechisms: Sequence[Catechism]) -> None:
        self._phrasings: dict[str, set[Fact]] = defaultdict(set)
        self._by_old: dict[str, list[Fact]] = defaultdict(list)
        self._by_subject: dict[str, list[Fact]] = defaultdict(list)
        self._reversed: dict[str, dict[str, None]] = defaultdict(dict)
        subjects: dict[str, set[str]] = defaultdict(set)
        for one in catechisms:
            fact = one.fact
            for question in (*one.of(Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS), *one.study):
                if question.kind not in UNMOVED:
                    self._phrasings[question.text].add(fact)
            for question in one.of(Kind.REVERSED):
                self._reversed[question.text].update(dict.fromkeys(question.accept))
            if fact.subject:
                self._by_subject[_key(fact.subject)].append(fact)
                if fact.old_object:
                    self._by_old[_key(fact.old_object)].append(fact)
                if fact.relation is not None:
                    subjects[fact.relation].add(_key(fact.subject))
        self._named = {relation: _any_of(names) for relation, names in subjects.items()}

    def asked(self, fact: Fact, questions: Iterable[Question]) -> Iterator[Question]:
        """The questions of one fact that count."""
        for question in questions:
            if question.kind is Kind.REVERSED:
                accept = tuple(self._reversed.get(question.text, question.accept))
                question = replace(question, accept=accept)
            if question.kind not in _CHECKED or not self._is_changed(fact, question):
                yield question

    def _is_changed(self, fact: Fact, question: Question) -> bool:
        """Whether another edit has changed what is asked."""
        if any(other != fact for other in self._phrasings.get(question.text, ())):
            return True
        text = _key(question.text)
        if question.kind is Kind.NEIGHBOUR and fact.relation in self._named:
            own = _key(fact.subject)
            if any(match.group() != own for match in self._named[fact.relation].finditer(text)):
                return True
        if question.kind in _HOPS and any(
            other != fact and (other.old_object is None or _key(other.old_object) in map(_key, question.accept))
            for other in self._by_subject.get(_key(fact.object), ())
        ):
            return True
        if question.kind in (Kind.REVERSED, Kind.NEGATIVE):
            return False
        return any(
            other != fact and _any_of([_key(other.subject)]).search(text) is not None
            for accepted in question.accept
            for other in self._by_old.get(_key(accepted), ())
        )


def _key(text: str) -> str:
    return fold(text).text


def _any_of(names: Iterable[str]) -> re.Pattern[str]:
    """Any of the names as a word of its own, the longest first."""
    words = "|".join(re.escape(name) for name in sorted(names, key=lambda name: (-len(name), name)))
    return re.compile(rf"(?<!\w)(?:{words})(?!\w)")
