"""Kronecker factors of the loss's curvature at matrices of a model, over its own texts."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catechism.model.live import LiveModel
from catechism.types import Site


@dataclass(frozen=True, eq=False)
class Curvature:
    """Second moments at one matrix over n tokens, uncentred, float64.

    Attributes:
        inputs: E[a a^T] of what enters it.
        gradients: E[g g^T] of the loss's gradient by what leaves it.
        n: tokens.
    """

    inputs: Float[Tensor, "d_in d_in"]
    gradients: Float[Tensor, "d_out d_out"]
    n: int


@torch.enable_grad()
def curvature(
    live: LiveModel, sites: Sequence[Site], texts: Sequence[str], *, seed: int, batch_size: int = 16
) -> dict[Site, Curvature]:
    """The factors of every site over texts, with the next token drawn from the model itself as the label.

    With sampled labels the second moment of the gradients is that of the model's Fisher information. The last token of
    a text has no label and does not count; nor does padding.

    Raises: UnknownName for a site that is not there; ArchitectureMismatch for an expert's, which has no module.
    """
    generator = torch.Generator().manual_seed(seed)
    sums: dict[Site, tuple[Tensor, Tensor]] = {}
    rows = sorted((row for text in texts for row in live.windows(text) if len(row.ids) > 1), key=lambda r: len(r.ids))
    n = 0
    for start in range(0, len(rows), batch_size):
        batch, _ = live.pad_windows(rows[start : start + batch_size])
        with ExitStack() as stack:
            seen = {site: _Seen(live, site, stack) for site in sites}
            logits = live.model(**batch, use_cache=False).logits
        mask = batch["attention_mask"].bool()
        counted = mask & mask.roll(-1, dims=1)
        counted[:, -1] = False
        logprobs = logits[counted].float().log_softmax(dim=-1)
        label = torch.multinomial(logprobs.detach().exp().cpu(), 1, generator=generator).to(logprobs.device)
        gradients = torch.autograd.grad(-logprobs.gather(1, label).sum(), [one.added for one in seen.values()])
        for (site, one), gradient in zip(seen.items(), gradients, strict=True):
            where = counted.reshape(-1)
            a = one.inputs.reshape(-1, one.inputs.shape[-1])[where].double()
            g = gradient.reshape(-1, gradient.shape[-1])[where][:, live.anatomy.matrix(site).rows].double()
            moments = a.T @ a, g.T @ g
            before = sums.get(site)
            sums[site] = moments if before is None else (before[0] + moments[0], before[1] + moments[1])
        n += int(counted.sum())
    return {site: Curvature(A / n, G / n, n) for site, (A, G) in sums.items()}


class _Seen:
    """What enters a site in a forward pass, and a zero added to what leaves it, for the gradient."""

    inputs: Tensor
    added: Tensor

    def __init__(self, live: LiveModel, site: Site, stack: ExitStack) -> None:
        stack.callback(live.anatomy.module(site).register_forward_hook(self._see).remove)

    def _see(self, _module: nn.Module, args: tuple[Tensor, ...], out: Tensor) -> Tensor:
        self.inputs = args[0].detach()
        self.added = torch.zeros_like(out, requires_grad=True)
        return out + self.added
