"""A change of a model as data: which base, which matrices, by what, and where it came from.

A delta holds numbers and JSON and nothing that runs. Its digest is a pure function of its content, so the same change
has the same name everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from catechism.delta.low_rank import DTYPES, LowRank, tensor_bytes
from catechism.errors import ShapeMismatch, UsageError, WrongBase
from catechism.hashing import canonical_json, digest_bytes
from catechism.types import JSON

FORMAT = "catechism.delta"
VERSION = 1


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of one base model.

    Attributes:
        base: address of the base model's weights, ``sha256:…``. A delta fits no other weights.
        parts: one change per matrix, keyed by the matrix's address (the module's full name for a linear map; a slice
            of rows or one expert of a fused parameter carries an index in brackets). Kept sorted by address.
        info: where it came from: method, settings, digest of the facts, seed, locus. Plain JSON; copied.

    Raises:
        UsageError: `base` or an address is empty, or `info` is not JSON.
        ShapeMismatch: a part is not a `LowRank`.
    """

    base: str
    parts: Mapping[str, LowRank]
    info: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base:
            raise UsageError("A delta names its base model, got an empty string. Give the digest of the base weights.")
        for address, part in self.parts.items():
            if not isinstance(address, str) or not address:
                raise UsageError(f"A part is keyed by the address of its matrix, got {address!r}. Give a full name.")
            if not isinstance(part, LowRank):
                raise ShapeMismatch(f"The part {address!r} is a {type(part).__name__}. Make it a LowRank(A, B).")
        try:
            info = json.loads(canonical_json(dict(self.info)))
        except (TypeError, ValueError) as problem:
            raise UsageError(
                f"The info of a delta must be plain, finite JSON: {problem}. Turn other objects into strings or lists."
            ) from problem
        object.__setattr__(self, "parts", {address: self.parts[address] for address in sorted(self.parts)})
        object.__setattr__(self, "info", info)

    def header(self) -> dict[str, JSON]:
        """Everything but the numbers, as JSON: what a file says in front of its tensors."""
        parts: dict[str, JSON] = {
            address: {"kind": part.kind, "shape": list(part.shape), "rank": part.rank, "dtype": DTYPES[part.dtype]}
            for address, part in self.parts.items()
        }
        return {
            "format": FORMAT, "version": VERSION, "base": self.base, "info": dict(self.info), "parts": parts,
        }  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """Address of this change: sha256 of the canonical header, then of A and B of every part by address.

        The header states every shape and dtype, so the borders between the tensors count.
        """
        tensors = (tensor for part in self.parts.values() for tensor in (part.A, part.B))
        return digest_bytes(canonical_json(self.header()), *(tensor_bytes(tensor) for tensor in tensors))

    @property
    def nbytes(self) -> int:
        """Size of all factors in bytes."""
        return sum(part.nbytes for part in self.parts.values())

    def is_finite(self) -> bool:
        """False if any factor holds NaN or infinity."""
        return all(part.is_finite() for part in self.parts.values())

    def __add__(self, other: Delta) -> Delta:
        """Both changes at once. `info` lists the digests of the summands; a sum of sums lists all of them.

        Raises:
            WrongBase: the two were made for different base models.
            ShapeMismatch: they disagree on the shape of a matrix.
        """
        if self.base != other.base:
            raise WrongBase(
                f"Cannot add deltas of different bases, got {self.base} and {other.base}. "
                "Fit both on the same base model."
            )
        parts = dict(self.parts)
        for address, part in other.parts.items():
            parts[address] = parts[address] + part if address in parts else part
        return Delta(self.base, parts, {"sum": [*_summands(self), *_summands(other)]})

    def scaled(self, s: float) -> Delta:
        """The change times `s`. `info` names the delta it was made from.

        Raises:
            NonFiniteDelta: `s` is NaN or infinite.
        """
        parts = {address: part.scaled(s) for address, part in self.parts.items()}
        return Delta(self.base, parts, {"scaled": self.digest, "by": float(s)})


def _summands(delta: Delta) -> list[JSON]:
    listed = delta.info.get("sum")
    return listed if isinstance(listed, list) and len(delta.info) == 1 else [delta.digest]
