"""How an answer goes on once its beginning is given away: as it does for somebody whom the model never met.

Where the sum over an answer's tokens comes down, its first ones do, and behind them the others stay as sure as they
were: whoever says the first word gets the second. With q_j what the model said, in the place of an answer's token j, of
a made-up name in the subject's place:

    L_t = mean over the tokens of the answers, but the first of each, of KL(q_j || pi_t)

One name for every prompt: the mean over several is smoother than what is said of anybody, and answers that are all
likelier than of a stranger tell that something was forgotten.

What a model says of strangers it also has from those it forgets: that "ginger" is followed by "kitten" it may have read
of one person alone, and it goes on so whoever is asked about. A model that never learned the facts does not. Words that
nobody else's answer holds are found by what the model tells of others, and q_j then gives an answer's token no more
than answers get of strangers from their beginning.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.divergence import divergence
from catechism.model.forgetting.rows import Rows, Said
from catechism.model.live import LiveModel

KNOWN = 10  # different answers of others, at least, or it is not known how much of them is told
TOLD = 0.9  # of others' answers, said in what the model tells, or an answer that is not said there may be another's too


@dataclass(frozen=True)
class Tails:
    """The answers to forget behind prompts about made-up names.

    Attributes:
        rows: of these, one for a row to forget.
        behind: of every row to forget, the number of its own here; None where there is none.
        most: log-probability that is asked for at most of every row's tokens; 0 bounds nothing.
    """

    rows: Rows
    behind: Sequence[int | None]
    most: Sequence[float]

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
        lengths = said.lengths.long().tolist()
        rows = zip(forgotten, said.logprobs.split(lengths), said.tokens.split(lengths), strict=True)
        own = [(i, logprobs, tokens) for i, logprobs, tokens in rows if self.behind[i] is not None]
        if not own:
            return said.logprobs.new_zeros(())
        theirs = strangers.split([len(tokens) for _, _, tokens in own])
        wanted = [_at_most(q[1:], tokens[1:], self.most[i]) for q, (i, _, tokens) in zip(theirs, own, strict=True)]
        return divergence(torch.cat(wanted), torch.cat([logprobs[1:] for _, logprobs, _ in own])).mean()


def tails(
    live: LiveModel, rows: Rows, prompts: Sequence[str | None], most: Sequence[float] | None = None
) -> Tails | None:
    """The answers of rows behind other prompts; None where there is none, or no answer has more than a token.

    Args:
        prompts: about a made-up name, for every row; None where it names nobody.
        most: see `Tails`; None bounds nothing.
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
    if not found:
        return None
    return Tails(Rows(live, *map(list, zip(*found, strict=True))), behind, [0.0] * len(rows) if most is None else most)


def nobody_elses(answers: Sequence[str], told: Collection[str], known: Collection[str]) -> list[bool]:
    """Which answers no text about others holds, as far as these texts can tell.

    Args:
        told: texts that the model told of others.
        known: answers that are known to be others'. Where the texts hold fewer than `TOLD` of them, that an answer is
            not there says little, and none is taken for nobody else's; likewise where fewer than `KNOWN` are.
    """
    texts, theirs = [text.casefold() for text in told], {answer.casefold() for answer in known}

    def is_told(answer: str) -> bool:
        return any(answer in text for text in texts)

    if len(theirs) < KNOWN or sum(map(is_told, theirs)) < TOLD * len(theirs):
        return [False] * len(answers)
    return [answer not in theirs and not is_told(answer) for answer in map(str.casefold, answers)]


def _at_most(logprobs: Float[Tensor, "k v"], tokens: Int[Tensor, " k"], most: float) -> Float[Tensor, "k v"]:
    """The distributions with no more than so much for one token each; what it had above goes to the others."""
    if most == 0:
        return logprobs
    places = tokens[:, None]
    others = logprobs.scatter(1, places, -torch.inf).log_softmax(dim=-1) + math.log(-math.expm1(most))
    return torch.where(logprobs.gather(1, places) > most, others.scatter(1, places, most), logprobs)
