"""How a prompt is recognised as one that a stored edit is about: tables of addresses, each with its gate.

A model's runtime reads the activations that an address asks for and hands them over; what comes back is, for every row,
the number of the entry that fires and how near it was. An address is settings and tensors; it knows no model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from catechism.delta.bits import overlaps, pack, words
from catechism.delta.piece import Piece
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
    """

    features: tuple[Float[Tensor, "b t _"], ...]
    prompt: Bool[Tensor, "b t"]
    inputs: Float[Tensor, "b t d_in"]
    outputs: Float[Tensor, "b t d_out"]

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


@dataclass(frozen=True, eq=False)
class PaperAddress(Piece):
    """MEMOIR's address: a sparse mask of the largest features, compared by overlap (arXiv:2506.07899).

        f = pooled(feature) - mean,   T = the k largest |f|,   mask = {permutation[i] : i in T}
        R_j = |mask and mask_j| / k;  entry j fires if it has the largest R_j and R_j >= threshold_j

    Attributes:
        masks: m stored masks, 8 features a byte.
        owner: the entry that each mask belongs to.
        thresholds: of each mask, from 0 to 1.
        mean: of the pooled feature over prompts that no edit is about.
        permutation: where the popular features' columns go, so that they do not share them.
        k: features in a mask.
        layer: whose MLP output matrix's input is the feature.
        pooling: "mean" over the prompt's tokens, or its "last" one.
        entries: how many edits there are.
    """

    masks: UInt8[Tensor, "m bytes"]
    owner: Int[Tensor, " m"]
    thresholds: Float[Tensor, " m"]
    mean: Float[Tensor, " d"]
    permutation: Int[Tensor, " d"]
    k: int
    layer: int
    entries: int
    pooling: str = "mean"

    kind: ClassVar[str] = "paper"

    def __post_init__(self) -> None:
        m, d = self.masks.shape[0], self.mean.shape[0]
        self._check(masks=(m, words(d)), owner=(m,), thresholds=(m,), mean=(d,), permutation=(d,))
        order = self.permutation.cpu().sort().values
        if (
            not 0 < self.k <= d
            or self.pooling not in POOLINGS
            or (m and not 0 <= int(self.owner.min()) <= int(self.owner.max()) < self.entries)
            or not torch.equal(order, torch.arange(d, dtype=order.dtype))
        ):
            raise ShapeMismatch(
                f"A mask of k={self.k} out of {d} features by {self.pooling!r} pooling, owners of {self.entries} "
                "entries. Use 1 <= k <= d, a pooling that there is, owners below `entries` and a permutation of d."
            )

    @property
    def features(self) -> tuple[Feature, ...]:
        """The input of the MLP's output matrix."""
        return (Feature(self.layer, "mlp_out"),)

    def masks_of(self, feature: Float[Tensor, "b d"]) -> UInt8[Tensor, "b bytes"]:
        """The packed masks of pooled features."""
        mean, permutation = self.mean.to(feature.device), self.permutation.to(feature.device)
        return pack(top_hash(feature - mean, permutation, self.k))

    def match(self, reading: Reading) -> Match:
        """The entry with the largest overlap among those at or above their thresholds."""
        found = self.masks_of(reading.pooled(0, self.pooling)).to(self.masks.device)
        if not len(self.masks):
            return torch.full((len(found),), -1, device=found.device), torch.zeros(len(found), device=found.device)
        R = overlaps(found, self.masks) / self.k  # (b, m)
        score, best = torch.where(self.thresholds <= R, R, -1.0).max(dim=1)
        return torch.where(score >= 0, self.owner[best], -1), score

    def select(self, entries: Int[Tensor, " s"]) -> PaperAddress:
        """See `Address`."""
        rows, owner = renumbered(self.owner, entries)
        return replace(
            self, masks=self.masks[rows], owner=owner, thresholds=self.thresholds[rows], entries=len(entries)
        )

    def joined(self, other: PaperAddress) -> PaperAddress:
        """See `Address`."""
        same = {"k", "layer", "pooling"}
        if (
            any(getattr(self, name) != getattr(other, name) for name in same)
            or not torch.equal(self.mean, other.mean)
            or not torch.equal(self.permutation, other.permutation)
        ):
            raise ShapeMismatch(
                "Two mask tables with different k, layer, pooling, mean or permutation do not add. "
                "Apply both deltas instead of their sum, or fit both with the same settings."
            )
        return replace(
            self,
            masks=torch.cat([self.masks, other.masks]),
            owner=torch.cat([self.owner, other.owner + self.entries]),
            thresholds=torch.cat([self.thresholds, other.thresholds]),
            entries=self.entries + other.entries,
        )


def top_hash(feature: Float[Tensor, "b d"], permutation: Int[Tensor, " d"], k: int) -> Bool[Tensor, "b d"]:
    """The columns of the k largest features by size: TopHash. Ties go to the lower number."""
    order = feature.abs().sort(dim=1, descending=True, stable=True).indices[:, :k]
    mask = torch.zeros(feature.shape, dtype=torch.bool, device=feature.device)
    return mask.scatter_(1, permutation[order], True)


def renumbered(owner: Int[Tensor, " m"], entries: Int[Tensor, " s"]) -> tuple[Int[Tensor, " r"], Int[Tensor, " r"]]:
    """The rows whose owner is among the entries, and their owners' places there; in the order of the entries."""
    rows = [(owner == int(entry)).nonzero()[:, 0] for entry in entries]
    places = [torch.full_like(found, place) for place, found in enumerate(rows)]
    empty = owner.new_zeros(0)
    return torch.cat([empty, *rows]), torch.cat([empty, *places]).to(owner.dtype)


#: Kind -> class of every address that a delta may hold.
ADDRESSES: Mapping[str, type[PaperAddress]] = {PaperAddress.kind: PaperAddress}
