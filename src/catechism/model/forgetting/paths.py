"""Influential neuron paths: in every MLP the neurons whose activations an answer hangs on, found layer by layer.

Text branch of arXiv:2511.06793, integrated gradients over MLP neurons along the path found so far. With w^l the input
of layer l's output matrix, and p(l') the neurons on the path in an earlier layer l',

    score_j = (w_j^l + sum_{l'<l} sum_{p in p(l')} w_p) / m
              * sum_{k=1..m} [ dF/dw_j^l + sum_{l'<l} sum_{p in p(l')} dF/dw_p ]                            # Eq. P1

where the gradients of F, the answer's log-likelihood, are taken with w^l and the path's activations at k/m of what they
are. The neurons with the largest scores join the path.

Deviation: F is the log-likelihood, whose gradient does not vanish where the answer is certain; published is the
probability, its code the loss. Steps run from 1/m to 1, where the code's run from 0 to 1 - 1/m. Activations are read at
a chosen token, the code's at token 0, which no fact is read from. All path neurons count in the joint term; in the code
only the last one of each layer does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.live import LiveModel
from catechism.model.target_tokens import TargetTokens
from catechism.model.trace import Patch, patch, record
from catechism.types import Site

AT_ONCE = 64  # rows of a pass


@dataclass(frozen=True, slots=True, eq=False)
class Read:
    """Rows with their answers, and the token of each at which neurons are read."""

    asked: TargetTokens
    tokens: Int[Tensor, " n"]


@torch.enable_grad()
def neuron_paths(
    live: LiveModel, sites: Sequence[Site], read: Read, *, top: int, steps: int
) -> dict[Site, Int[Tensor, "n top"]]:
    """The path of every row: so many neurons of each site, by descending score.

    Args:
        sites: MLP output matrices, in the order of their layers.
        top: neurons that join the path in each layer.
        steps: m.
    """
    rows = torch.arange(len(read.tokens), device=read.tokens.device)
    with record(live, sites) as seen, torch.no_grad():
        live.model(**read.asked.inputs, use_cache=False)
    there = {site: seen[site][rows, read.tokens].detach() for site in sites}
    path: dict[Site, Int[Tensor, "n top"]] = {}
    for number, site in enumerate(sites):
        before = sites[:number]
        own, joint = torch.zeros_like(there[site]), torch.zeros_like(there[site][:, :1])
        for k in range(1, steps + 1):
            gradients = _gradients(live, read, rows, there, path, site, k / steps)
            own += gradients[site]
            for one in before:
                joint += gradients[one].gather(1, path[one]).sum(dim=1, keepdim=True)
        held = sum(
            (there[one].gather(1, path[one]).sum(dim=1, keepdim=True) for one in before), torch.zeros_like(joint)
        )
        score = (there[site] + held) / steps * (own + joint)  # Eq. P1
        path[site] = score.topk(top, dim=1).indices
    return path


def _gradients(
    live: LiveModel,
    read: Read,
    rows: Int[Tensor, " n"],
    there: dict[Site, Float[Tensor, "n d_ff"]],
    path: dict[Site, Int[Tensor, "n top"]],
    site: Site,
    share: float,
) -> dict[Site, Float[Tensor, "n d_ff"]]:
    """Gradients of every row's log-likelihood by the activations of a site and of those on the path before it."""
    values: dict[Site, Tensor] = {}
    for one, neurons in path.items():
        scaled = there[one].clone()
        values[one] = scaled.scatter(1, neurons, share * scaled.gather(1, neurons)).requires_grad_()
    values[site] = (share * there[site]).requires_grad_()
    patches = [Patch(one, rows, read.tokens, value, "replace", "input") for one, value in values.items()]
    with patch(live, *patches):
        logprobs = read.asked.logprobs(live)
    said = logprobs.gather(1, read.asked.said[:, None]).sum()
    return dict(zip(values, torch.autograd.grad(said, list(values.values())), strict=True))


def united(paths: Sequence[Int[Tensor, "n top"]], width: int, least: int) -> Int[Tensor, " u"]:
    """Neurons that are on the paths of so many rows or more, in order."""
    counted = torch.zeros(width, dtype=torch.long)
    for one in paths:
        counted += torch.bincount(one.cpu().reshape(-1), minlength=width)
    return (counted >= least).nonzero()[:, 0]
