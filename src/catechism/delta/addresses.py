"""The kinds of address: a table of what was stored for each edit, and the gate that a prompt has to pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from torch.nn import functional

from catechism.delta.address import POOLINGS, Feature, Match, Reading, renumbered
from catechism.delta.bits import overlaps, pack, words
from catechism.delta.keyed import KeyedAddress
from catechism.delta.piece import Piece
from catechism.errors import ShapeMismatch


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
            return nothing(found)
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


@dataclass(frozen=True, eq=False)
class RadiusAddress(Piece):
    """GRACE's address: a ball around a stored activation (arXiv:2211.11031).

        d_j = |q - key_j|, q the feature at the prompt's last token;  the nearest key j fires if d_j <= radius_j

    Attributes:
        keys, radii: per edit.
        layer: whose MLP output matrix's input is the feature.
    """

    keys: Float[Tensor, "e d"]
    radii: Float[Tensor, " e"]
    layer: int

    kind: ClassVar[str] = "radius"

    def __post_init__(self) -> None:
        self._check(keys=(None, None), radii=(self.keys.shape[0],))

    @property
    def entries(self) -> int:
        """How many edits there are."""
        return self.keys.shape[0]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The input of the MLP's output matrix."""
        return (Feature(self.layer, "mlp_out"),)

    def distances(self, queries: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Distance of every query from every key, without the cancellation of the usual product form."""
        return torch.cdist(queries.float(), self.keys.float(), compute_mode="donot_use_mm_for_euclid_dist")

    def match(self, reading: Reading) -> Match:
        """The nearest key, if its ball holds the query; how near is minus the distance."""
        queries = reading.pooled(0, "last")
        if not self.entries:
            return nothing(queries)
        distance, back = self.distances(queries).flip(1).min(dim=1)
        nearest = self.entries - 1 - back  # of several that are as near, the newest
        return torch.where(distance <= self.radii[nearest], nearest, -1), -distance

    def select(self, entries: Int[Tensor, " s"]) -> RadiusAddress:
        """See `Address`."""
        return replace(self, keys=self.keys[entries], radii=self.radii[entries])

    def joined(self, other: RadiusAddress) -> RadiusAddress:
        """See `Address`."""
        if self.layer != other.layer or self.keys.shape[1] != other.keys.shape[1]:
            raise ShapeMismatch(
                f"Balls in layer {self.layer} and in layer {other.layer} do not add. Apply both deltas instead."
            )
        return replace(self, keys=torch.cat([self.keys, other.keys]), radii=torch.cat([self.radii, other.radii]))


@dataclass(frozen=True, eq=False)
class ActivationAddress(Piece):
    """WISE's address: how much a side memory changes the matrix's own output (arXiv:2405.14768).

        D_j = mean over the prompt's tokens of |act(y + change_j) - act(y)|
        the j with the largest D_j fires if D_j >= threshold_j

    Attributes:
        thresholds: per side memory.
        activation: one of `ACTIVATIONS`.
    """

    thresholds: Float[Tensor, " e"]
    activation: str

    kind: ClassVar[str] = "activation"

    def __post_init__(self) -> None:
        self._check(thresholds=(None,))
        if self.activation not in ACTIVATIONS:
            raise ShapeMismatch(f"No activation {self.activation!r}. Use one of {', '.join(ACTIVATIONS)}.")

    @property
    def entries(self) -> int:
        """How many side memories there are."""
        return self.thresholds.shape[0]

    @property
    def features(self) -> tuple[Feature, ...]:
        """None but the matrix's own output."""
        return ()

    def match(self, reading: Reading) -> Match:
        """The side memory that changes most, if it is enough."""
        y = reading.outputs
        if not self.entries:
            return nothing(y)
        found: list[Tensor] = []
        for j in range(self.entries):
            change = reading.change(torch.full((len(y),), j, device=y.device))
            found.append(activation_distance(y, change, reading.prompt, self.activation))
        D, side = torch.stack(found, dim=1).max(dim=1)
        return torch.where(self.thresholds[side] <= D, side, -1), D

    def select(self, entries: Int[Tensor, " s"]) -> ActivationAddress:
        """See `Address`."""
        return replace(self, thresholds=self.thresholds[entries])

    def joined(self, other: ActivationAddress) -> ActivationAddress:
        """See `Address`."""
        if self.activation != other.activation:
            raise ShapeMismatch(f"{self.activation} and {other.activation} do not add. Apply both deltas instead.")
        return replace(self, thresholds=torch.cat([self.thresholds, other.thresholds]))


ACTIVATIONS = ("silu", "gelu", "relu", "identity")


def activation_distance(
    y: Float[Tensor, "b t d"], change: Float[Tensor, "b t d"], prompt: Bool[Tensor, "b t"], activation: str
) -> Float[Tensor, " b"]:
    """Mean over the prompt's tokens of |act(y + change) - act(y)|."""
    act = (lambda x: x) if activation == "identity" else getattr(functional, activation)
    y = y.float()
    distance = (act(y + change.float()) - act(y)).norm(dim=2)
    prompt = prompt.to(y.device)
    return (distance * prompt).sum(dim=1) / prompt.sum(dim=1).clamp_min(1)


def nothing(rows: Tensor) -> Match:
    """The match of an empty table."""
    b = len(rows)
    return torch.full((b,), -1, device=rows.device), torch.zeros(b, device=rows.device)


#: Kind -> class of every address that a delta may hold.
ADDRESSES: Mapping[str, type[Piece]] = {
    kind.kind: kind for kind in (PaperAddress, RadiusAddress, ActivationAddress, KeyedAddress)
}
