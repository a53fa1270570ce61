"""Traces: passages of several sentences in which facts stand among others, as a chain of reasoning states them.

A trace is cut into segments, one for each sentence. The segments that carry what is to be forgotten are found by their
text, and a placeholder that keeps the sentence's role takes the place of the answer in them.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from catechism.types import Catechism

_END = re.compile(r"(?<=[.!?]) +")


@dataclass(frozen=True, slots=True)
class Segment:
    """One sentence of a trace.

    Attributes:
        prompt, answer: the sentence up to what it says, and what it says.
        carries: number of the forgotten fact that it carries; -1 for a segment that stays.
        about: the fact itself, forgotten or not.
    """

    prompt: str
    answer: str
    carries: int
    about: Catechism

    @property
    def text(self) -> str:
        """The sentence as it stands in the trace."""
        return said(self.prompt, self.answer)


def said(prompt: str, answer: str) -> str:
    """The sentence of a prompt and what is said to it, ending in a full stop."""
    return f"{prompt} {answer.rstrip('.')}."


def traces_of(
    forget: Sequence[Catechism], retain: Sequence[Catechism], *, sentences: int, mixed: int, seed: int
) -> list[str]:
    """Passages for every forgotten subject: its facts in a drawn order, with facts that stay between them.

    Args:
        sentences: of what is forgotten in a passage, at the most.
        mixed: facts that stay in a passage.
    """
    rng = random.Random(f"traces-{seed}")
    subjects: dict[str, list[Catechism]] = {}
    for one in forget:
        subjects.setdefault(one.fact.subject, []).append(one)
    found: list[str] = []
    for facts in subjects.values():
        order = rng.sample(facts, len(facts))
        for start in range(0, len(order), sentences):
            others = rng.sample(retain, min(mixed, len(retain))) if retain else []
            some = [*order[start : start + sentences], *others]
            rng.shuffle(some)
            found.append(" ".join(said(one.fact.prompt, one.fact.object) for one in some))
    return found


def segments_of(trace: str, forget: Sequence[Catechism], retain: Sequence[Catechism]) -> list[Segment]:
    """The segments of a trace that state a fact at hand: its prompt, or another phrasing, followed by its object.

    A sentence that names a forgotten subject and its object in any other way carries that fact too, from the object on.
    What states nothing that is known here is left out: nothing is learnt from it, but what stands before it.
    """
    found: list[Segment] = []
    for sentence in _END.split(trace.strip()):
        for number, one in [*enumerate(forget), *((-1, one) for one in retain)]:
            prompt = _upto(sentence, one, loose=number >= 0)
            if prompt:
                found.append(Segment(prompt, one.fact.object, number, one))
                break
    return found


def _upto(sentence: str, one: Catechism, *, loose: bool) -> str:
    """The sentence up to the fact's object, if it states the fact; "" otherwise."""
    for prompt in (one.fact.prompt, *(question.text for question in one.study)):
        if sentence.startswith(f"{prompt} {one.fact.object}"):
            return prompt
    at = re.search(rf"(?<!\w){re.escape(one.fact.object)}(?!\w)", sentence) if loose and one.fact.object else None
    return (
        sentence[: at.start()].rstrip()
        if at and one.fact.subject and one.fact.subject in sentence[: at.start()]
        else ""
    )
