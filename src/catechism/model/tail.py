"""The network from one block upwards on a fixed batch: what a fit inside that block runs again and again.

What lies below the block is computed once. A block is called as the model called it, with the same masks and
positions, so nothing here knows how an architecture makes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from copy import copy
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from catechism.model.live import LiveModel
from catechism.model.trace import BlockSite, record


class Tail:
    """The blocks from `layer` upwards, for one batch of model inputs.

    Attributes:
        inputs: what enters the block, ``(b, t, d_model)``, without gradients.

    Raises: UnknownName for a block that is not there.
    """

    inputs: Float[Tensor, "b t d"]

    @torch.no_grad()
    def __init__(self, live: LiveModel, layer: int, batch: dict[str, Int[Tensor, "b t"]]) -> None:
        self._anatomy, self._memories = live.anatomy, live.beside.memories
        self._blocks = [live.anatomy.block(number) for number in range(layer, live.anatomy.n_layers)]
        self._calls: dict[nn.Module, tuple[tuple[Any, ...], dict[str, Any]]] = {}
        with ExitStack() as stack, record(live, [BlockSite(layer)]) as seen:
            for block in self._blocks:
                stack.callback(block.register_forward_pre_hook(self._keep, with_kwargs=True).remove)
            live.model(**batch, use_cache=False)
        self.inputs = seen[BlockSite(layer)]
        self._frame = self._memories.frame

    def select(self, rows: Int[Tensor, " r"]) -> Tail:
        """The same for some of the rows."""
        part, b = copy(self), len(self.inputs)
        part.inputs = self.inputs[rows]
        part._frame = None if self._frame is None else self._frame.select(rows)
        part._calls = {
            block: (tuple(_rows(x, rows, b) for x in args), {name: _rows(x, rows, b) for name, x in kwargs.items()})
            for block, (args, kwargs) in self._calls.items()
        }
        return part

    def block(self, hidden: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        """What the first block gives for these inputs."""
        return self._run(self._blocks[0], hidden)

    def logits(
        self,
        hidden: Float[Tensor, "b t d"],
        rows: Int[Tensor, " k"] | Sequence[int],
        tokens: Int[Tensor, " k"] | Sequence[int],
    ) -> Float[Tensor, "k v"]:
        """Logits at k places, for these outputs of the first block."""
        for block in self._blocks[1:]:
            hidden = self._run(block, hidden)
        return self._anatomy.unembed(hidden[rows, tokens])

    def _keep(self, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Remember a block's arguments, all but the stream itself, which comes first."""
        self._calls[block] = args[1:], {name: value for name, value in kwargs.items() if name != "hidden_states"}

    def _run(self, block: nn.Module, hidden: Tensor) -> Tensor:
        args, kwargs = self._calls[block]
        with self._memories.resumed(self._frame):
            out = block(hidden, *args, **kwargs)
        return out if isinstance(out, Tensor) else out[0]


def _rows(argument: Any, rows: Tensor, b: int) -> Any:
    """An argument of a block for some rows of the batch: what has a row for each (masks, positions) is cut."""
    if isinstance(argument, tuple):
        return tuple(_rows(one, rows, b) for one in argument)
    if isinstance(argument, Tensor) and argument.ndim > 1 and argument.shape[0] == b:
        return argument[rows]
    return argument
