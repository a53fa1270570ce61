"""Asking a model every question of its catechisms, once.

The answers are free: greedy decoding up to the model's own stop, with the same budget of tokens for every question,
so that no answer is cut at the length of the expected one. Teacher-forced scores are taken beside them, for
comparison with papers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

from catechism.errors import UsageError
from catechism.hashing import digest_texts
from catechism.types import Catechism, Kind, Question

MIN_NEW_TOKENS = 24
_CHARS_PER_TOKEN = 2  # English has about 4; half of that leaves room for other languages and a few words more


@runtime_checkable
class Said(Protocol):
    """A free continuation; `catechism.model.Completion` is one."""

    @property
    def text(self) -> str:
        """The continuation, trimmed."""
        ...


@runtime_checkable
class Scored(Protocol):
    """A teacher-forced score; `catechism.model.TargetScore` is one."""

    @property
    def mean(self) -> float:
        """Log-probability per token, in nats."""
        ...

    @property
    def argmax_match(self) -> bool:
        """Whether every token of the target is the model's first choice."""
        ...


@runtime_checkable
class Examinee(Protocol):
    """What an interview asks of a model; `catechism.model.LiveModel` has it."""

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int, batch_size: int) -> Sequence[Said]:
        """Greedy continuation of every prompt, in order."""
        ...

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int) -> Sequence[Scored]:
        """Teacher-forced score of every target after its prompt, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Forced:
    """Teacher-forced scores of one question, log-probabilities per token in nats.

    Attributes:
        new: of the new object.
        old: of the old object, or of a neighbour's true answer; None where it is not known.
        match: whether every token of the new object is the model's first choice.
    """

    new: float
    old: float | None
    match: bool


@dataclass(frozen=True, slots=True)
class Interview:
    """The answers of one model to the questions of catechisms.

    Attributes:
        keys: address of each catechism's questions, so that interviews about other questions are not mixed up.
        answers: free answers, one per question, for each catechism.
        forced: teacher-forced scores in the same places; None where a question has none.
        rounds: for each catechism, the number of the interview that it was asked in; all 0 before `join`.
        max_new_tokens: the budget that every answer had.
    """

    keys: tuple[str, ...]
    answers: tuple[tuple[str, ...], ...]
    forced: tuple[tuple[Forced | None, ...], ...]
    rounds: tuple[int, ...]
    max_new_tokens: int


def interview(
    live: Examinee, catechisms: Sequence[Catechism], *, max_new_tokens: int | None = None, batch_size: int = 64
) -> Interview:
    """Ask a model every question; a prompt that several catechisms share is asked once.

    Args:
        live: the model as it is now, edited or not.
        catechisms: what to ask.
        max_new_tokens: budget of every answer; None gives `MIN_NEW_TOKENS`, more if an accepted answer is long.
        batch_size: prompts that are decoded together.
    """
    budget = answer_budget(catechisms) if max_new_tokens is None else max_new_tokens
    if budget < 1:
        raise UsageError(f"max_new_tokens is {budget}. Give 1 or more, or leave it out.")
    prompts = list(dict.fromkeys(q.text for c in catechisms for q in c.questions))
    said: dict[str, str] = {}
    if prompts:
        completions = live.generate(prompts, max_new_tokens=budget, batch_size=batch_size)
        said = {p: completion.text.strip() for p, completion in zip(prompts, completions, strict=True)}
    pairs = list(dict.fromkeys(chain.from_iterable(_pairs(c, q) for c in catechisms for q in c.questions)))
    scores: dict[tuple[str, str], Scored] = {}
    if pairs:
        found = live.score([p for p, _ in pairs], [t for _, t in pairs], batch_size=batch_size)
        scores = dict(zip(pairs, found, strict=True))
    return Interview(
        keys=tuple(catechism_key(c) for c in catechisms),
        answers=tuple(tuple(said[q.text] for q in c.questions) for c in catechisms),
        forced=tuple(tuple(_forced(c, q, scores) for q in c.questions) for c in catechisms),
        rounds=(0,) * len(catechisms),
        max_new_tokens=budget,
    )


def join(interviews: Sequence[Interview]) -> Interview:
    """Several interviews as one, each a round of its own: one edit after the other, each asked about its own facts.

    Raises: UsageError if there are none, or their budgets differ.
    """
    budgets = sorted({one.max_new_tokens for one in interviews})
    if len(budgets) != 1:
        raise UsageError(
            f"Interviews with answer budgets {budgets} cannot be joined. Give at least one, and pass the same "
            "max_new_tokens to all of them, for instance that of the interview before the edits."
        )
    rounds: list[int] = []
    for one in interviews:
        first = max(rounds, default=-1) + 1
        rounds.extend(first + r for r in one.rounds)
    return Interview(
        keys=tuple(chain.from_iterable(one.keys for one in interviews)),
        answers=tuple(chain.from_iterable(one.answers for one in interviews)),
        forced=tuple(chain.from_iterable(one.forced for one in interviews)),
        rounds=tuple(rounds),
        max_new_tokens=budgets[0],
    )


def answer_budget(catechisms: Sequence[Catechism]) -> int:
    """Tokens that leave room for the longest accepted answer and some words around it."""
    longest = max((len(a) for c in catechisms for q in c.questions for a in q.accept), default=0)
    return max(MIN_NEW_TOKENS, longest // _CHARS_PER_TOKEN + 8)


def catechism_key(catechism: Catechism) -> str:
    """Address of a catechism's questions with what passes; equal for equal questions only."""
    parts = [catechism.fact.prompt, catechism.fact.object]
    for q in catechism.questions:
        parts += [q.kind, q.text, str(len(q.accept)), *q.accept, *q.reject]
    return digest_texts(parts)


def _pairs(catechism: Catechism, question: Question) -> list[tuple[str, str]]:
    """What is scored for one question: the new object first, then what it competes with, if that is known."""
    fact = catechism.fact
    if question.kind in (Kind.REWRITE, Kind.PARAPHRASE):
        rival = fact.old_object
    elif question.kind is Kind.NEIGHBOUR and question.accept and question.accept[0] != fact.object:
        rival = question.accept[0]
    else:
        return []
    targets = (fact.object,) if rival is None else (fact.object, rival)
    return [(question.text, target) for target in targets]


def _forced(catechism: Catechism, question: Question, scores: dict[tuple[str, str], Scored]) -> Forced | None:
    pairs = _pairs(catechism, question)
    if not pairs:
        return None
    new = scores[pairs[0]]
    return Forced(new.mean, scores[pairs[1]].mean if len(pairs) > 1 else None, new.argmax_match)
