"""The kinds of effect: vectors in place of an output, whole side matrices, a residual read through masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from catechism.delta.bits import unpack, words
from catechism.delta.effect import Firing
from catechism.delta.piece import Piece
from catechism.delta.residual import Residual
from catechism.errors import ShapeMismatch

WHERE = ("last", "all")
MODES = ("add", "replace")


@dataclass(frozen=True, eq=False)
class Vectors(Piece):
    """One vector an edit, put in place of the matrix's output or added to it: GRACE's values (arXiv:2211.11031).

    Attributes:
        values: per entry.
        where: at the prompt's "last" token, or at "all" tokens, those of the answer included.
        mode: "replace" the output, or "add" to it.
    """

    values: Float[Tensor, "e d_out"]
    where: str = "last"
    mode: str = "replace"

    kind: ClassVar[str] = "vectors"

    def __post_init__(self) -> None:
        self._check(values=(None, None))
        if self.where not in WHERE or self.mode not in MODES:
            raise ShapeMismatch(
                f"Vectors to {self.mode!r} at {self.where!r} tokens. Use one of {', '.join(MODES)} and of "
                f"{', '.join(WHERE)}."
            )

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        return self.values.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, 0): the inputs play no part."""
        return self.values.shape[1], 0

    def change(self, firing: Firing) -> Float[Tensor, "b t d_out"]:
        """The vector, or what is missing to it, at the tokens where it counts."""
        value = self.values[firing.entry][:, None]
        change = (
            value - firing.outputs.to(value.dtype) if self.mode == "replace" else value.expand(firing.outputs.shape)
        )
        return change * firing.last[:, :, None] if self.where == "last" else change

    def norm(self) -> float:
        """Norm of all vectors together."""
        return float(self.values.double().norm())

    def select(self, entries: Int[Tensor, " s"]) -> Vectors:
        """See `Effect`."""
        return replace(self, values=self.values[entries])

    def joined(self, other: Vectors) -> Vectors:
        """See `Effect`."""
        if self.settings() != other.settings() or self.shape != other.shape:
            raise ShapeMismatch(
                f"Vectors of {self.shape} {self.settings()} and of {other.shape} {other.settings()} do not add. "
                "Apply both deltas instead of their sum."
            )
        dtype = torch.promote_types(self.values.dtype, other.values.dtype)
        return replace(self, values=torch.cat([self.values.to(dtype), other.values.to(dtype)]))


@dataclass(frozen=True, eq=False)
class Matrices(Piece):
    """Changes of the whole matrix, each for the edits that it holds: side memories.

        y += change_s(j) (mask_j * x)

    With one change and a mask an edit it is MEMOIR's residual as published (arXiv:2506.07899), without masks the side
    memories of WISE (arXiv:2405.14768).

    Attributes:
        changes: the side memories.
        side: of every entry.
        masks: per entry, 8 columns a byte; no rows at all where every column is read.
    """

    changes: Float[Tensor, "s d_out d_in"]
    side: Int[Tensor, " e"]
    masks: UInt8[Tensor, "m bytes"]

    kind: ClassVar[str] = "matrices"

    def __post_init__(self) -> None:
        s, e, m = self.changes.shape[0], self.side.shape[0], self.masks.shape[0]
        self._check(changes=(s, None, None), side=(e,), masks=(m, words(self.changes.shape[-1])))
        if m not in (0, e) or (e and not 0 <= int(self.side.min()) <= int(self.side.max()) < s):
            raise ShapeMismatch(
                f"{e} entries with {m} masks in {s} side memories. Give a mask for each entry or none at all, and "
                f"number the side memories from 0 to {s - 1}."
            )

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        return self.side.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix."""
        return self.changes.shape[1], self.changes.shape[2]

    def change(self, firing: Firing) -> Float[Tensor, "b t d_out"]:
        """The side memory's output for the masked inputs."""
        x = firing.inputs.to(self.changes.dtype)
        if len(self.masks):
            x = x * unpack(self.masks[firing.entry], self.shape[1])[:, None]
        if len(self.changes) == 1:
            return x @ self.changes[0].T
        return torch.einsum("bti,boi->bto", x, self.changes[self.side[firing.entry]])

    def norm(self) -> float:
        """Frobenius norm of all side memories together."""
        return float(self.changes.double().norm())

    def select(self, entries: Int[Tensor, " s"]) -> Matrices:
        """These entries alone. What an edit left in a side memory that others share stays in it."""
        used, side = self.side[entries].unique(return_inverse=True)
        return Matrices(self.changes[used], side, self.masks[entries] if len(self.masks) else self.masks)

    def joined(self, other: Matrices) -> Matrices:
        """See `Effect`. The side memories stay apart."""
        if self.shape != other.shape or (len(self.masks) > 0) != (len(other.masks) > 0):
            raise ShapeMismatch(
                f"Side memories of {self.shape} and {other.shape}, masked or not, do not add. Apply both deltas."
            )
        dtype = torch.promote_types(self.changes.dtype, other.changes.dtype)
        changes = torch.cat([self.changes.to(dtype), other.changes.to(dtype)])
        side = torch.cat([self.side, other.side + len(self.changes)])
        return Matrices(changes, side, torch.cat([self.masks, other.masks]))


#: Kind -> class of every effect that a delta may hold.
EFFECTS: Mapping[str, type[Piece]] = {kind.kind: kind for kind in (Vectors, Matrices, Residual)}
