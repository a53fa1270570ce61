"""A change of one matrix with all its entries, for methods whose change is of no low rank."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta.low_rank import DTYPES, LowRank, tensor_bytes
from catechism.errors import NonFiniteDelta, ShapeMismatch
from catechism.types import JSON


@dataclass(frozen=True, eq=False)
class Dense:
    """A change of one matrix, (d_out, d_in), entry by entry.

    The tensor is taken over as it is, detached and made contiguous; do not write to it afterwards.

    Raises:
        ShapeMismatch: not a matrix of a floating dtype.
    """

    values: Float[Tensor, "d_out d_in"]

    kind: ClassVar[str] = "dense"

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.dtype not in DTYPES:
            raise ShapeMismatch(
                f"A dense change is a matrix (d_out, d_in) of one of {', '.join(DTYPES.values())}, got "
                f"{tuple(self.values.shape)} of {self.values.dtype}. Cast it with `.to(torch.float32)`."
            )
        object.__setattr__(self, "values", self.values.detach().contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix that this changes."""
        return self.values.shape[0], self.values.shape[1]

    @property
    def rank(self) -> int:
        """An upper bound of the rank of the change."""
        return min(self.shape)

    @property
    def dtype(self) -> torch.dtype:
        """Element type."""
        return self.values.dtype

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return self.values.numel() * self.values.element_size()

    def dense(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d_out d_in"]:
        """The matrix, cast to `dtype`."""
        return self.values.to(dtype)

    def norm(self) -> float:
        """Frobenius norm."""
        return float(torch.linalg.matrix_norm(self.values.double()))

    def is_finite(self) -> bool:
        """False if an entry is NaN or infinite."""
        return bool(torch.isfinite(self.values).all())

    def equals(self, other: object) -> bool:
        """Same dtype, shape and bytes (so -0.0 is not 0.0)."""
        return (
            isinstance(other, Dense)
            and self.dtype == other.dtype
            and self.shape == other.shape
            and tensor_bytes(self.values) == tensor_bytes(other.values)
        )

    def scaled(self, s: float) -> Dense:
        """The change times `s`, kept in its dtype (exact for powers of two and -1).

        Raises:
            NonFiniteDelta: `s` is NaN or infinite.
        """
        if not math.isfinite(s):
            raise NonFiniteDelta(f"Cannot scale a change by {s}. Give a finite number.")
        return Dense(self.values * s)

    def factored(self, tolerance: float = 0.0) -> LowRank:
        """The low-rank change nearest to this one within `tolerance` of its norm, for what takes low rank alone.

        Raises:
            BadSpec: `tolerance` is not in [0, 1).
        """
        d_out, d_in = self.shape
        wide = self.values.double()
        unit = torch.eye(min(d_out, d_in), dtype=wide.dtype, device=wide.device)
        exact = LowRank(wide, unit) if d_in <= d_out else LowRank(unit, wide)
        found = exact.compressed(tolerance)
        dtype = torch.promote_types(self.dtype, torch.float32)
        return LowRank(found.A.to(dtype), found.B.to(dtype))

    def header(self) -> dict[str, JSON]:
        """Kind, shape and dtype."""
        return {"kind": self.kind, "shape": list(self.shape), "dtype": DTYPES[self.dtype]}

    def tensors(self) -> dict[str, Tensor]:
        """The tensor by name."""
        return {"values": self.values}
