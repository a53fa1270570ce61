"""What linear modules give on rows, summed over each row's own tokens."""

from __future__ import annotations

import random
from collections.abc import Collection
from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catechism.model.forgetting.rows import CHUNK, Rows
from catechism.model.live import LiveModel


@torch.no_grad()
def summed_outputs(
    live: LiveModel, rows: Rows, addresses: Collection[str], *, samples: int, seed: int
) -> dict[str, Float[Tensor, "n d_out"]]:
    """Outputs of linear modules by address, in float64, over at most `samples` rows drawn under the seed.

    Padding does not count, and what the tokenizer puts in front of a text does not either.
    """
    numbers = sorted(random.Random(f"outputs-{seed}").sample(range(len(rows)), min(samples, len(rows))))
    found: dict[str, list[Tensor]] = {address: [] for address in addresses}
    own = torch.empty(0)
    with ExitStack() as stack:
        for layer in range(live.anatomy.n_layers):
            for address, module in live.anatomy.linears(layer).items():
                if address not in found:
                    continue

                def see(_module: nn.Module, _args: tuple[Tensor, ...], out: Tensor, address: str = address) -> None:
                    out = out.double().reshape(*own.shape, -1)  # some modules see rows and tokens in one axis
                    found[address].append((out * own[..., None]).sum(dim=1))

                stack.callback(module.register_forward_hook(see).remove)
        for start in range(0, len(numbers), CHUNK):
            inputs, own = rows.inputs(live, numbers[start : start + CHUNK])
            live.model(**inputs, use_cache=False)
    return {address: torch.cat(seen) for address, seen in found.items()}
