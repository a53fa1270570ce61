"""Which words of a prompt an answer hangs on: attribution by leaving one out, as in unPact (arXiv:2509.24675).

    c_i = log p(answer | prompt) - log p(answer | prompt without word i)

in nats per answer token. Words between spaces are left out, not tokens of the vocabulary: a piece of a word cannot be
stressed afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence

from catechism.evaluate.audit.items import Item
from catechism.model import LiveModel

KEYS = 3  # words that are stressed


def attributions(live: LiveModel, items: Sequence[Item]) -> list[list[float]]:
    """Of every word of each item's canonical prompt, in order."""
    prompts: list[str] = []
    answers: list[str] = []
    for item in items:
        words = item.asked[0].split()
        rows = [words, *([*words[:i], *words[i + 1 :]] for i in range(len(words)))]
        prompts += [" ".join(row) for row in rows]
        answers += [item.fact.object] * len(rows)
    scores = iter(live.score(prompts, answers))
    found: list[list[float]] = []
    for item in items:
        whole = next(scores).mean
        found.append([whole - next(scores).mean for _ in item.asked[0].split()])
    return found


def key_words(prompt: str, attribution: Sequence[float], most: int = KEYS) -> list[str]:
    """The words with the greatest positive attribution, in the order of the prompt."""
    words = prompt.split()
    order = sorted(range(len(words)), key=lambda i: -attribution[i])[:most]
    return [words[i] for i in sorted(order) if attribution[i] > 0]


def share_on_subject(item: Item, attribution: Sequence[float]) -> float:
    """Share of the positive attribution that lies on the subject's words; 0 where nothing is positive."""
    names = set(item.fact.subject.split())
    positive = [max(value, 0.0) for value in attribution]
    own = sum(value for word, value in zip(item.asked[0].split(), positive, strict=True) if word.strip(",?.") in names)
    return own / sum(positive) if sum(positive) else 0.0
