"""The prompts of a fact that name its subject: what a method reads that works at the subject's tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from catechism.model.forgetting.material import spoken_instead
from catechism.model.forgetting.strangers import stranger_answers
from catechism.model.live import LiveModel
from catechism.model.targets import Rows, target_rows
from catechism.types import Catechism, Forgetting, How, Kind

#: Kinds of study questions that ask for the fact itself.
ASKING = frozenset({Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS})


def prompts_of(catechism: Catechism) -> tuple[str, ...]:
    """The canonical prompt, and the study's other phrasings of it that name the subject. Nothing of the exam."""
    fact = catechism.fact
    others = [q.text for q in catechism.study if q.kind in ASKING and fact.subject in q.text]
    return tuple(dict.fromkeys([fact.prompt, *others]))


@dataclass(frozen=True)
class Subject:
    """Somebody of whom facts are forgotten.

    Attributes:
        first: the first of these facts, which stands for the subject where a method takes a fact.
        prompts: all prompts that ask for any of them.
        answers: what is to be said to each from now on.
    """

    first: Catechism
    prompts: tuple[str, ...]
    answers: tuple[str, ...]

    @property
    def name(self) -> str:
        """As spelled in the prompts."""
        return self.first.fact.subject


def subjects_of(live: LiveModel, request: Forgetting, *, seed: int) -> list[Subject]:
    """Who is forgotten, with what is to be said instead: an abstention, the replacement, or, to erase, what the model
    says to the same prompts of a made-up person.

    Facts of one subject share its key in an MLP, so they can share one value there and cannot have one each.

    Raises: BadSpec for a replacement that is missing.
    """
    facts: dict[str, list[Catechism]] = {}
    for one in request.forget:
        facts.setdefault(one.fact.subject, []).append(one)
    asked = [(name, prompt) for name, some in facts.items() for one in some for prompt in prompts_of(one)]
    names, prompts = [name for name, _ in asked], [prompt for _, prompt in asked]
    if request.how is How.ERASE:
        known = list(dict.fromkeys(one.fact.subject for one in (*request.forget, *request.retain)))
        answers = stranger_answers(live, prompts, names, known, seed=seed)
    else:
        answers = [spoken_instead(request, seed)[0]] * len(asked)
    said = list(zip(names, prompts, answers, strict=True))
    return [
        Subject(
            some[0],
            tuple(prompt for owner, prompt, _ in said if owner == name),
            tuple(answer for owner, _, answer in said if owner == name),
        )
        for name, some in facts.items()
    ]


def as_fact(subject: Subject) -> Catechism:
    """A catechism in which the subject's first fact has its new answer: what the editors' own code takes."""
    return replace(subject.first, fact=replace(subject.first.fact, object=subject.answers[0]))


def subject_rows(live: LiveModel, subjects: Sequence[Subject], contexts: Sequence[str]) -> Rows:
    """The rows of a value search with one value for each subject: every prompt with its own answer.

    Args:
        contexts: texts that are put before each subject's first prompt, which then counts once more.

    Raises: BadFact if a prompt does not hold its subject.
    """
    rows = [
        (number, prompt, answer)
        for number, one in enumerate(subjects)
        for prompt, answer in [
            *zip(one.prompts, one.answers, strict=True),
            *((f"{context} {one.prompts[0]}", one.answers[0]) for context in contexts),
        ]
    ]
    found = target_rows(
        live,
        prompts=[[prompt] for _, prompt, _ in rows],
        targets=[answer for _, _, answer in rows],
        subjects=[subjects[number].name for number, *_ in rows],
        kept=[()] * len(rows),
    )
    owner = torch.tensor([number for number, *_ in rows], device=found.owner.device)
    return replace(found, owner=owner[found.owner])
