"""A change of one matrix as two thin factors, with its algebra.

A closed-form edit of n facts is exactly a product ``A @ B`` of rank n, so this is both the smallest and the most honest
way to keep it: nothing is lost, sums are concatenations, and the matrix itself need never be formed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, NonFiniteDelta, ShapeMismatch
from catechism.types import JSON

#: The element types a delta may have, with their names in a safetensors header.
DTYPES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
}


def tensor_bytes(tensor: Tensor) -> memoryview:
    """The elements of a tensor in row order, as the bytes that hashes and files see (little-endian)."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return flat.numpy().data


@dataclass(frozen=True, eq=False)
class LowRank:
    """A change ``A @ B`` of one matrix, in the orientation (d_out, d_in).

    The tensors are taken over as they are, detached and made contiguous; do not write to them afterwards. Rank 0 is
    allowed and is the zero change.

    Raises:
        ShapeMismatch: the factors are not two matrices with one inner width and one floating dtype.
    """

    A: Float[Tensor, "d_out r"]
    B: Float[Tensor, "r d_in"]

    kind: ClassVar[str] = "low_rank"

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[1] != self.B.shape[0]:
            raise ShapeMismatch(
                f"Low-rank factors must be A (d_out, r) and B (r, d_in), got {tuple(self.A.shape)} and "
                f"{tuple(self.B.shape)}. Give both factors the same inner width."
            )
        if self.A.dtype != self.B.dtype or self.A.dtype not in DTYPES:
            raise ShapeMismatch(
                f"Low-rank factors must share one dtype out of {', '.join(DTYPES.values())}, got {self.A.dtype} and "
                f"{self.B.dtype}. Cast both with `.to(torch.float32)`."
            )
        object.__setattr__(self, "A", self.A.detach().contiguous())
        object.__setattr__(self, "B", self.B.detach().contiguous())

    @property
    def shape(self) -> tuple[int, int]:
        """(d_out, d_in) of the matrix that this changes."""
        return self.A.shape[0], self.B.shape[1]

    @property
    def rank(self) -> int:
        """Width of the factors: an upper bound of the rank of the change."""
        return self.A.shape[1]

    @property
    def dtype(self) -> torch.dtype:
        """Element type of both factors."""
        return self.A.dtype

    @property
    def nbytes(self) -> int:
        """Size of both factors in bytes."""
        return (self.A.numel() + self.B.numel()) * self.A.element_size()

    def dense(self, dtype: torch.dtype = torch.float64) -> Float[Tensor, "d_out d_in"]:
        """The full matrix, multiplied in float64 and cast to `dtype` at the end."""
        return (self.A.double() @ self.B.double()).to(dtype)

    def apply(self, x: Float[Tensor, "*rows d_in"]) -> Float[Tensor, "*rows d_out"]:
        """The change of the matrix's output for inputs `x`, without forming the matrix."""
        return x @ self.B.T @ self.A.T

    def norm(self) -> float:
        """Frobenius norm, from the two triangular factors.

        |A B| = |R_A R_B^T| with A = Q_A R_A, B^T = Q_B R_B. The trace of Gram matrices would be cheaper and would lose
        half of the digits.
        """
        if self.rank == 0:
            return 0.0
        _, core, _ = self._triangular()
        return float(torch.linalg.matrix_norm(core))

    def is_finite(self) -> bool:
        """False if a factor holds NaN or infinity."""
        return bool(torch.isfinite(self.A).all() and torch.isfinite(self.B).all())

    def equals(self, other: object) -> bool:
        """Same dtype, same shapes and the same bytes in both factors (so -0.0 is not 0.0)."""
        return (
            isinstance(other, LowRank)
            and self.dtype == other.dtype
            and self.A.shape == other.A.shape
            and self.B.shape == other.B.shape
            and tensor_bytes(self.A) == tensor_bytes(other.A)
            and tensor_bytes(self.B) == tensor_bytes(other.B)
        )

    def __add__(self, other: LowRank) -> LowRank:
        """The sum, exactly: factors side by side, rank the sum of the ranks, dtype the wider of the two.

        Raises:
            ShapeMismatch: the two change matrices of different shapes.
        """
        if self.shape != other.shape:
            raise ShapeMismatch(
                f"Cannot add a change of shape {other.shape} to one of shape {self.shape}. "
                "Add only changes of the same matrix."
            )
        dtype = torch.promote_types(self.dtype, other.dtype)
        device = self.A.device
        return LowRank(
            torch.cat([self.A.to(dtype), other.A.to(device, dtype)], dim=1),
            torch.cat([self.B.to(dtype), other.B.to(device, dtype)], dim=0),
        )

    def scaled(self, s: float) -> LowRank:
        """The change times `s`, kept in its dtype (exact for powers of two and -1).

        Raises:
            NonFiniteDelta: `s` is NaN or infinite.
        """
        if not math.isfinite(s):
            raise NonFiniteDelta(f"Cannot scale a change by {s}. Give a finite number.")
        return LowRank(self.A * s, self.B)

    def compressed(self, tolerance: float) -> LowRank:
        """The change of smallest rank within `tolerance` of this one, relative to the Frobenius norm.

        |A B - A' B'| <= tolerance |A B|, by an SVD of the small core Q_A^T A B Q_B (Eckart and Young); singular values
        at the level of float64 rounding are dropped even for tolerance 0. The singular values are shared evenly
        between the factors. A result in half precision would break the promise, so it is at least float32.

        Raises:
            BadSpec: `tolerance` is not in [0, 1).
        """
        if not 0 <= tolerance < 1:
            raise BadSpec(f"The tolerance is a share of the norm, got {tolerance}. Give a number in [0, 1).")
        if self.rank == 0:
            return self
        Q_A, core, Q_B = self._triangular()
        U, S, Vh = torch.linalg.svd(core, full_matrices=False)
        noise = torch.finfo(torch.float64).eps * max(self.shape) * S[0]
        # tail[k] is what is lost when the first k singular values are kept
        tail = S.square().flip(0).cumsum(0).flip(0).sqrt()
        k = int(((tail > tolerance * tail[0]) & S.gt(noise)).sum())
        root = S[:k].sqrt()
        dtype = torch.promote_types(self.dtype, torch.float32)
        return LowRank((Q_A @ (U[:, :k] * root)).to(dtype), ((root[:, None] * Vh[:k]) @ Q_B.T).to(dtype))

    def header(self) -> dict[str, JSON]:
        """Kind, shape, rank and dtype."""
        return {"kind": self.kind, "shape": list(self.shape), "rank": self.rank, "dtype": DTYPES[self.dtype]}

    def tensors(self) -> dict[str, Tensor]:
        """The factors by name."""
        return {"A": self.A, "B": self.B}

    def _triangular(self) -> tuple[Tensor, Tensor, Tensor]:
        """Q_A, R_A R_B^T and Q_B in float64, with A B = Q_A (R_A R_B^T) Q_B^T."""
        Q_A, R_A = torch.linalg.qr(self.A.double())
        Q_B, R_B = torch.linalg.qr(self.B.double().T)
        return Q_A, R_A @ R_B.T, Q_B
