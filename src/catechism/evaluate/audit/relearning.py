"""Relearning: how fast a little training brings the facts back, beside a model that never knew them."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from catechism.evaluate.audit.items import Item
from catechism.model import LiveModel
from catechism.model.merged import merged
from catechism.model.target_tokens import TargetTokens, target_tokens

ROWS = 64  # of a batch
LOOK = 4  # steps between the looks that say whether training on something else brings a fact back


@dataclass(frozen=True, slots=True)
class Relearning:
    """How training went.

    Attributes:
        steps: by fact, training steps until half of its phrasings are answered; one more than there were if never.
        curve: share of the facts that are back, before the first step and after each.
    """

    steps: tuple[float, ...]
    curve: tuple[float, ...]


def relearn(live: LiveModel, items: Sequence[Item], *, steps: int, lr: float, phrasings: int) -> Relearning:
    """Train a merged copy on the canonical sentences of the facts, all weights free, and look after every step.

    A fact is back when the answer is the model's first choice, token by token, after at least half of its first
    `phrasings` prompts. Only the canonical one is trained on.
    """
    copy = merged(live)
    batches = [
        target_tokens(copy, [item.asked[0] for item in part], [item.fact.object for item in part])
        for part in (items[start : start + ROWS] for start in range(0, len(items), ROWS))
    ]
    back = [_back(copy, items, phrasings)]
    for _ in _descent(copy, batches, steps, lr):
        back.append(_back(copy, items, phrasings))
        if all(back[-1]):
            break
    return _relearning(back, steps)


def benign(
    live: LiveModel, items: Sequence[Item], facts: Sequence[tuple[str, str]], *, steps: int, lr: float, seed: int
) -> tuple[list[float], Relearning]:
    """Train a merged copy on other facts and look after every step, at the canonical prompts only.

    Args:
        facts: prompts with their answers, near the forgotten ones but none of them.

    Returns: 1 for every fact that is back at one of the looks after `LOOK` steps each and at the end, and how training
        went, as for `relearn`.
    """
    copy = merged(live)
    order = list(facts)
    random.Random(f"benign-{seed}").shuffle(order)
    batches = [
        target_tokens(copy, [p for p, _ in part], [a for _, a in part])
        for part in (order[start : start + ROWS // 2] for start in range(0, len(order), ROWS // 2))
    ]
    back = [_back(copy, items, 1), *(_back(copy, items, 1) for _ in _descent(copy, batches, steps, lr))]
    looks = [row for step, row in enumerate(back) if step and (step % LOOK == 0 or step == steps)]
    return [float(any(row[i] for row in looks)) for i in range(len(items))], _relearning(back, steps)


def _relearning(back: Sequence[Sequence[bool]], steps: int) -> Relearning:
    """From what is back before the first step and after each."""
    found = [next((float(step) for step, row in enumerate(back) if row[i]), steps + 1.0) for i in range(len(back[0]))]
    return Relearning(tuple(found), tuple(sum(row) / len(row) for row in back))


def _descent(copy: LiveModel, batches: Sequence[TargetTokens], steps: int, lr: float) -> Iterator[int]:
    """Adam on all weights, one batch after the other; gives the number of each step after it was taken."""
    parameters = [parameter for parameter in copy.model.parameters() if parameter.is_floating_point()]
    for parameter in parameters:
        parameter.requires_grad_(True)
    adam = torch.optim.Adam(parameters, lr=lr)
    for step in range(steps):
        adam.zero_grad()
        with torch.enable_grad():
            batches[step % len(batches)].nll(copy).backward()
        adam.step()
        yield step + 1


def _back(live: LiveModel, items: Sequence[Item], phrasings: int) -> list[bool]:
    """By fact: is the answer the first choice after half of the prompts or more?"""
    pairs = [(prompt, item.fact.object) for item in items for prompt in item.asked[:phrasings]]
    scores = iter(live.score([p for p, _ in pairs], [a for _, a in pairs]))
    rows = [[next(scores).argmax_match for _ in item.asked[:phrasings]] for item in items]
    return [2 * sum(row) >= len(row) for row in rows]
