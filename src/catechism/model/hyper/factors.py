"""A fine-tuning gradient taken apart: for every token what enters a matrix, and the gradient of what leaves it.

dL/dW = sum_t delta_t u_t^T                                   one term of rank one for each token
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from catechism.model.live import LiveModel
from catechism.model.side_paths import side_paths
from catechism.model.target_tokens import TargetTokens, target_tokens
from catechism.types import Site

ROWS = 32  # edits whose gradients are taken together


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """The gradients of n edits at one matrix, padded to t tokens.

    Attributes:
        u: what enters the matrix. delta: gradient of the edit's loss by what leaves it. Both are zero where nothing
            counts.
        counted: tokens that have a term: those with a gradient.
    """

    u: Float[Tensor, "n t d_in"]
    delta: Float[Tensor, "n t d_out"]
    counted: Bool[Tensor, "n t"]

    def of(self, edits: Sequence[int]) -> Factors:
        """Those of some edits, in this order."""
        chosen = list(edits)
        return Factors(self.u[chosen], self.delta[chosen], self.counted[chosen])


def edit_factors(
    live: LiveModel, sites: Sequence[Site], prompts: Sequence[str], targets: Sequence[str]
) -> dict[str, Factors]:
    """Factors of the gradient of each edit's own negative log-likelihood per target token, by address.

    Raises: BadFact for an empty target; UsageError for a row longer than the model's window.
    """
    parts: dict[str, list[Factors]] = {}
    for start in range(0, len(prompts), ROWS):
        some = slice(start, start + ROWS)
        for site, found in gradient_factors(live, sites, target_tokens(live, prompts[some], targets[some])).items():
            parts.setdefault(live.anatomy.matrix(site).address, []).append(found)
    return {address: _stacked(found) for address, found in parts.items()}


@torch.enable_grad()
def gradient_factors(live: LiveModel, sites: Sequence[Site], asked: TargetTokens) -> dict[Site, Factors]:
    """Factors of one batch by site.

    A zero is added to what leaves each matrix, and differentiated by: the model's own parameters stay frozen.
    """
    b, t = asked.inputs["input_ids"].shape
    entered: dict[Site, Tensor] = {}
    zeros: dict[Site, Tensor] = {}

    def watch(site: Site) -> Callable[[Tensor], Tensor]:
        d_out = live.anatomy.matrix(site).shape[0]

        def zero(x: Tensor) -> Tensor:
            wide = torch.promote_types(x.dtype, torch.float32)
            entered[site] = x.detach().reshape(b, t, -1).to(wide)
            zeros[site] = torch.zeros(b, t, d_out, device=x.device, dtype=wide, requires_grad=True)
            return zeros[site].reshape(*x.shape[:-1], d_out)

        return zero

    with side_paths(live, {site: watch(site) for site in sites}):
        loss = asked.nll(live) * b  # the sum over rows: each has the gradient of its own loss
    gradients = torch.autograd.grad(loss, [zeros[site] for site in sites])
    found = {}
    for site, delta in zip(sites, gradients, strict=True):
        counted = (delta != 0).any(dim=-1)
        found[site] = Factors(entered[site] * counted[..., None], delta, counted)
    return found


def _stacked(parts: Sequence[Factors]) -> Factors:
    """One under the other, padded to the longest."""
    longest = max(part.u.shape[1] for part in parts)
    u, delta = (
        torch.cat([functional.pad(x, (0, 0, 0, longest - x.shape[1])) for x in some])
        for some in ([part.u for part in parts], [part.delta for part in parts])
    )
    counted = torch.cat([functional.pad(part.counted, (0, longest - part.counted.shape[1])) for part in parts])
    return Factors(u, delta, counted)
