"""Questions about a fact from the template bank: everything that plain templates and known facts can ask.

Subjects are shared out before anything is asked about them, so that no subject of the exam's neighbours or negatives
is in the study: what a method holds still by name is not what its locality is measured on.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from catechism.facts.bank import Relation, TemplateBank, prompt_of, reversed_prompt_of, sentence_of
from catechism.matching import contains, name_key
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question

ORIGIN = "template"


@dataclass(frozen=True, slots=True)
class Amounts:
    """How many questions of each sort a catechism gets at most, and the seed they are drawn with.

    Attributes:
        phrasings: of the fact, in exam and study together.
        study_phrasings: of these, how many go into the study; never more than a third.
        neighbours: in the exam, of each of three sorts: subjects that share the old object, that share the new one,
            and any others.
        study_neighbours: the same in the study; where a sort is scarce, the exam gets the larger half.
        subject, unrelated, one_hop, counterfactuals, negatives: questions of these kinds.
        seed: of everything that is drawn.
    """

    phrasings: int = 12
    study_phrasings: int = 3
    neighbours: int = 8
    study_neighbours: int = 8
    subject: int = 6
    unrelated: int = 10
    one_hop: int = 4
    counterfactuals: int = 3
    negatives: int = 4
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Written:
    """Questions for the exam, in order of preference, and for the study."""

    exam: tuple[Question, ...] = ()
    study: tuple[Question, ...] = ()


def write_from_bank(lesson: Catechism, bank: TemplateBank, amounts: Amounts, rng: random.Random) -> Written:
    """Every question that the bank has for a fact; none where it does not know the relation.

    Args:
        lesson: the fact with the questions that it has; the answers of the first pass in every phrasing.
        bank: the templates.
        amounts: how many to draw.
        rng: what they are drawn with.
    """
    relation = bank.relation_of(lesson.fact)
    if relation is None:
        return Written()
    about = _About(lesson.fact, lesson.questions[0], bank, relation, rng)
    neighbours, held, left = about.shared_out(amounts, lesson)
    exam = [
        *about.phrasings(),
        *about.aliases(),
        *about.reversed(),
        *about.one_hop(amounts.one_hop),
        *about.unmoved(relation, neighbours, Kind.NEIGHBOUR),
        *about.same_subject(amounts.subject),
        *about.unrelated(amounts.unrelated),
        *about.counterfactuals(amounts.counterfactuals),
        *about.negatives(left, neighbours, amounts.negatives),
    ]
    return Written(tuple(exam), tuple(about.unmoved(relation, held, Kind.NEIGHBOUR)))


@dataclass(frozen=True, slots=True)
class _About:
    """One fact with its relation: the questions kind by kind."""

    fact: Fact
    taught: Question
    bank: TemplateBank
    relation: Relation
    rng: random.Random

    @property
    def subject(self) -> str:
        """The subject as the bank spells it."""
        main = self.bank.canonical(self.fact.subject)
        return self.relation.subjects.get(name_key(main), main)

    @property
    def old(self) -> str | None:
        """What is true of it today, by the fact or by the bank."""
        return self.fact.old_object or self.relation.known.get(self.subject)

    def phrasings(self) -> Iterator[Question]:
        for template in self.relation.phrasings:
            text = prompt_of(template, self.fact.subject)
            yield Question(text, Kind.PARAPHRASE, self.taught.accept, self.taught.reject, ORIGIN)

    def aliases(self) -> Iterator[Question]:
        for name in self.bank.names(self.fact.subject):
            text = self.fact.prompt.replace(self.fact.subject, name)
            yield Question(text, Kind.ALIAS, self.taught.accept, self.taught.reject, ORIGIN)

    def reversed(self) -> Iterator[Question]:
        """Only where the new object is nobody else's: otherwise there are two right answers."""
        if any(_same(known, self.fact.object) for s, known in self.relation.known.items() if s != self.subject):
            return
        accept = (self.fact.subject, *self.bank.names(self.fact.subject))
        for template in self.relation.reversed:
            yield Question(reversed_prompt_of(template, self.fact.object), Kind.REVERSED, accept, (), ORIGIN)

    def one_hop(self, n: int) -> Iterator[Question]:
        """A second relation asked of the new object, which is called by the subject: "the capital of France".

        Left out where the old object has the same answer, since then the fact is not needed.
        """
        description = self.relation.description
        if description is None:
            return
        name = description.replace("{subject}", self.fact.subject)
        found: list[Question] = []
        for second in self.bank.relations.values():
            via = second.subjects.get(name_key(self.fact.object))
            if via is None or second.subject_kind != self.relation.object_kind:
                continue
            before = second.subjects.get(name_key(self.old)) if self.old else None
            if before is not None and _same(second.known[before], second.known[via]):
                continue
            for template in self.rng.sample(second.phrasings, min(2, len(second.phrasings))):
                text = prompt_of(template, name)
                found.append(Question(text[0].upper() + text[1:], Kind.ONE_HOP, (second.known[via],), (), ORIGIN))
        yield from self.rng.sample(found, min(n, len(found)))

    def shared_out(self, amounts: Amounts, lesson: Catechism) -> tuple[list[str], list[str], list[str]]:
        """Subjects of the exam's neighbours, of the study's, and those that are left for negatives.

        Those that the lesson's own questions name are left out.
        """
        named = [q.text for q in (*lesson.questions, *lesson.study) if q.kind in UNMOVED or q.kind is Kind.NEGATIVE]
        sorts: tuple[list[str], list[str], list[str]] = ([], [], [])
        for subject, known in self.relation.known.items():
            if subject != self.subject and not any(contains(text, subject) for text in named):
                shares_old = self.old is not None and _same(known, self.old)
                sorts[0 if shares_old else 1 if _same(known, self.fact.object) else 2].append(subject)
        exam: list[str] = []
        study: list[str] = []
        left: list[str] = []
        for subjects in sorts:
            drawn = self.rng.sample(subjects, len(subjects))
            first = min(amounts.neighbours, (len(drawn) + 1) // 2)
            second = first + amounts.study_neighbours
            exam, study, left = exam + drawn[:first], study + drawn[first:second], left + drawn[second:]
        return exam, study, left

    def unmoved(self, relation: Relation, subjects: Sequence[str], kind: Kind) -> Iterator[Question]:
        for subject in subjects:
            text = prompt_of(self.rng.choice(relation.phrasings), subject)
            yield Question(text, kind, (relation.known[subject],), (), ORIGIN)

    def same_subject(self, n: int) -> Iterator[Question]:
        others = [
            (other, subject)
            for other in self.bank.relations.values()
            if other is not self.relation and (subject := other.subjects.get(name_key(self.subject))) is not None
        ]
        for other, subject in self.rng.sample(others, min(n, len(others))):
            yield from self.unmoved(other, [subject], Kind.SUBJECT)

    def unrelated(self, n: int) -> Iterator[Question]:
        others = [other for other in self.bank.relations.values() if other is not self.relation and other.known]
        if not others:
            return
        for _ in range(n):
            other = self.rng.choice(others)
            subject = self.rng.choice(list(other.known))
            if not _same(subject, self.subject):
                yield from self.unmoved(other, [subject], Kind.UNRELATED)

    def counterfactuals(self, n: int) -> Iterator[Question]:
        """A statement with a third object, then a phrasing: the statement is to be followed."""
        taken = [name for name in (*self.taught.accept, *self.taught.reject, self.old) if name]
        third = sorted(o for o in set(self.relation.known.values()) if not any(_same(o, name) for name in taken))
        for claimed in self.rng.sample(third, min(n, len(third))):
            passage = sentence_of(self.rng.choice(self.relation.statements), self.fact.subject, claimed)
            prompt = prompt_of(self.rng.choice(self.relation.phrasings), self.fact.subject)
            yield Question(f"{passage} {prompt}", Kind.COUNTERFACTUAL, (claimed,), (), ORIGIN)

    def negatives(self, left: Sequence[str], neighbours: Sequence[str], n: int) -> Iterator[Question]:
        """The canonical prompt of subjects that have another object: the new one must not spread to them.

        Subjects that nothing else asks about come first; where there are too few, those of the exam's neighbours.
        """
        drawn = [*self.rng.sample(left, len(left)), *neighbours]
        known = self.relation.known
        fitting = [s for s in drawn if not any(contains(known[s], name) for name in self.taught.accept)]
        for subject in fitting[:n]:
            text = prompt_of(self.relation.statements[0], subject)
            yield Question(text, Kind.NEGATIVE, (), self.taught.accept, ORIGIN)


def _same(one: str, other: str) -> bool:
    return name_key(one) == name_key(other)
