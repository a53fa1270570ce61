"""Membership inference: can the texts that were forgotten be told from texts that were never there?

Every score is higher for what is less likely a member. A membership can be given away from either side: an area under
the curve above 0.5 says that the texts are still known, one below it that they were pushed further than any stranger.
"""

from __future__ import annotations

import math
import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.evaluate.audit.items import Item, Kept
from catechism.model import LiveModel
from catechism.model.encoding import positions

LOWEST = 0.4  # share of the tokens that Min-K and Min-K++ look at
BATCH = 32
SCORES = ("loss", "zlib", "min_k", "min_k_plus_plus", "reference")


@dataclass(frozen=True, eq=False)
class Tokens:
    """The tokens of one text but the first, as a model sees them.

    Attributes:
        logprobs: of each token.
        mean, deviation: of the log-probability of a token drawn from the model in each place.
    """

    logprobs: Float[Tensor, " t"]
    mean: Float[Tensor, " t"]
    deviation: Float[Tensor, " t"]


def others_of(items: Sequence[Item], kept: Kept, *, seed: int) -> list[str]:
    """As many texts as there are items, of the same form, that no model was trained on.

    They are the holdout facts where there are some. Otherwise every item's sentence is written again about somebody who
    does not exist, the beginning of one subject's name with the end of another's, and with another answer; where
    no new name can be had (subjects of one word) only the answer is another.
    """
    rng = random.Random(f"others-{seed}")
    if kept.holdout:
        texts = [one.fact.sentence for one in kept.holdout]
        return rng.sample(texts, min(len(items), len(texts)))
    near: dict[str | None, set[str]] = {one.fact.relation: set() for one in kept.neighbours}
    for one in kept.neighbours:
        near[one.fact.relation].add(one.fact.subject)
    taken = {item.fact.subject for item in items} | set().union(*near.values())
    found: list[str] = []
    for item in items:
        fact = item.fact
        names = sorted(near.get(fact.relation, set()) | {fact.subject} | {other.fact.subject for other in items})
        subject = _nobody(names, taken, rng) or fact.subject
        answer = rng.choice(item.rivals) if item.rivals else fact.object
        found.append(f"{fact.prompt.replace(fact.subject, subject) if fact.subject else fact.prompt} {answer}.")
    return found


def _nobody(names: Sequence[str], taken: set[str], rng: random.Random) -> str | None:
    """A name of the first word of one and the rest of another that nobody has."""
    split = [name.split(" ", 1) for name in names if " " in name]
    for _ in range(50 if split else 0):
        name = f"{rng.choice(split)[0]} {rng.choice(split)[1]}"
        if name not in taken:
            return name
    return None


@torch.no_grad()
def token_scores(live: LiveModel, texts: Sequence[str]) -> list[Tokens]:
    """Every text under a model, in order. Raises UsageError for a text longer than the model's window."""
    found: list[Tokens] = []
    for start in range(0, len(texts), BATCH):
        batch = live.encode(texts[start : start + BATCH])
        ids, mask = batch["input_ids"], batch["attention_mask"].bool()
        logits = live.model(**batch, position_ids=positions(batch["attention_mask"]), use_cache=False).logits
        for row, own, one in zip(logits[:, :-1].double(), mask[:, 1:], ids[:, 1:], strict=True):
            found.append(tokens_of(row[own], one[own]))
    return found


def tokens_of(logits: Float[Tensor, "t v"], said: Tensor) -> Tokens:
    """The scores of tokens from the logits that they were said from."""
    logs = logits.log_softmax(dim=-1)
    p = logs.exp()
    mean = (p * logs).sum(dim=-1)
    variance = (p * (logs - mean[:, None]).square()).sum(dim=-1)
    return Tokens(logs.gather(1, said[:, None])[:, 0], mean, variance.clamp_min(0).sqrt())


def loss(tokens: Tokens) -> float:
    """Negative log-likelihood per token (Yeom et al., arXiv:1709.01604)."""
    return float(-tokens.logprobs.mean())


def zlib_loss(tokens: Tokens, text: str) -> float:
    """`loss` per byte of the text when it is packed (Carlini et al., arXiv:2012.07805)."""
    return loss(tokens) / len(zlib.compress(text.encode()))


def min_k(tokens: Tokens) -> float:
    """Mean surprise of the least likely `LOWEST` of the tokens (Min-K% Prob, arXiv:2310.16789)."""
    return -_lowest(tokens.logprobs)


def min_k_plus_plus(tokens: Tokens) -> float:
    """The same of log-probabilities that are standardised in their places (Min-K%++, arXiv:2404.02936)."""
    return -_lowest((tokens.logprobs - tokens.mean) / tokens.deviation.clamp_min(1e-12))


def _lowest(values: Float[Tensor, " t"]) -> float:
    k = max(1, math.ceil(LOWEST * len(values)))
    return float(values.sort().values[:k].mean())


def scores(live: LiveModel, texts: Sequence[str]) -> dict[str, list[float]]:
    """The scores of texts that need one model only."""
    tokens = token_scores(live, texts)
    return {
        "loss": [loss(one) for one in tokens],
        "zlib": [zlib_loss(one, text) for one, text in zip(tokens, texts, strict=True)],
        "min_k": [min_k(one) for one in tokens],
        "min_k_plus_plus": [min_k_plus_plus(one) for one in tokens],
    }


def reference(mine: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """`loss` less that of a model that never saw the texts."""
    return [x - y for x, y in zip(mine, theirs, strict=True)]
