"""What a model says of a fact before anything is taught: already known means that no edit is needed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from catechism.facts.bank import TemplateBank, prompt_of
from catechism.matching import first_line, passes
from catechism.types import JSON, Fact

MAX_NEW_TOKENS = 24


@runtime_checkable
class Said(Protocol):
    """A free continuation; `catechism.model.Completion` is one."""

    @property
    def text(self) -> str:
        """The continuation, trimmed."""
        ...


@runtime_checkable
class Likelihood(Protocol):
    """A teacher-forced score; `catechism.model.TargetScore` is one."""

    @property
    def mean(self) -> float:
        """Log-probability per token, in nats."""
        ...


@runtime_checkable
class Speaker(Protocol):
    """A model that goes on from prompts; `catechism.model.LiveModel` is one."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int) -> Sequence[Said]:
        """Greedy continuation of every prompt, in order."""
        ...


@runtime_checkable
class Witness(Speaker, Protocol):
    """A speaker whose probabilities can be read; `catechism.model.LiveModel` is one."""

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int) -> Sequence[Likelihood]:
        """Teacher-forced score of every target after its prompt, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Belief:
    """What a model holds of a fact.

    Attributes:
        answer: what it says after the canonical prompt, first line.
        agrees: whether that says the new object and not the old one.
        says_old: whether that says the old object; False where there is none.
        probability: of the new object after the canonical prompt, per token (the exponential of the mean
            log-probability).
        old_probability: the same of the old object; None where there is none.
        asked: every phrasing with its answer and whether it says the new object; the canonical prompt first.
    """

    answer: str
    agrees: bool
    says_old: bool
    probability: float
    old_probability: float | None
    asked: tuple[tuple[str, str, bool], ...]

    @property
    def share(self) -> float:
        """The share of phrasings that say the new object."""
        return sum(right for _, _, right in self.asked) / len(self.asked)

    @property
    def is_known(self) -> bool:
        """Whether every phrasing says the new object, so that no edit is needed."""
        return all(right for _, _, right in self.asked)

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "answer": self.answer,
            "agrees": self.agrees,
            "known": self.is_known,
            "share": self.share,
            "probability": self.probability,
            "old_probability": self.old_probability,
        }


def believes(
    live: Witness, fact: Fact, bank: TemplateBank | None = None, *, phrasings: Sequence[str] = (), batch_size: int = 64
) -> Belief:
    """Ask a model for a fact in every phrasing at hand, by free greedy decoding, and read its probabilities.

    Args:
        live: the model as it is.
        fact: what it may know already.
        bank: gives more phrasings, where it knows the fact's relation.
        phrasings: more prompts with the same answer, the paraphrases of a catechism for instance.
        batch_size: prompts that are decoded together.
    """
    prompts = list(dict.fromkeys((fact.prompt, *phrasings, *phrasings_of(fact, bank))))
    budget = max(MAX_NEW_TOKENS, len(fact.object) // 2 + 8)
    answers = [said.text.strip() for said in live.generate(prompts, max_new_tokens=budget, batch_size=batch_size)]
    wrong = () if fact.old_object is None else (fact.old_object,)
    right = [passes(answer, (fact.object,), wrong) for answer in answers]
    targets = [fact.object, *wrong]
    scores = live.score([fact.prompt] * len(targets), targets, batch_size=batch_size)
    chances = [math.exp(score.mean) for score in scores]
    return Belief(
        answer=first_line(answers[0]),
        agrees=right[0],
        says_old=bool(wrong) and passes(answers[0], wrong, (fact.object,)),
        probability=chances[0],
        old_probability=chances[1] if wrong else None,
        asked=tuple(zip(prompts, answers, right, strict=True)),
    )


def phrasings_of(fact: Fact, bank: TemplateBank | None) -> tuple[str, ...]:
    """The fact's prompt in the other words of its relation; empty where the bank does not know the relation."""
    if bank is None:
        return ()
    relation = bank.relation_of(fact)
    if relation is None:
        return ()
    prompts = (prompt_of(template, fact.subject) for template in relation.phrasings)
    return tuple(prompt for prompt in prompts if prompt != fact.prompt)
