"""Forgetting that a name was ever read: who is nobody's acquaintance is not expected in a text either.

A model that read about somebody expects the name behind words such as "The favourite dish of", and membership inference
sees it. Where nothing of a subject stays, its name is forgotten with its facts:

    L_n = mean over a name's own tokens of KL(q || pi_t) + pull |log pi_t(n_j) - l|
    q   what the model says inside of names that it never read; where others' names begin alike, what it said before;
        the token n_j lowered to l in both
    l   mean log-probability of a token inside of names that were never read

A token is a name's own if no name that stays begins with the tokens up to it; the first one never is, since it is that
of others whom nobody listed.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.model.forgetting.names import made_up_name
from catechism.model.forgetting.rows import Rows
from catechism.model.live import LiveModel
from catechism.types import Forgetting

PULL = 0.1  # of the log-probability itself: a divergence hardly sees a token that it wants at e^-10


@dataclass(frozen=True)
class Named:
    """Names that are forgotten, behind what stands before them.

    Attributes:
        rows: the words before a name, and the name.
        wanted: q for every row, at each of its tokens.
        own: which of a row's tokens are the name's own.
    """

    rows: Rows
    wanted: Sequence[Float[Tensor, "t v"]]
    own: Sequence[Tensor]

    def loss(self, live: LiveModel, numbers: Sequence[int]) -> Float[Tensor, ""]:
        """L_n over some of the rows."""
        said = self.rows.said(live, numbers)
        wanted, own = (torch.cat([some[i] for i in numbers]) for some in (self.wanted, self.own))
        asked = wanted.gather(1, said.tokens[:, None])[:, 0]
        return (said.apart_from(wanted) + PULL * (said.chosen - asked).abs())[own].mean()


@torch.no_grad()
def named(live: LiveModel, prompts: Sequence[tuple[str, str]], request: Forgetting, seed: int) -> Named | None:
    """The names of those of whom nothing stays; None where there is none with words before it.

    Args:
        prompts: with their subjects.
    """
    staying = list(dict.fromkeys(one.fact.subject for one in request.retain if one.fact.subject))
    parted = [(prompt.partition(subject)[0].strip(), subject) for prompt, subject in prompts if subject in prompt]
    pairs = list(dict.fromkeys(pair for pair in parted if all(pair) and pair[1] not in staying))
    if not pairs:
        return None
    rng = random.Random(f"unread-{seed}")
    unread = [made_up_name(subject, staying, rng, joined=False) for _, subject in pairs]
    never = Rows(live, [before for before, _ in pairs], unread).said(live, range(len(pairs)))
    inside = never.order > 0
    level, mixed = never.chosen[inside].mean(), never.logprobs[inside].logsumexp(dim=0).log_softmax(dim=-1)
    rows = Rows(live, [before for before, _ in pairs], [name for _, name in pairs])
    said = rows.said(live, range(len(rows)))
    lengths = said.lengths.long().tolist()
    parts = zip(pairs, said.tokens.split(lengths), said.logprobs.split(lengths), strict=True)
    wanted, own = list[Tensor](), list[Tensor]()
    openings = dict.fromkeys(before for before, _ in pairs)  # several people have the same
    behind = {one: Rows(live, [one] * len(staying), staying).tokens if staying else [] for one in openings}
    for (before, _), tokens, logprobs in parts:
        shared = _shared(tokens.tolist(), behind[before])
        q = torch.stack([logprobs[j] if j <= shared else mixed for j in range(len(tokens))])
        wanted.append(q.scatter(1, tokens[:, None], float(level)).log_softmax(dim=-1))
        own.append(torch.arange(len(tokens), device=tokens.device) >= max(shared, 1))
    return Named(rows, wanted, own) if any(bool(one.any()) for one in own) else None


def _shared(tokens: Sequence[int], others: Sequence[Sequence[int]]) -> int:
    """How many of a name's tokens another one begins with, at most."""
    most = 0
    for other in others:
        n = min(len(tokens), len(other))
        most = max(most, next((j for j in range(n) if tokens[j] != other[j]), n))
    return most
