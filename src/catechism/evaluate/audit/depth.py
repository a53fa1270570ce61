"""Unlearning depth by activation patching: in which layers is the knowledge gone?

The model as it was before reads a prompt with its answer, but up to layer l it is given what another model S has there.
How much less likely the answer becomes is what S has lost up to l:

    D_l^S = mean over answer tokens of (log p - log p with the patch)
    UDS   = sum_l D_l^control clip(D_l^S / D_l^control, 0, 1) / sum_l D_l^control     over l with D_l^control > 0.05

1 is as gone as in the model that never learned. The patch replaces the residual stream at every token from the
beginning of the row on, so that nothing of the fact can go round it through an earlier token of the subject.

Source: the unlearning depth score, github.com/gnueaj/unlearning-depth-score. It patches the tokens of the entity; here
the whole row is patched, which leaves no way round.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from catechism.evaluate.audit.items import Item
from catechism.model import BlockSite, LiveModel, Patch, patch, record
from catechism.model.target_tokens import TargetTokens, target_tokens

KNOWS = 0.05  # nats: a layer in which the control loses less has nothing to lose


def layers_of(live: LiveModel, most: int) -> list[int]:
    """At most this many layers, spread evenly, the last one among them."""
    n = live.anatomy.n_layers
    if n <= most:
        return list(range(n))
    return sorted({n - 1 - round(i * (n - 1) / max(most - 1, 1)) for i in range(most)})


@torch.no_grad()
def losses(full: LiveModel, source: LiveModel, items: Sequence[Item], layers: Sequence[int]) -> list[list[float]]:
    """``D_l`` by layer and fact, in nats, for a model whose streams are put into the full one."""
    asked = target_tokens(full, [item.asked[0] for item in items], [item.fact.object for item in items])
    sites = [BlockSite(layer) for layer in layers]
    with record(source, sites, what="output") as streams:
        source.model(**asked.inputs, use_cache=False)
    rows, tokens = asked.inputs["attention_mask"].nonzero(as_tuple=True)
    whole = _said(full, asked)
    found: list[list[float]] = []
    for site in sites:
        change = Patch(site, rows, tokens, streams[site][rows, tokens], mode="replace")
        with patch(full, change):
            found.append((whole - _said(full, asked)).tolist())
    return found


def _said(live: LiveModel, asked: TargetTokens) -> Tensor:
    """Log-probability per answer token, by row."""
    logs = asked.logprobs(live).gather(1, asked.said[:, None])[:, 0].double()
    sums = torch.zeros(int(asked.rows.max()) + 1, dtype=torch.float64).index_add(0, asked.rows.cpu(), logs.cpu())
    return sums / torch.bincount(asked.rows).cpu()


def depth_score(lost: Sequence[float], control: Sequence[float]) -> float:
    """UDS of one fact from ``D_l`` of the model and of the control, by layer; nan if the control loses it nowhere."""
    pairs = [(mine, theirs) for mine, theirs in zip(lost, control, strict=True) if theirs > KNOWS]
    if not pairs:
        return math.nan
    return math.fsum(t * min(max(m / t, 0.0), 1.0) for m, t in pairs) / math.fsum(t for _, t in pairs)
