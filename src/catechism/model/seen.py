"""What the linear modules of a block read and write, at chosen tokens of many texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from catechism.model import encoding
from catechism.model.live import LiveModel
from catechism.model.trace import What

AT_ONCE = 128  # texts of one pass


@dataclass(frozen=True, slots=True)
class Stretch:
    """A text with the tokens of it that count: from `first` on to `last`, that one included; -1 is the last token.

    A `first` of 0 is the text's own first token: what a tokenizer puts in front never counts.
    """

    text: str
    first: int = -1
    last: int = -1

    def tokens(self, row: encoding.Row) -> range:
        """The numbers of these tokens in the text's row, without what the tokenizer put in front."""
        first, last = (at if at >= 0 else len(row.ids) + at for at in (self.first, self.last))
        return range(max(first, row.prefix), last + 1)


def read_together(live: LiveModel, layer: int, text: str) -> list[list[str]]:
    """The linear modules of a block by address, those that read one and the same tensor together, in their order.

    Queries, keys and values, or gate and input, are told by what they are given and not by what they are called.

    Raises: UnknownName for a block that is not there.
    """
    given: dict[int, list[str]] = {}
    held: list[Tensor] = []  # a tensor that is let go may be followed by another one in its place

    with ExitStack() as stack, torch.no_grad():
        for address, module in live.anatomy.linears(layer).items():

            def see(_module: nn.Module, args: tuple[Tensor, ...], address: str = address) -> None:
                held.append(args[0])
                given.setdefault(args[0].data_ptr(), []).append(address)

            stack.callback(module.register_forward_pre_hook(see).remove)
        live.model(**live.encode([text]), use_cache=False)
    return list(given.values())


@torch.no_grad()
def states_at(
    live: LiveModel, addresses: Sequence[str], stretches: Sequence[Stretch], *, what: What = "input"
) -> tuple[dict[str, Float[Tensor, "n d"]], Int[Tensor, " n"]]:
    """What linear modules are given, or give, at the tokens that count: float64, and the number of each one's text.

    Raises: UnknownName for an address that is not there; UsageError for a text without tokens or too long.
    """
    modules = _modules(live, addresses)
    rows = encoding.rows(live.tokenizer, [one.text for one in stretches])
    encoding.check_length(rows, live.max_tokens)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[str, list[Tensor]] = {address: [] for address in addresses}
    owner: list[int] = []
    for start in range(0, len(order), AT_ONCE):
        some = order[start : start + AT_ONCE]
        places = [(k, t) for k, i in enumerate(some) for t in stretches[i].tokens(rows[i])]
        owner += [some[k] for k, _ in places]
        row, token = torch.tensor(places).T
        batch, _ = live.pad_windows([rows[i] for i in some])
        width = int(batch["input_ids"].shape[1])
        for address, seen in _pass(live, modules, batch, what).items():
            flat = seen.reshape(-1, seen.shape[-1])  # some blocks flatten both axes before their MLP
            found[address].append(flat[(row * width + token).to(flat.device)].double())
    back = torch.tensor(owner).argsort(stable=True)
    return {address: torch.cat(parts)[back] for address, parts in found.items()}, torch.tensor(owner)[back]


def _modules(live: LiveModel, addresses: Sequence[str]) -> dict[str, nn.Module]:
    known = {a: m for layer in range(live.anatomy.n_layers) for a, m in live.anatomy.linears(layer).items()}
    for address in addresses:
        live.anatomy.matrix(address)
    return {address: known[address] for address in addresses}


def _pass(live: LiveModel, modules: Mapping[str, nn.Module], batch: dict[str, Any], what: What) -> dict[str, Tensor]:
    """The tensors of one forward pass by address."""
    seen: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for address, module in modules.items():

            def keep(_module: nn.Module, args: tuple[Tensor, ...], out: Tensor, address: str = address) -> None:
                seen[address] = args[0] if what == "input" else out

            stack.callback(module.register_forward_hook(keep).remove)
        live.model(**batch, use_cache=False)
    return seen
