"""Several changes of one matrix made into one, by TIES: trim, elect a sign, take the mean of those that agree."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def ties(changes: Float[Tensor, "s d_out d_in"], keep: float) -> Float[Tensor, "d_out d_in"]:
    """One change for several.

    Of each change the share `keep` of its largest entries stays; every entry takes the sign that has more weight in the
    sum of what is left; the result is the mean of the changes that have this sign there.

    Source: arXiv:2306.01708, section 4.
    """
    s, n = len(changes), changes[0].numel()
    flat = changes.reshape(s, n)
    left = torch.zeros_like(flat)
    largest = flat.abs().topk(max(1, round(keep * n)), dim=1).indices
    left.scatter_(1, largest, flat.gather(1, largest))
    agree = left.sign() * left.sum(dim=0).sign() > 0
    total = (left * agree).sum(dim=0) / agree.sum(dim=0).clamp_min(1)
    return total.reshape(changes.shape[1:])
