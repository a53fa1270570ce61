"""Asking a model every question of its catechisms, once.

The answers are free: greedy decoding up to the model's own stop, with the same budget of tokens for every question,
so that no answer is cut at the length of the expected one. Teacher-forced scores are taken beside them, for
comparison with papers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol, runtime_checkable

from catechism.errors import UsageError
from catechism.hashing import digest_texts
from catechism.types import Catechism, Kind, Question

MIN_NEW_TOKENS = 24
SHEET = 512  # prompts, and pairs, that go together
_CHARS_PER_TOKEN = 2  # English has about 4; half of that leaves room for other languages and a few words more
#: Kinds whose answer is another one than the new object.
_SCORED_BY_THEIR_OWN = frozenset(
    {Kind.NEIGHBOUR, Kind.SUBJECT, Kind.UNRELATED, Kind.REVERSED, Kind.ONE_HOP, Kind.MULTI_HOP, Kind.ALIAS}
)


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

    @property
    def accuracy(self) -> float:
        """Share of the target's tokens that are the model's first choice."""
        ...

    @property
    def choices(self) -> tuple[int, ...]:
        """The model's first choice in the place of every token of the target."""
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
        new: of the new object; None where a question has nothing to do with it.
        old: of the old object, or of a neighbour's true answer; None where it is not known.
        match: whether every token of the new object is the model's first choice.
        accuracy: share of the tokens of the answer that is right (the new object, or the question's own) that are the
            model's first choice; None where no answer is known.
        choices: the model's first choices in the places of these tokens.
    """

    new: float | None
    old: float | None
    match: bool
    accuracy: float | None = None
    choices: tuple[int, ...] = ()


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


@dataclass(frozen=True, slots=True)
class Sheet:
    """A fixed share of what is to be asked, answered in one go.

    A batch of another shape rounds differently. So whoever compares answers, before and after an edit or here and on
    another machine, hands out the same sheets.

    Attributes:
        prompts: to be answered freely.
        pairs: prompts with the answers to be scored after them.
        max_new_tokens: budget of every answer.
    """

    prompts: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Answers:
    """What a model said to prompts, whichever facts they belong to.

    Attributes:
        said: the free answer to each prompt.
        scores: the score of each answer after its prompt.
        max_new_tokens: the budget that every answer had.
    """

    said: Mapping[str, str]
    scores: Mapping[tuple[str, str], Scored]
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
    sheets = hand_out(catechisms, budget)
    return interview_of(catechisms, gather([answer(live, sheet, batch_size=batch_size) for sheet in sheets], budget))


def hand_out(catechisms: Sequence[Catechism], max_new_tokens: int) -> list[Sheet]:
    """Everything that the catechisms ask, each prompt once, on sheets of `SHEET`.

    The sheets of the first catechisms are those of all of them, but for the last one.
    """
    prompts = list(dict.fromkeys(q.text for c in catechisms for q in c.questions))
    pairs = list(dict.fromkeys(chain.from_iterable(_pairs(c, q) for c in catechisms for q in c.questions)))
    return [
        Sheet(tuple(prompts[start : start + SHEET]), tuple(pairs[start : start + SHEET]), max_new_tokens)
        for start in range(0, max(len(prompts), len(pairs)), SHEET)
    ]


def answer(live: Examinee, sheet: Sheet, *, batch_size: int = 64) -> Answers:
    """What a model says to one sheet."""
    said: dict[str, str] = {}
    if sheet.prompts:
        completions = live.generate(sheet.prompts, max_new_tokens=sheet.max_new_tokens, batch_size=batch_size)
        said = {p: completion.text.strip() for p, completion in zip(sheet.prompts, completions, strict=True)}
    scores: dict[tuple[str, str], Scored] = {}
    if sheet.pairs:
        found = live.score([p for p, _ in sheet.pairs], [t for _, t in sheet.pairs], batch_size=batch_size)
        scores = dict(zip(sheet.pairs, found, strict=True))
    return Answers(said, scores, sheet.max_new_tokens)


def gather(answers: Iterable[Answers], max_new_tokens: int) -> Answers:
    """The answers of several sheets in one."""
    said: dict[str, str] = {}
    scores: dict[tuple[str, str], Scored] = {}
    for one in answers:
        said.update(one.said)
        scores.update(one.scores)
    return Answers(said, scores, max_new_tokens)


def interview_of(catechisms: Sequence[Catechism], answers: Answers) -> Interview:
    """The interview about these catechisms, from answers to more prompts than theirs perhaps.

    Raises: UsageError if a question was not asked.
    """
    try:
        return Interview(
            keys=tuple(catechism_key(c) for c in catechisms),
            answers=tuple(tuple(answers.said[q.text] for q in c.questions) for c in catechisms),
            forced=tuple(tuple(_forced(c, q, answers.scores) for q in c.questions) for c in catechisms),
            rounds=(0,) * len(catechisms),
            max_new_tokens=answers.max_new_tokens,
        )
    except KeyError as missing:
        raise UsageError(f"{missing.args[0]!r} was not asked. Hand out the sheets of these catechisms.") from None


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
    """What is scored for one question: the new object first where it counts, then what else is of use."""
    fact = catechism.fact
    own = question.accept[0] if question.accept else None
    if question.kind in (Kind.REWRITE, Kind.PARAPHRASE):
        targets = (fact.object, fact.old_object)
    elif question.kind is Kind.NEIGHBOUR and own not in (None, fact.object):
        targets = (fact.object, own)
    else:
        targets = (own,) if question.kind in _SCORED_BY_THEIR_OWN else ()
    return [(question.text, target) for target in dict.fromkeys(targets) if target is not None]


def _forced(catechism: Catechism, question: Question, scores: Mapping[tuple[str, str], Scored]) -> Forced | None:
    found = {target: scores[question.text, target] for _, target in _pairs(catechism, question)}
    if not found:
        return None
    fact = catechism.fact
    own = question.accept[0] if question.accept else None
    is_taught = question.kind in (Kind.REWRITE, Kind.PARAPHRASE)
    expected = found[fact.object if is_taught or own is None else own]
    if len(found) == 1 and not is_taught:
        return Forced(None, None, False, expected.accuracy, expected.choices)
    rival = fact.old_object if is_taught else own
    new, old = found[fact.object], found[rival].mean if rival is not None and len(found) > 1 else None
    return Forced(new.mean, old, new.argmax_match, expected.accuracy, expected.choices)
