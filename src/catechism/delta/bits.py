"""Sets of features as packed bits, eight a byte, and how many two sets share."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int, UInt8
from torch import Tensor

_BIT = tuple(1 << place for place in range(8))
_CHUNK = 1 << 24  # bytes compared at a time


def words(d: int) -> int:
    """Bytes that d features take."""
    return -(-d // 8)


def pack(mask: Bool[Tensor, "m d"]) -> UInt8[Tensor, "m bytes"]:
    """Feature i is bit ``i % 8`` of byte ``i // 8``; what is left of the last byte is zero."""
    missing = words(mask.shape[1]) * 8 - mask.shape[1]
    padded = torch.nn.functional.pad(mask.to(torch.uint8), (0, missing)).unflatten(1, (-1, 8))
    weights = torch.tensor(_BIT, dtype=torch.uint8, device=mask.device)
    return (padded * weights).sum(dim=2, dtype=torch.uint8)


def unpack(packed: UInt8[Tensor, "m bytes"], d: int) -> Bool[Tensor, "m d"]:
    """The d features again."""
    weights = torch.tensor(_BIT, dtype=torch.uint8, device=packed.device)
    return ((packed[:, :, None] & weights) != 0).flatten(1)[:, :d]


def overlaps(a: UInt8[Tensor, "b bytes"], b: UInt8[Tensor, "m bytes"]) -> Int[Tensor, "b m"]:
    """How many features every two sets share."""
    step = max(1, _CHUNK // max(1, b.numel()))
    rows = [_ones(a[i : i + step, None] & b[None]) for i in range(0, len(a), step)]
    return torch.cat(rows) if rows else torch.zeros(0, len(b), dtype=torch.int64, device=a.device)


def _ones(packed: Tensor) -> Tensor:
    """Bits that are set, summed over the last axis, by the usual halving."""
    x = packed - ((packed >> 1) & 0x55)
    x = (x & 0x33) + ((x >> 2) & 0x33)
    return ((x + (x >> 4)) & 0x0F).sum(dim=-1, dtype=torch.int64)
