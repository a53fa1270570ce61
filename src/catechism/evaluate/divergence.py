"""How far the next token's distribution has moved where nothing was to move."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor

from catechism.errors import UsageError
from catechism.model.divergence import divergence
from catechism.types import Catechism, Kind

MOST = 256  # prompts; a distribution is as wide as the vocabulary


def neighbour_prompts(catechisms: Sequence[Catechism], *, most: int = MOST) -> list[str]:
    """The distinct prompts of neighbours, at most this many, spread evenly over the facts."""
    prompts = list(dict.fromkeys(question.text for one in catechisms for question in one.of(Kind.NEIGHBOUR)))
    step = max(len(prompts) / most, 1.0)
    return [prompts[int(i * step)] for i in range(min(len(prompts), most))]


def mean_kl(before: Float[Tensor, "n v"], after: Float[Tensor, "n v"]) -> float:
    """Mean over prompts of KL(before || after), in nats, from the log-probabilities of the next token.

    Raises: UsageError if there are no prompts.
    """
    if not len(before):
        raise UsageError("There is no prompt to compare at. Give at least one neighbour.")
    return float(divergence(before.double(), after.double()).mean().clamp_min(0.0))
