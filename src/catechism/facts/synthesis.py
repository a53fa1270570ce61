"""The catechism of a fact: who writes its questions, in which order, and which of them are for study.

Writers are asked in turn: the feed's own questions stand; then the template bank; then, where there are still too few
phrasings or no reversed question, the model itself and an endpoint, as far as they are handed in. Nothing that a
writer hands over is believed: a question has to have the form of its kind, and texts count once. The rewrite is always
in the exam. ``docs/synthesis.md`` says how exam and study are parted.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

from catechism.errors import BadFact
from catechism.facts.bank import TemplateBank
from catechism.facts.templates import Amounts, Written, write_from_bank
from catechism.matching import contains, fold
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question

#: The order of questions in an exam, that of a feed row.
ORDER = (
    *(Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS, Kind.REVERSED, Kind.ONE_HOP, Kind.MULTI_HOP),
    *(Kind.NEIGHBOUR, Kind.SUBJECT, Kind.UNRELATED, Kind.COUNTERFACTUAL, Kind.NEGATIVE),
)
MAX_TEXT_CHARS = 500  # of a question that nobody typed
ENOUGH_PHRASINGS = 6  # below that the next writer is asked


@runtime_checkable
class Writer(Protocol):
    """Who writes questions beside feed and bank: `SelfWriter` and `EndpointWriter`."""

    def write(self, lesson: Catechism) -> Sequence[Question]:
        """Questions about a lesson's fact; none where it cannot."""
        ...


def lesson_of(fact: Fact) -> Catechism:
    """A fact with its canonical question alone, as a feed row without questions has it."""
    wrong = () if fact.old_object is None else (fact.old_object,)
    return Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (fact.object,), wrong, "feed"),))


def synthesise(
    lesson: Catechism,
    *,
    bank: TemplateBank | None = None,
    writers: Sequence[Writer] = (),
    amounts: Amounts | None = None,
) -> Catechism:
    """A lesson with all the questions that its writers have for it, parted into exam and study.

    Args:
        lesson: a fact with the questions that it came with, the rewrite first.
        bank: writes from templates where it knows the relation, which the fact then gets too.
        writers: asked in turn while there are few phrasings or no reversed question.
        amounts: how many questions of each sort; None takes the defaults.

    Raises: BadFact if the lesson does not begin with its rewrite question.
    """
    if not lesson.questions or lesson.questions[0].kind is not Kind.REWRITE:
        raise BadFact(f"The catechism of {lesson.fact.prompt!r} does not begin with its rewrite. Put it first.")
    amounts = amounts or Amounts()
    fact = lesson.fact
    rng = random.Random(f"catechism-{amounts.seed}-{fact.prompt}-{fact.object}")
    written = Written()
    if bank is not None:
        written = write_from_bank(lesson, bank, amounts, rng)
        relation = bank.relation_of(fact)
        fact = fact if relation is None or fact.relation else replace(fact, relation=relation.name)
    exam = _Collected(fact, (*lesson.questions, *lesson.study))
    exam.take(written.exam)
    for writer in writers:
        if exam.count(Kind.PARAPHRASE) >= ENOUGH_PHRASINGS and exam.count(Kind.REVERSED):
            break
        exam.take(writer.write(lesson))
    study = _Collected(fact, (*lesson.questions, *exam.added, *lesson.study))
    study.take(written.study)
    asked, learned = _part([q for q in exam.added if q.kind is Kind.PARAPHRASE], amounts, rng)
    questions = [*lesson.questions, *asked, *(q for q in exam.added if q.kind is not Kind.PARAPHRASE)]
    questions.sort(key=lambda q: ORDER.index(q.kind))
    return Catechism(fact, tuple(questions), (*lesson.study, *learned, *study.added))


class _Collected:
    """Questions that are new and have the form of their kind."""

    def __init__(self, fact: Fact, known: Iterable[Question]) -> None:
        self.fact = fact
        self.added: list[Question] = []
        self._known = tuple(known)
        self._texts = {fold(q.text).text for q in self._known}

    def take(self, questions: Iterable[Question]) -> None:
        """Add those that are new; what has no right form is left out."""
        for question in questions:
            text = fold(question.text).text
            if text not in self._texts and _has_its_form(question, self.fact):
                self._texts.add(text)
                self.added.append(question)

    def count(self, kind: Kind) -> int:
        """How many questions of a kind there are, the known ones included."""
        return sum(q.kind is kind for q in (*self._known, *self.added))


def _has_its_form(question: Question, fact: Fact) -> bool:
    """Whether a question asks for what its kind says and does not give its answer away."""
    text = question.text
    if not 0 < len(text) <= MAX_TEXT_CHARS or question.kind is Kind.REWRITE:
        return False
    if question.kind in UNMOVED:
        return True
    if question.kind is Kind.NEGATIVE:
        return bool(question.reject)
    if not question.accept:
        return False
    if question.kind is Kind.COUNTERFACTUAL:
        return not any(contains(fact.object, answer) for answer in question.accept)
    if any(contains(text, answer) for answer in question.accept if not contains(fact.subject, answer)):
        return False
    if question.kind is Kind.REVERSED:
        return contains(text, fact.object) and not contains(text, fact.subject)
    return question.kind is Kind.ALIAS or contains(text, fact.subject)


def _part(phrasings: list[Question], amounts: Amounts, rng: random.Random) -> tuple[list[Question], list[Question]]:
    """Phrasings of the exam and of the study: statements and questions in turn go into the study, a third at most."""
    drawn = rng.sample(phrasings, min(len(phrasings), amounts.phrasings))
    n = min(amounts.study_phrasings, len(drawn) // 3)
    sorts = [[q for q in drawn if q.text.endswith("?") is asks] for asks in (False, True)]
    in_turn = [q for pair in zip(*sorts, strict=False) for q in pair]
    in_turn += [q for q in drawn if q not in in_turn]
    study = in_turn[:n]
    return [q for q in phrasings if q in drawn and q not in study], study
