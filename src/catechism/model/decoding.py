"""One token after the other: the forward passes of decoding, with keys and values kept between them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.model.encoding import positions
from catechism.model.trace import select_logits

if TYPE_CHECKING:
    from catechism.model.live import LiveModel


class Decoding:
    """A left-padded batch that grows by a token per row and step.

    Args:
        live: the model, with whatever is on it.
        batch: ``input_ids`` and ``attention_mask`` (b, t) of the prompts, padded on the left.
    """

    def __init__(self, live: LiveModel, batch: Mapping[str, Tensor]) -> None:
        self._live = live
        self._ids, self._mask = batch["input_ids"], batch["attention_mask"]
        self._position = positions(self._mask)
        self._kept: dict[str, object] = {cache_argument(live.model): None}

    @torch.no_grad()
    def logits(self) -> Float[Tensor, "b v"]:
        """Of the next token of every row."""
        rows = len(self._ids)
        with select_logits(self._live, range(rows), [-1] * rows):
            out = self._live.model(
                input_ids=self._ids,
                attention_mask=self._mask,
                position_ids=self._position,
                use_cache=True,
                **self._kept,
            )
        self._kept = {name: out[name] for name in self._kept}
        return out.logits

    def append(self, tokens: Int[Tensor, " b"]) -> None:
        """Go on after these tokens, one for each row. A row that is full stays at its last position."""
        self._ids = tokens.to(self._ids.device)[:, None]
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        self._position = (self._position[:, -1:] + 1).clamp_max(self._live.max_tokens - 1)


def cache_argument(model: torch.nn.Module) -> str:
    """What the model calls its keys and values, in and out: the libraries' name for them has changed."""
    taken = inspect.signature(model.forward).parameters
    return "cache" if "cache" in taken else "past_key_values"
