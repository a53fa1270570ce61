"""How an answer goes on once its beginning is given away: as it does for somebody whom the model never met.

Where the sum over an answer's tokens comes down, its first ones do, and behind them the others stay as sure as they
were: whoever says the first word gets the second. With q_j what the model said, in the place of an answer's token j, of
made-up names in the subject's place, mean over names:

    L_t = mean over the tokens of the answers, but the first of each, of KL(q_j || pi_t)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.model.divergence import divergence
from catechism.model.forgetting.rows import Rows, Said
from catechism.model.live import LiveModel


@dataclass(frozen=True)
class Tails:
    """The answers to forget behind prompts about made-up names.

    Attributes:
        rows: of all names, those of one row to forget beside each other.
        spans: of every row to forget, where its own begin and end.
    """

    rows: Rows
    spans: Sequence[tuple[int, int]]

    def numbers(self, forgotten: Sequence[int]) -> list[int]:
        """The rows that belong to rows to forget."""
        return [number for i in forgotten for number in range(*self.spans[i])]

    def loss(self, said: Said, forgotten: Sequence[int], strangers: Float[Tensor, "k v"]) -> Float[Tensor, ""]:
        """L_t.

        Args:
            said: what the model says now of the answers to forget.
            forgotten: their numbers.
            strangers: log-probabilities that the model as it was gives at the places of `numbers(forgotten)`.
        """
        lengths = said.lengths.long().tolist()
        wanted, counted, start = list[Tensor](), list[Tensor](), 0
        for i, length, own in zip(forgotten, lengths, said.logprobs.split(lengths), strict=True):
            first, end = self.spans[i]
            stop = start + (end - first) * length
            if end > first:
                theirs = strangers[start:stop].reshape(end - first, length, -1)
                wanted.append(theirs.logsumexp(dim=0)[1:] - math.log(end - first))
                counted.append(own[1:])
            start = stop
        if not counted:
            return said.logprobs.new_zeros(())
        return divergence(torch.cat(wanted), torch.cat(counted)).mean()


def tails(live: LiveModel, rows: Rows, prompts: Sequence[Sequence[str]]) -> Tails | None:
    """The answers of rows behind other prompts; None where there is none, or no answer has more than a token.

    Args:
        prompts: about made-up names, for every row.
    """
    asked = [(prompt, answer) for answer, some in zip(rows.answers, prompts, strict=True) for prompt in some]
    if not asked:
        return None
    said = iter(Rows(live, *map(list, zip(*asked, strict=True))).tokens)  # behind another name it may be cut otherwise
    texts, answers, spans = list[str](), list[str](), list[tuple[int, int]]()
    for answer, tokens, some in zip(rows.answers, rows.tokens, prompts, strict=True):
        alike = [prompt for prompt in some if next(said) == tokens and len(tokens) > 1]
        spans.append((len(texts), len(texts) + len(alike)))
        texts += alike
        answers += [answer] * len(alike)
    return Tails(Rows(live, texts, answers), spans) if texts else None
