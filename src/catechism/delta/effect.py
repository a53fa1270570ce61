"""What an edit does to a matrix's output in the rows in which it fires.

Every kind has `entries`, numbered as those of the address beside it, and gives what is to be added at every token of
rows that have an entry. What depends on a model or a device is not here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from catechism.delta.address import renumbered
from catechism.delta.bits import unpack, words
from catechism.delta.piece import Piece
from catechism.errors import ShapeMismatch

WHERE = ("last", "all")
MODES = ("add", "replace")


@dataclass(frozen=True, slots=True, eq=False)
class Firing:
    """Rows in which an entry fires.

    Attributes:
        entry: its number, per row.
        inputs, outputs: of the matrix at the tokens of this pass, before any edit.
        last: which of these tokens is the prompt's last one; none of them while a continuation is decoded.
    """

    entry: Int[Tensor, " b"]
    inputs: Float[Tensor, "b t d_in"]
    outputs: Float[Tensor, "b t d_out"]
    last: Bool[Tensor, "b t"]


@runtime_checkable
class Effect(Protocol):
    """What every kind of effect can do."""

    kind: ClassVar[str]

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        ...

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix beside which it is written; d_in is 0 where any will do."""
        ...

    def change(self, firing: Firing) -> Float[Tensor, "b t d_out"]:
        """What is added to the outputs."""
        ...

    def norm(self) -> float:
        """Size of all that can be added, as far as there is one: the Frobenius norm of what is stored."""
        ...

    def select(self, entries: Int[Tensor, " s"]) -> Effect:
        """These entries alone, in this order."""
        ...

    def joined(self, other: Any) -> Effect:
        """The entries of both, the other's after this one's."""
        ...


@dataclass(frozen=True, eq=False)
class Contributions(Piece):
    """A residual matrix that is read through the mask of the edit that fires: MEMOIR's memory (arXiv:2506.07899).

        y += (sum_i A_i B_i) (mask_j * x)       over the entries i of j's bank

    The residual is kept as the sum of what each edit wrote, so that one edit can be taken out of it exactly. Edits that
    were written with regard to each other share a bank; those of another delta, which knew nothing of them, do not.

    Attributes:
        A, B: factors of the contributions, side by side.
        owner: the entry that wrote each.
        bank: of every entry.
        masks: per entry, 8 columns a byte.
    """

    A: Float[Tensor, "d_out r"]
    B: Float[Tensor, "r d_in"]
    owner: Int[Tensor, " r"]
    bank: Int[Tensor, " e"]
    masks: UInt8[Tensor, "e bytes"]

    kind: ClassVar[str] = "contributions"

    def __post_init__(self) -> None:
        r, d_in, e = self.B.shape[0], self.B.shape[-1], self.masks.shape[0]
        self._check(A=(None, r), B=(r, d_in), owner=(r,), bank=(e,), masks=(e, words(d_in)))
        if (r and not 0 <= int(self.owner.min()) <= int(self.owner.max()) < e) or self.A.dtype != self.B.dtype:
            raise ShapeMismatch(f"Contributions of {e} entries, owners beyond them. Number owners from 0 to {e - 1}.")

    @property
    def entries(self) -> int:
        """How many edits it holds."""
        return self.masks.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the residual."""
        return self.A.shape[0], self.B.shape[1]

    def change(self, firing: Firing) -> Float[Tensor, "b t d_out"]:
        """The residual's output for the masked inputs."""
        x = firing.inputs.to(self.B.dtype)
        x = x * unpack(self.masks[firing.entry], self.shape[1])[:, None]
        mine = self.bank[firing.entry][:, None] == self.bank[self.owner]  # (b, r)
        return (x @ self.B.T * mine[:, None]) @ self.A.T

    def norm(self) -> float:
        """Frobenius norm of the residual."""
        return float(torch.linalg.matrix_norm(self.A.double() @ self.B.double()))

    def select(self, entries: Int[Tensor, " s"]) -> Contributions:
        """See `Effect`."""
        rows, owner = renumbered(self.owner, entries)
        return Contributions(self.A[:, rows], self.B[rows], owner, self.bank[entries], self.masks[entries])

    def joined(self, other: Contributions) -> Contributions:
        """See `Effect`. The banks stay apart."""
        if self.shape != other.shape:
            raise ShapeMismatch(f"Residuals of shapes {self.shape} and {other.shape} do not add. Use one matrix's.")
        first = int(self.bank.max()) + 1 if len(self.bank) else 0
        dtype = torch.promote_types(self.A.dtype, other.A.dtype)
        return Contributions(
            torch.cat([self.A.to(dtype), other.A.to(dtype)], dim=1),
            torch.cat([self.B.to(dtype), other.B.to(dtype)]),
            torch.cat([self.owner, other.owner + self.entries]),
            torch.cat([self.bank, other.bank + first]),
            torch.cat([self.masks, other.masks]),
        )


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


#: Kind -> class of every effect that a delta may hold.
EFFECTS: Mapping[str, type[Contributions] | type[Vectors]] = {kind.kind: kind for kind in (Contributions, Vectors)}
