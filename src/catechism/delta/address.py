"""How a prompt is recognised as one that a stored edit is about: what every kind of address shares.

A model's runtime reads the activations that an address asks for and hands them over; what comes back is, for every row,
the number of the entry that fires and how near it was. An address is settings and tensors; it knows no model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from catechism.errors import ShapeMismatch

PLACES = ("mlp_out", "mlp", "attention", "block")
SIDES = ("input", "output")
POOLINGS = ("mean", "last")

#: Per row: the number of the entry that fires (-1 for none), and how near it was; larger is nearer.
Match = tuple[Int[Tensor, " b"], Float[Tensor, " b"]]


@dataclass(frozen=True, slots=True)
class Feature:
    """An activation by which a query is recognised.

    Attributes:
        layer: the block it is read in.
        place: "mlp_out" (the MLP's output matrix), "mlp", "attention" or "block".
        side: "input" or "output" of that place.

    Raises: ShapeMismatch for a place or a side that there is not.
    """

    layer: int
    place: str
    side: str = "input"

    def __post_init__(self) -> None:
        if self.layer < 0 or self.place not in PLACES or self.side not in SIDES:
            raise ShapeMismatch(
                f"A feature is read at layer {self.layer}, {self.side} of {self.place!r}. Use a layer from 0, "
                f"{' or '.join(SIDES)}, and one of {', '.join(PLACES)}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Reading:
    """What a model shows of a batch of prompts while it reads them.

    Attributes:
        features: the activations that the address asked for, in its order.
        prompt: the tokens that are the prompt's: no padding, nothing that is only scored.
        inputs, outputs: of the matrix that the edits are written beside, before any of them.
        change: what the effect adds if these entries act, one for each row.
    """

    features: tuple[Float[Tensor, "b t _"], ...]
    prompt: Bool[Tensor, "b t"]
    inputs: Float[Tensor, "b t d_in"]
    outputs: Float[Tensor, "b t d_out"]
    change: Callable[[Tensor], Tensor]

    def pooled(self, number: int, pooling: str) -> Float[Tensor, "b d"]:
        """One feature as one float32 vector a row: the mean over the prompt's tokens, or the last of them."""
        return pooled(self.features[number], self.prompt, pooling)


def pooled(feature: Float[Tensor, "b t d"], prompt: Bool[Tensor, "b t"], pooling: str) -> Float[Tensor, "b d"]:
    """An activation as one float32 vector a row: the mean over the prompt's tokens, or the last of them."""
    prompt = prompt.to(feature.device)
    if pooling == "last":
        rows = torch.arange(len(feature), device=feature.device)
        return feature[rows, last_tokens(prompt)].float()
    weight = prompt.float() / prompt.sum(dim=1, keepdim=True).clamp_min(1)
    return torch.einsum("btd,bt->bd", feature.float(), weight)


def last_tokens(prompt: Bool[Tensor, "b t"]) -> Int[Tensor, " b"]:
    """Index of every row's last prompt token."""
    return torch.where(prompt, torch.arange(prompt.shape[1], device=prompt.device), 0).amax(dim=1)


@runtime_checkable
class Address(Protocol):
    """What every kind of address can do. `entries` numbers are its edits'."""

    kind: ClassVar[str]

    @property
    def entries(self) -> int:
        """How many edits it tells apart."""
        ...

    @property
    def features(self) -> tuple[Feature, ...]:
        """The activations that it reads; none in a layer above the one that is written."""
        ...

    def match(self, reading: Reading) -> Match:
        """Which entry fires in each row."""
        ...

    def select(self, entries: Int[Tensor, " s"]) -> Address:
        """The table with these entries alone, in this order."""
        ...

    def joined(self, other: Any) -> Address:
        """Both tables, the other's entries after this one's. Raises ShapeMismatch where the settings differ."""
        ...


def renumbered(owner: Int[Tensor, " m"], entries: Int[Tensor, " s"]) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """The rows whose owner is among the entries, and their owners' places there; in the order of the entries."""
    order = owner.argsort(stable=True)
    entries, ordered = entries.to(owner), owner[order]
    first = torch.searchsorted(ordered, entries)
    many = torch.searchsorted(ordered, entries, right=True) - first
    places = torch.arange(len(entries), device=owner.device).repeat_interleave(many)
    within = torch.arange(len(places), device=owner.device) - (many.cumsum(dim=0) - many)[places]
    return order[first[places] + within], places.to(owner.dtype)
