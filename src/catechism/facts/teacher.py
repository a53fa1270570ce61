"""What the teacher cannot answer is not asked.

The teacher is the same model with the fact's sentence in its context. A question that it answers wrong says nothing
about an edit: no method that learns from this teacher can be expected to do better. It is dropped, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from catechism.facts.belief import MAX_NEW_TOKENS, Speaker
from catechism.matching import passes
from catechism.types import UNMOVED, Catechism, Kind, Question

#: Kinds that are asked as they stand: those that must not move, and those that bring their own context.
_AS_IT_STANDS = UNMOVED | {Kind.COUNTERFACTUAL, Kind.NEGATIVE}


@dataclass(frozen=True, slots=True)
class Drop:
    """A question that was left out, with what the teacher said to it."""

    question: Question
    answer: str


@dataclass(frozen=True, slots=True)
class Synthesis:
    """A catechism that its teacher can answer.

    Attributes:
        catechism: what is left. The rewrite is always there.
        drops: what was left out of exam and study.
        is_teachable: whether the teacher answers the rewrite. If not, the model does not read the fact from its
            context, and a method that learns from the teacher has nothing to learn.
    """

    catechism: Catechism
    drops: tuple[Drop, ...]
    is_teachable: bool

    @property
    def dropped(self) -> Mapping[Kind, Mapping[str, int]]:
        """How many questions were left out, by kind and origin."""
        found: dict[Kind, dict[str, int]] = {}
        for drop in self.drops:
            counts = found.setdefault(drop.question.kind, {})
            counts[drop.question.origin] = counts.get(drop.question.origin, 0) + 1
        return found


def check_with_teacher(live: Speaker, catechism: Catechism, *, batch_size: int = 64) -> Synthesis:
    """Ask every question that has an expected answer, and leave out what is answered wrong.

    Questions of the fact are asked with its sentence in the context. Questions that must not move are asked as they
    stand: they are dropped if the answer that was given as true is not what the model says today. Negative questions
    are dropped if the model says the new object already; counterfactual ones if it does not follow their text.

    Args:
        live: the model without the edit.
        catechism: what to ask.
        batch_size: prompts that are decoded together.
    """
    questions = [q for q in (*catechism.questions, *catechism.study) if q.accept or q.reject]
    prompts = list(dict.fromkeys(teacher_prompt(catechism, q) for q in questions))
    longest = max((len(answer) for q in questions for answer in q.accept), default=0)
    budget = max(MAX_NEW_TOKENS, longest // 2 + 8)
    answers: dict[str, str] = {}
    if prompts:
        said = live.generate(prompts, max_new_tokens=budget, batch_size=batch_size)
        answers = {prompt: one.text.strip() for prompt, one in zip(prompts, said, strict=True)}
    wrong: dict[Question, str] = {}
    for question in questions:
        answer = answers[teacher_prompt(catechism, question)]
        if not passes(answer, question.accept, question.reject):
            wrong[question] = answer
    is_teachable = not any(q.kind is Kind.REWRITE for q in wrong)
    drops = {q: answer for q, answer in wrong.items() if q.kind is not Kind.REWRITE}
    left = replace(
        catechism,
        questions=tuple(q for q in catechism.questions if q not in drops),
        study=tuple(q for q in catechism.study if q not in drops),
    )
    return Synthesis(left, tuple(Drop(q, answer) for q, answer in drops.items()), is_teachable)


def teacher_prompt(catechism: Catechism, question: Question) -> str:
    """What the teacher is given for a question: the fact's sentence and the question, or the question as it stands."""
    return question.text if question.kind in _AS_IT_STANDS else f"{catechism.fact.sentence} {question.text}"
