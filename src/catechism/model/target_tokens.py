"""Prompts with what is to be said after them, and how likely that is: the loss of methods that train."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.errors import BadSpec
from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.trace import select_logits
from catechism.types import Fact

#: Where a target's tokens are said from: each from the token before it, or all of them from the prompt's last token.
Say = Literal["tokens", "last"]


@dataclass(frozen=True, slots=True, eq=False)
class TargetTokens:
    """Rows of prompt and target, with the k places that the targets' tokens are said from.

    Attributes:
        inputs: arguments of the model's forward pass, b rows.
        rows, tokens: the places.
        said: the token that is to be said at each.
    """

    inputs: dict[str, Int[Tensor, "b t"]]
    rows: Int[Tensor, " k"]
    tokens: Int[Tensor, " k"]
    said: Int[Tensor, " k"]

    def logprobs(self, live: LiveModel) -> Float[Tensor, "k v"]:
        """Log-probabilities of all tokens at the places, as the model is now."""
        with select_logits(live, self.rows, self.tokens):
            logits = live.model(**self.inputs, use_cache=False).logits
        return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(dim=-1)

    def nll(self, live: LiveModel) -> Float[Tensor, ""]:
        """Negative log-likelihood per target token, mean over the rows."""
        return -self.mean(self.logprobs(live).gather(1, self.said[:, None])[:, 0])

    def mean(self, x: Float[Tensor, " k"]) -> Float[Tensor, ""]:
        """Mean over each row's places, then over the rows: a long target weighs no more than a short one."""
        places = torch.bincount(self.rows)
        return (x / places[self.rows].to(x)).sum() / len(places)


def target_tokens(
    live: LiveModel, prompts: Sequence[str], targets: Sequence[str], *, say: Say = "tokens"
) -> TargetTokens:
    """Lay out prompts with their targets.

    Raises: BadFact for an empty target; UsageError for a row longer than the model's window.
    """
    pairs = live.encode_pairs(prompts, targets)
    places = [
        (row, (start if say == "last" else token) - 1, token)
        for row, (start, end) in enumerate(pairs.spans)
        for token in range(start, end)
    ]
    rows, tokens, following = torch.tensor(places, device=live.device).T
    mask = pairs.attention_mask
    inputs = {"input_ids": pairs.input_ids, "attention_mask": mask, "position_ids": positions(mask)}
    return TargetTokens(inputs, rows, tokens, pairs.input_ids[rows, following])


def check_facts(live: LiveModel, facts: Sequence[Fact], *, needs_subject: bool = True) -> None:
    """Refuse what cannot be taught, before anything is computed.

    Args:
        needs_subject: whether a fact without a subject, "", is refused too.

    Raises: BadSpec without facts; BadFact if a prompt does not hold its subject or an object is empty; UsageError for a
        prompt that, with its object, is longer than the model's window.
    """
    if not facts:
        raise BadSpec("There is nothing to fit. Give at least one catechism.")
    live.encode_pairs([fact.prompt for fact in facts], [fact.object for fact in facts])
    for fact in facts:
        if fact.subject or needs_subject:
            live.subject_last(fact.prompt, fact.subject)


def check_rate(name: str, rate: float, *, most: float = 1.0) -> None:
    """Raise BadSpec for a learning rate that is not above 0 and at most `most`."""
    if not (math.isfinite(rate) and 0 < rate <= most):
        raise BadSpec(f"{name}={rate} is out of range. Use a number above 0 and at most {most:g}.")
