"""What an edit does to a matrix's output in the rows in which it fires: what every kind of effect shares.

Every kind has `entries`, numbered as those of the address beside it, and gives what is to be added at every token of
rows that have an entry. What depends on a model or a device is not here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from jaxtyping import Bool, Float, Int
from torch import Tensor


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
