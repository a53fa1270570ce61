"""The network from one block and from one token upwards, on a fixed batch.

What lies below the block, and what lies before the token in every block, is computed once: of the earlier tokens only
keys and values are needed, and a search that acts from the token on does not change them.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import DynamicCache

from catechism.model.decoding import cache_argument
from catechism.model.encoding import positions
from catechism.model.live import LiveModel
from catechism.model.tail import Tail
from catechism.model.trace import select_logits


def can_part(live: LiveModel, longest: int) -> bool:
    """Whether rows of up to so many tokens may be read in two goes, with room between them.

    Not where a sliding window would be shortened by that room, nor where a memory has to see the whole prompt.
    """
    window = getattr(live.model.config.get_text_config(), "sliding_window", None)
    return not live.beside.memories.on and (window is None or 2 * longest <= window)


class Prefix(DynamicCache):
    """Keys and values of the first tokens. Once frozen it grows no more: what follows sees them and leaves no trace.

    No sliding window is cut off, since the masks are those of whole rows.
    """

    frozen = False

    def update(self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any) -> Any:
        """Keys and values of a layer for the tokens so far and these."""
        if not self.frozen:
            return super().update(key_states, value_states, layer_idx, *args, **kwargs)
        keys, values = self._of(layer_idx)
        return torch.cat([keys, key_states], dim=-2), torch.cat([values, value_states], dim=-2)

    def select(self, rows: Int[Tensor, " r"]) -> Prefix:
        """The same for some of the rows."""
        part = Prefix()
        for number in range(len(self.layers)):
            keys, values = self._of(number)
            part.update(keys[rows], values[rows], number)
        part.frozen = self.frozen
        return part

    def _of(self, layer: int) -> tuple[Tensor, Tensor]:
        kept: Any = self.layers[layer]
        return kept.keys, kept.values


class Suffix(Tail):
    """The blocks from `layer` upwards, for the tokens of a batch from `start` on.

    ``inputs`` is what enters the block at these tokens, and places are counted from `start`.

    Args:
        live: the model.
        layer: the lowest block.
        batch: ``input_ids`` and ``attention_mask``; padding stands right before `start` and at the end.
        start: the first column that is run again; 0 runs whole rows.
    """

    @torch.no_grad()
    def __init__(self, live: LiveModel, layer: int, batch: dict[str, Int[Tensor, "b t"]], start: int) -> None:
        ids, mask = batch["input_ids"], batch["attention_mask"]
        position = positions(mask)
        rest: dict[str, Any] = {
            "input_ids": ids[:, start:],
            "attention_mask": mask,
            "position_ids": position[:, start:],
        }
        if start:
            prefix = Prefix()
            rest[cache_argument(live.model)] = prefix
            # No token sees the padding behind it, so none has to be masked, and none is left with nothing to see.
            seen = torch.ones_like(mask[:, :start])
            first = {"input_ids": ids[:, :start], "attention_mask": seen, "position_ids": position[:, :start]}
            with select_logits(live, [0], [0]):
                live.model(**{**rest, **first}, use_cache=True)
            prefix.frozen = True
        with select_logits(live, [0], [0]):
            super().__init__(live, layer, rest)

    def select(self, rows: Int[Tensor, " r"]) -> Suffix:
        """The same for some of the rows."""
        part = super().select(rows)
        cut: dict[int, Prefix] = {}

        def of(argument: Any) -> Any:
            if not isinstance(argument, Prefix):
                return argument
            if id(argument) not in cut:
                cut[id(argument)] = argument.select(rows)
            return cut[id(argument)]

        part._calls = {
            block: (tuple(of(x) for x in args), {name: of(x) for name, x in kwargs.items()})
            for block, (args, kwargs) in part._calls.items()
        }
        return cast("Suffix", part)
