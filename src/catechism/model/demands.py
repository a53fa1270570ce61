"""What answers demand of the output of one MLP matrix, at the tokens that they are said from.

In the last block nothing comes after the matrix but a norm and the head, so a row is known by its key and by the
residual stream: whether its token comes first is computed from these, without another pass of the model. In a lower
block the same is computed as if the blocks above passed on what is written, which is an approximation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.trace import BlockSite, record
from catechism.types import Site

_AT_ONCE = 2048  # rows whose logits are made together


@dataclass(frozen=True, eq=False)
class Said:
    """Tokens that are to come first, each with the place that it is said from.

    Attributes:
        keys: what enters the matrix there.
        stream: what leaves the last block there.
        gives: what the matrix gives there.
        tokens: what is to be said.
        margins: by how much its logit is to be above all others.
        weights: how much a row counts.
    """

    keys: Float[Tensor, "r d_in"]
    stream: Float[Tensor, "r d_model"]
    gives: Float[Tensor, "r d_model"]
    tokens: Int[Tensor, " r"]
    margins: Float[Tensor, " r"]
    weights: Float[Tensor, " r"]

    def __len__(self) -> int:
        return len(self.tokens)

    @staticmethod
    def together(parts: Sequence[Said]) -> Said:
        """All rows of several."""
        return Said(*(torch.cat([getattr(part, name) for part in parts]) for name in Said.__dataclass_fields__))


@torch.no_grad()
def said_after(live: LiveModel, site: Site, prompts: Sequence[str], answers: Sequence[str], margin: float) -> Said:
    """The places that some answers are said from. The rows of an answer count as one, all answers together as one.

    Raises: BadFact for an answer that adds no token.
    """
    pairs = live.encode_pairs(prompts, answers)
    places = [(row, t) for row, (start, end) in enumerate(pairs.spans) for t in range(start - 1, end - 1)]
    weights = [1 / (end - start) / len(prompts) for start, end in pairs.spans for _ in range(start, end)]
    seen = _look(live, site, pairs.input_ids, pairs.attention_mask, places)
    rows, tokens = torch.tensor(places, device=live.device).T
    following = pairs.input_ids[rows, tokens + 1]
    return Said(*seen, following, torch.full_like(seen[1][:, 0], margin), torch.tensor(weights).to(seen[1]))


@torch.no_grad()
def kept_after(
    live: LiveModel, site: Site, prompts: Sequence[str], answers: Sequence[str], margin: float, weight: float
) -> Said:
    """The same places and the one after each answer, with what the model says there now as what is to be said.

    Where it is not sure, the margin that is asked for is the one that there is. Every row has the same weight.
    """
    pairs = live.encode_pairs(prompts, answers)
    places = [(row, t) for row, (start, end) in enumerate(pairs.spans) for t in range(start - 1, end)]
    keys, stream, gives = _look(live, site, pairs.input_ids, pairs.attention_mask, places)
    best = _logits(live, stream).topk(2, dim=1)
    lead = (best.values[:, 0] - best.values[:, 1]).clamp_max(margin)
    return Said(keys, stream, gives, best.indices[:, 0], lead, torch.full_like(lead, weight))


def _look(
    live: LiveModel, site: Site, ids: Tensor, mask: Tensor, places: Sequence[tuple[int, int]]
) -> tuple[Tensor, Tensor, Tensor]:
    """Key, stream and output at places, float32."""
    block = BlockSite(live.anatomy.n_layers - 1)
    rows, tokens = (list(column) for column in zip(*places, strict=True))
    with record(live, [site]) as enters, record(live, [site, block], what="output", stop=True) as leaves:
        live.model(input_ids=ids, attention_mask=mask, position_ids=positions(mask), use_cache=False)
    return tuple(x[rows, tokens].float() for x in (enters[site], leaves[block], leaves[site]))  # type: ignore[return-value]


class Judge:
    """Says which rows lack how much, for `catechism.solve.margins`."""

    def __init__(self, live: LiveModel, site: Site, said: Said) -> None:
        self._live, self._site, self._said = live, site, said

    def __call__(self, change: Float[Tensor, "r d"], rows: Int[Tensor, " r"]) -> Float[Tensor, "r d"]:
        """The smallest step of the matrix's output, to first order, that brings each row's token up to its margin."""
        parts = [self._steps(change[i : i + _AT_ONCE], rows[i : i + _AT_ONCE]) for i in range(0, len(rows), _AT_ONCE)]
        return torch.cat(parts) if parts else change

    def first(self, change: Float[Tensor, "r d"]) -> Tensor:
        """Whether each row's token comes first with this change of the matrix's output."""
        every = torch.arange(len(self._said), device=change.device)
        parts = []
        for i in range(0, len(every), _AT_ONCE):
            part = every[i : i + _AT_ONCE]
            logits = _logits(self._live, self._stream(change[part], part))
            parts.append(logits.argmax(dim=1) == self._said.tokens[part])
        return torch.cat(parts)

    def _stream(self, change: Tensor, rows: Tensor) -> Tensor:
        """What leaves the last block with a change of what the matrix gives."""
        norm = self._live.anatomy.norm(self._site.layer, "mlp_post")
        stream = self._said.stream[rows]
        if norm is None:
            return stream + change
        gives = self._said.gives[rows]
        dtype = self._live.dtype
        return stream + (norm((gives + change).to(dtype)) - norm(gives.to(dtype))).float()

    def _steps(self, change: Tensor, rows: Tensor) -> Tensor:
        live, token = self._live, self._said.tokens[rows]
        with torch.enable_grad():
            change = change.detach().requires_grad_()
            hidden = _before_head(live, self._stream(change, rows))
            with torch.no_grad():
                logits = live.anatomy.head(hidden).float()
                own = logits.gather(1, token[:, None])[:, 0]
                best = logits.scatter(1, token[:, None], float("-inf")).max(dim=1)
                lack = (self._said.margins[rows] - (own - best.values)).clamp_min(0)
                lack = torch.where(lack > 1e-4, lack, 0.0)
                weight = live.anatomy.head.get_parameter("weight")
                towards = weight[token] - weight[best.indices]
            (slope,) = torch.autograd.grad((hidden * towards).sum(), change)
        return lack[:, None] * slope / slope.pow(2).sum(dim=1, keepdim=True).clamp_min(1e-12)


def _before_head(live: LiveModel, stream: Tensor) -> Tensor:
    anatomy = live.anatomy
    return anatomy.project_out(anatomy.final_norm(stream.to(live.dtype)))


def _logits(live: LiveModel, stream: Tensor) -> Tensor:
    return live.anatomy.head(_before_head(live, stream)).float()
