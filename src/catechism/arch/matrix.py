"""One matrix of a live model, always read and written as (d_out, d_in), wherever and however the model stores it."""

from __future__ import annotations

import re
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from catechism.errors import ShapeMismatch, UnknownName

_ADDRESS = re.compile(r"(?P<name>[^\[\]]+)(\[((?P<expert>\d+)(?=[,\]]),?)?(?P<rows>\d+:\d+(:[1-9]\d*)?)?\])?")


@dataclass(frozen=True, eq=False, slots=True)
class Matrix:
    """A view of one parameter, or of a part of it, as a (d_out, d_in) matrix.

    Attributes:
        address: name of the matrix, the key of its part in a delta: the module's name for a whole linear module;
            followed by ``[3]`` for expert 3 of a fused parameter, by ``[0:64]`` (``[0:64:2]``) for the rows that are
            this matrix's where several share a parameter, by ``[3,0:64]`` for both.
        parameter_name: name in ``model.named_parameters()``.
        parameter: the parameter itself.
        bias: the bias parameter that goes with it, if there is one.
        shape: (d_out, d_in).
        transposed: True if the parameter is stored as (d_in, d_out).
        rows: the rows of the whole (d_out, d_in) parameter that are this matrix's, and so the columns of the module's
            output that are its value.
        expert: index into the first axis of a fused parameter; None for a plain one.
    """

    address: str
    parameter_name: str
    parameter: nn.Parameter
    bias: nn.Parameter | None
    shape: tuple[int, int]
    transposed: bool
    rows: slice
    expert: int | None = None

    def select(self, stored: Tensor) -> Float[Tensor, "d_out d_in"]:
        """This matrix as a view of `stored`, any tensor laid out like the parameter (a float64 copy, a gradient)."""
        if self.expert is not None:
            stored = stored[self.expert]
        if self.transposed:
            stored = stored.T
        return stored[self.rows]

    def read(self) -> Float[Tensor, "d_out d_in"]:
        """The matrix as a view of the parameter, without a copy and without gradients."""
        return self.select(self.parameter.detach())

    def read_bias(self) -> Float[Tensor, " d_out"] | None:
        """The bias as a view, or None."""
        if self.bias is None:
            return None
        bias = self.bias.detach() if self.expert is None else self.bias.detach()[self.expert]
        return bias[self.rows]

    def write(self, value: Tensor) -> None:
        """Overwrite the matrix in place, cast to the parameter's dtype; everything tied to it sees the change.

        Raises:
            ShapeMismatch: `value` is not (d_out, d_in).
        """
        if tuple(value.shape) != self.shape:
            raise ShapeMismatch(
                f"{self.address} is {self.shape} as (d_out, d_in), got {tuple(value.shape)}. "
                "Hand in a matrix of that shape; transpose it if it was made as (d_in, d_out)."
            )
        with torch.no_grad():
            self.read().copy_(value)


@dataclass(frozen=True, slots=True)
class Address:
    """The three pieces of a matrix's address."""

    name: str
    rows: slice | None = None
    expert: int | None = None

    def __str__(self) -> str:
        """The address as it stands in a delta."""
        pieces = [] if self.expert is None else [str(self.expert)]
        if self.rows is not None:
            step = "" if self.rows.step in (None, 1) else f":{self.rows.step}"
            pieces.append(f"{self.rows.start}:{self.rows.stop}{step}")
        return self.name + (f"[{','.join(pieces)}]" if pieces else "")

    @staticmethod
    def parse(text: str) -> Address:
        """The pieces of ``name``, ``name[expert]``, ``name[rows]`` or ``name[expert,rows]``.

        Raises:
            UnknownName: the text is none of these.
        """
        found = _ADDRESS.fullmatch(text)
        if found is None or text.endswith("[]") or ",]" in text:
            raise UnknownName(
                f"{text!r} is not the address of a matrix. Write it as NAME, NAME[3] for expert 3, "
                "NAME[0:64] for rows, or NAME[3,0:64] for rows of expert 3."
            )
        rows = slice(*(int(piece) for piece in found["rows"].split(":"))) if found["rows"] else None
        return Address(found["name"], rows, int(found["expert"]) if found["expert"] else None)
