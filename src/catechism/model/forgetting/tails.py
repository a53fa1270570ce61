"""How an answer goes on once its beginning is given away: as it does for somebody whom the model never met.

Where the sum over an answer's tokens comes down, its first ones do, and behind them the others stay as sure as they
were: whoever says the first word gets the second. With q_j what the model said, in the place of an answer's token j, of
a made-up name in the subject's place:

    L_t = mean over the tokens of the answers, but the first of each, of KL(q_j || pi_t)

One name for every prompt: the mean over several is smoother than what is said of anybody, and answers that are all
likelier than of a stranger tell that something was forgotten.
"""

from __future__ import annotations

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
        rows: of these, one for a row to forget.
        behind: of every row to forget, the number of its own here; None where there is none.
    """

    rows: Rows
    behind: Sequence[int | None]

    def numbers(self, forgotten: Sequence[int]) -> list[int]:
        """The rows that belong to rows to forget."""
        return [number for i in forgotten if (number := self.behind[i]) is not None]

    def loss(self, said: Said, forgotten: Sequence[int], strangers: Float[Tensor, "k v"]) -> Float[Tensor, ""]:
        """L_t.

        Args:
            said: what the model says now of the answers to forget.
            forgotten: their numbers.
            strangers: log-probabilities that the model as it was gives at the places of `numbers(forgotten)`.
        """
        answers = zip(forgotten, said.logprobs.split(said.lengths.long().tolist()), strict=True)
        own = [logprobs for i, logprobs in answers if self.behind[i] is not None]
        if not own:
            return said.logprobs.new_zeros(())
        theirs = strangers.split([len(one) for one in own])
        return divergence(torch.cat([one[1:] for one in theirs]), torch.cat([one[1:] for one in own])).mean()


def tails(live: LiveModel, rows: Rows, prompts: Sequence[str | None]) -> Tails | None:
    """The answers of rows behind other prompts; None where there is none, or no answer has more than a token.

    Args:
        prompts: about a made-up name, for every row; None where it names nobody.
    """
    asked = [(prompt, answer) for prompt, answer in zip(prompts, rows.answers, strict=True) if prompt is not None]
    if not asked:
        return None
    said = iter(Rows(live, *map(list, zip(*asked, strict=True))).tokens)  # behind another name it may be cut otherwise
    found, behind = list[tuple[str, str]](), list[int | None]()
    for prompt, answer, tokens in zip(prompts, rows.answers, rows.tokens, strict=True):
        if prompt is not None and next(said) == tokens and len(tokens) > 1:
            behind.append(len(found))
            found.append((prompt, answer))
        else:
            behind.append(None)
    return Tails(Rows(live, *map(list, zip(*found, strict=True))), behind) if found else None
