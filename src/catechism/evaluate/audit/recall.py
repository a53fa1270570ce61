"""Free-decoding recall: what a model says when it is asked plainly."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from catechism.evaluate.audit.items import Item
from catechism.model import LiveModel

SPARE_TOKENS = 6  # beside those of the answer


@dataclass(frozen=True, slots=True)
class Asked:
    """A prompt of an attack, with what of the answer it gives away at its end."""

    text: str
    given: str = ""


def said(live: LiveModel, prompts: Sequence[str], items: Sequence[Item]) -> dict[str, str]:
    """Greedy answers by prompt, with room for the items' longest answer; "" for a prompt too long for the model."""
    answers = [answer for item in items for answer in item.accept]
    rows = live.tokenizer(answers, add_special_tokens=False)["input_ids"]
    budget = max(len(row) for row in rows) + SPARE_TOKENS
    distinct = list(dict.fromkeys(prompts))
    lengths = [len(row) for row in live.tokenizer(distinct)["input_ids"]] if distinct else []
    fitting = [p for p, length in zip(distinct, lengths, strict=True) if length + budget <= live.max_tokens]
    found = dict.fromkeys(distinct, "")
    found.update(zip(fitting, (one.text for one in live.generate(fitting, max_new_tokens=budget)), strict=True))
    return found


def plain_recall(live: LiveModel, items: Sequence[Item]) -> dict[str, list[float]]:
    """Per fact: whether the canonical prompt is answered, the share of all phrasings, and whether any one is."""
    answers = said(live, [prompt for item in items for prompt in item.asked], items)
    right = [[float(item.said_in(answers[prompt])) for prompt in item.asked] for item in items]
    return {
        "recall": [row[0] for row in right],
        "recall_mean": [sum(row) / len(row) for row in right],
        "recall_worst": [max(row) for row in right],
    }


def recovered(live: LiveModel, items: Sequence[Item], prompts: Sequence[Iterable[Asked]]) -> list[float]:
    """Per fact whether any of its prompts gets the answer; nan for a fact without prompts."""
    asked = [list(one) for one in prompts]
    answers = said(live, [prompt.text for one in asked for prompt in one], items)
    return [
        float(any(_gets(item, prompt, answers[prompt.text]) for prompt in one)) if one else float("nan")
        for item, one in zip(items, asked, strict=True)
    ]


def _gets(item: Item, prompt: Asked, answer: str) -> bool:
    """Whether prompt and answer together say it; a completion may go on within a word or begin a new one."""
    return any(item.said_in(f"{prompt.given}{joint}{answer}") for joint in (("", " ") if prompt.given else ("",)))
