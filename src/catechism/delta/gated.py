"""Conditional memory: edits that stand beside a matrix and act only in rows that they recognise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.delta.address import Address
from catechism.delta.addresses import ADDRESSES
from catechism.delta.effect import Effect
from catechism.delta.effects import EFFECTS
from catechism.delta.piece import STORED, Piece
from catechism.errors import NonFiniteDelta, ShapeMismatch
from catechism.types import JSON


@dataclass(frozen=True, eq=False)
class Gated:
    """Edits of one matrix with the addresses at which each of them acts.

    In a row whose prompt the address recognises as entry j, what the effect says for j, times ``scales[j]``, is added
    to the matrix's output. In every other row the output is that of the matrix alone, to the last bit.

    Attributes:
        address: which entry fires in which prompts.
        effect: what it adds.
        scales: per entry.
        d_in: inputs of the matrix.

    Raises:
        ShapeMismatch: address, effect and scales are not of the same number of entries.
    """

    address: Address
    effect: Effect
    scales: Float[Tensor, " e"]
    d_in: int

    kind: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        e = self.effect.entries
        if not isinstance(self.address, Piece) or not isinstance(self.effect, Piece):
            raise ShapeMismatch(
                f"A gated change of {type(self.address).__name__} and {type(self.effect).__name__}. "
                f"Use an address out of {', '.join(ADDRESSES)} and an effect out of {', '.join(EFFECTS)}."
            )
        if self.address.entries != e or tuple(self.scales.shape) != (e,) or not self.scales.is_floating_point():
            raise ShapeMismatch(
                f"{self.address.entries} addresses, {e} effects and scales of shape {tuple(self.scales.shape)}. "
                "Give one of each for every edit."
            )
        if self.effect.shape[1] not in (0, self.d_in):
            raise ShapeMismatch(f"d_in={self.d_in}, the effect takes {self.effect.shape[1]}. Give the matrix's d_in.")
        object.__setattr__(self, "scales", self.scales.detach().contiguous())

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        return self.effect.entries

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix beside which it stands."""
        return self.effect.shape[0], self.d_in

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors().values())

    def norm(self) -> float:
        """Frobenius norm of what the effect stores. Only a part of it ever acts at once."""
        return self.effect.norm()

    def is_finite(self) -> bool:
        """False if a tensor holds NaN or infinity."""
        return all(piece.is_finite() for piece in self._pieces().values()) and bool(torch.isfinite(self.scales).all())

    def equals(self, other: object) -> bool:
        """Same settings and the same bytes in every tensor."""
        return (
            isinstance(other, Gated)
            and self.d_in == other.d_in
            and all(piece.equals(other._pieces()[name]) for name, piece in self._pieces().items())
            and torch.equal(self.scales, other.scales)
        )

    def scaled(self, s: float) -> Gated:
        """What it adds, times `s`; when it acts does not change.

        Raises: NonFiniteDelta for NaN or infinity.
        """
        if not math.isfinite(s):
            raise NonFiniteDelta(f"Cannot scale a change by {s}. Give a finite number.")
        return Gated(self.address, self.effect, self.scales * s, self.d_in)

    def select(self, entries: Int[Tensor, " s"]) -> Gated:
        """These edits alone, in this order: how an edit is taken out."""
        return Gated(self.address.select(entries), self.effect.select(entries), self.scales[entries], self.d_in)

    def joined(self, other: Gated) -> Gated:
        """The edits of both: where several are recognised, the nearest acts, as with both applied.

        Raises: ShapeMismatch for memories of different kinds, settings or matrices.
        """
        kinds = [(part.address.kind, part.effect.kind, part.shape) for part in (self, other)]
        if kinds[0] != kinds[1]:
            raise ShapeMismatch(
                f"Memories {kinds[0]} and {kinds[1]} do not add. Apply both deltas instead of their sum."
            )
        address, effect = self.address.joined(other.address), self.effect.joined(other.effect)
        return Gated(address, effect, torch.cat([self.scales, other.scales]), self.d_in)

    def header(self) -> dict[str, JSON]:
        """Kind, shape, and the headers of address and effect."""
        pieces: dict[str, JSON] = {name: piece.header() for name, piece in self._pieces().items()}
        return {"kind": self.kind, "shape": list(self.shape), "scales": STORED[self.scales.dtype], **pieces}

    def tensors(self) -> dict[str, Tensor]:
        """All tensors by name: those of the address, those of the effect, the scales."""
        named = {f"{at}.{name}": t for at, piece in self._pieces().items() for name, t in piece.tensors().items()}
        return {**named, "scales": self.scales}

    def _pieces(self) -> dict[str, Piece]:
        return {"address": self.address, "effect": self.effect}  # type: ignore[dict-item] -- checked above

    @staticmethod
    def names(header: Mapping[str, Any]) -> list[str]:
        """The tensors that a part with this header has."""
        return [f"{at}.{name}" for at in ("address", "effect") for name in header[at]["tensors"]] + ["scales"]

    @staticmethod
    def build(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Gated:
        """The part that has this header and these tensors. Raises ShapeMismatch, KeyError, TypeError."""
        made: dict[str, Any] = {}
        for at, kinds in (("address", ADDRESSES), ("effect", EFFECTS)):
            own = {name.removeprefix(f"{at}."): t for name, t in tensors.items() if name.startswith(f"{at}.")}
            made[at] = kinds[header[at]["kind"]].build(header[at], own)
        return Gated(**made, scales=tensors["scales"], d_in=header["shape"][1])
