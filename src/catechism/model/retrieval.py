"""Text beside a model at work: prompts that a kept text belongs to are asked with the text before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from catechism.delta.address import Address, Feature, Match, Reading, pooled
from catechism.delta.part import Text
from catechism.delta.recall import Recall
from catechism.model import encoding
from catechism.model.memories import place_of
from catechism.model.trace import record

if TYPE_CHECKING:
    from catechism.model.live import LiveModel

_ROWS = 64  # read at a time


def _retrieved(live: LiveModel, context: Text, prompts: Sequence[str]) -> list[list[tuple[float, str]]]:
    """Per prompt, the texts of one context that belong to it, with their scores."""
    if not len(prompts):
        return []
    if isinstance(context, Recall):
        return context.at(*_matched(live, context.address, prompts))
    return context.retrieve(read_features(live, prompts, context.feature, context.pooling))


@torch.no_grad()
def _matched(live: LiveModel, address: Address, prompts: Sequence[str]) -> Match:
    """Which entry of an address each prompt asks for."""
    places = [place_of(feature) for feature in address.features]
    found: list[Match] = []
    for start in range(0, len(prompts), _ROWS):
        batch = live.encode(prompts[start : start + _ROWS])
        with record(live, places, stop=True) as seen:
            live.model(**batch, position_ids=encoding.positions(batch["attention_mask"]), use_cache=False)
        features = tuple(seen[place].cpu() for place in places)
        mask, nothing = batch["attention_mask"].bool().cpu(), torch.zeros(*features[0].shape[:2], 0)
        found.append(address.match(Reading(features, mask, nothing, nothing, lambda _: nothing)))  # noqa: B023
    entries, scores = zip(*found, strict=True)
    return torch.cat(entries), torch.cat(scores)


@torch.no_grad()
def read_features(
    live: LiveModel, prompts: Sequence[str], feature: Feature, pooling: str, *, batch_size: int = _ROWS
) -> torch.Tensor:
    """One feature of every prompt, ``(n, d)`` in float32: what a context's keys are made of, and its queries.

    Raises: UsageError for a prompt without tokens, or longer than the model's window.
    """
    found: list[torch.Tensor] = []
    place = place_of(feature)
    for start in range(0, len(prompts), batch_size):
        batch = live.encode(prompts[start : start + batch_size])
        with record(live, [place], what="input" if feature.side == "input" else "output", stop=True) as seen:
            live.model(**batch, position_ids=encoding.positions(batch["attention_mask"]), use_cache=False)
        found.append(pooled(seen[place], batch["attention_mask"].bool(), pooling).cpu())
    return torch.cat(found) if found else torch.zeros(0, 0)


def with_contexts(live: LiveModel, contexts: Sequence[Text], prompts: Sequence[str]) -> list[str]:
    """The prompts, each with the texts before it that belong to it, the nearest last, a space between all.

    Where several contexts are on, the nearest texts of all of them are taken. What does not fit into the model's window
    is left out, the farthest first.
    """
    found: list[list[tuple[float, str]]] = [[] for _ in prompts]
    for context in contexts:
        for taken, more in zip(found, _retrieved(live, context, prompts), strict=True):
            taken += more
    most = max((context.most for context in contexts), default=0)
    texts = [list(dict.fromkeys(text for _, text in sorted(taken)[-most:])) for taken in found]
    while True:
        joined = [" ".join([*before, prompt]) for before, prompt in zip(texts, prompts, strict=True)]
        rows = encoding.rows(live.tokenizer, joined)
        long = [i for i, row in enumerate(rows) if len(row.ids) > live.max_tokens and texts[i]]
        if not long:
            return joined
        for i in long:
            texts[i] = texts[i][1:]
