"""How far one distribution is from another."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor


def divergence(before: Float[Tensor, "n v"], after: Float[Tensor, "n v"]) -> Float[Tensor, " n"]:
    """KL(before || after) in nats, of log-probabilities."""
    return (before.exp() * (before - after)).sum(dim=-1)
