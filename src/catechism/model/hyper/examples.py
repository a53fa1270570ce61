"""What an editing network is trained on: edits of other facts, each with what has to follow and what has to stay."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catechism.errors import BadSpec
from catechism.model.background import Background
from catechism.types import UNMOVED, Catechism

#: A prompt with what is said after it.
Asked = tuple[str, str]

SAME, KEPT = 2, 3  # of a self-written example
LONGEST = 24  # words of a self-written prompt
_SENTENCE = re.compile(r"\s*(\S.*?\S)\s*(?:[.!]|$)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Example:
    """One edit to learn from.

    Attributes:
        prompt: where the new answer is to be given; the only prompt that the gradient is taken of.
        answer: the new answer.
        same: other prompts, each with what has to be said after the edit.
        kept: prompts with an answer, at whose tokens no chance may move.
    """

    prompt: str
    answer: str
    same: tuple[Asked, ...] = ()
    kept: tuple[Asked, ...] = ()


def from_catechisms(catechisms: Iterable[Catechism]) -> list[Example]:
    """The edits of catechisms, with their prompts to study. The exam is not read."""
    found = []
    for catechism in catechisms:
        answered = [question for question in catechism.study if question.accept]
        same = tuple((q.text, q.accept[0]) for q in answered if q.kind not in UNMOVED)
        kept = tuple((q.text, q.accept[0]) for q in answered if q.kind in UNMOVED)
        found.append(Example(catechism.fact.prompt, catechism.fact.object, same, kept))
    return found


def self_written(background: Background, n: int, *, seed: int) -> list[Example]:
    """`n` edits made of the background's texts, by default of what the model writes by itself.

    A text's first sentence without its last word or two is the prompt; the new answer is the end of another one. What
    has to follow is the same prompt after another text's sentence; what has to stay are the others.

    Raises: BadSpec if the texts hold too few sentences.
    """
    rng = random.Random(f"edits-{seed}")
    ends: dict[str, str] = {}
    for text in background.texts(4 * n):
        sentence = _SENTENCE.match(text)
        words = sentence[1].split()[:LONGEST] if sentence else []
        cut = rng.choice((1, 1, 2))
        if len(words) > cut + 1:
            ends.setdefault(" ".join(words[:-cut]), " ".join(words[-cut:]))
        if len(ends) == n:
            break
    prompts = list(ends)
    if len(prompts) < n or len(set(ends.values())) < 2:
        raise BadSpec(
            f"The background holds {len(prompts)} sentences to make training edits of, {n} were asked for. Lower "
            "`examples`, give more texts, or hand in catechisms of other facts with `training`."
        )
    return [_example(rng, prompt, prompts, ends) for prompt in prompts]


def _example(rng: random.Random, prompt: str, prompts: Sequence[str], ends: dict[str, str]) -> Example:
    others = [other for other in rng.sample(prompts, min(16, len(prompts))) if other != prompt]
    answer = next((ends[other] for other in others if ends[other] != ends[prompt]), "")
    while not answer:
        other = ends[rng.choice(prompts)]
        answer = other if other != ends[prompt] else ""
    same = tuple((f"{other} {ends[other]}. {prompt}", answer) for other in others[:SAME])
    return Example(prompt, answer, same, tuple((other, ends[other]) for other in others[:KEPT]))
