"""A change of a model as data: which base, which matrices, by what, and where it came from.

A delta holds numbers and JSON and nothing that runs. Its digest is a pure function of its content, so the same change
has the same name everywhere.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

from catechism.delta.low_rank import LowRank, tensor_bytes
from catechism.delta.part import Part, check_key, plus
from catechism.errors import UsageError, WrongBase
from catechism.hashing import canonical_json, digest_bytes
from catechism.types import JSON

FORMAT = "catechism.delta"
VERSION = 2  # 1 where every part is low rank: such files are what they were, and older releases read them


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of one base model.

    Attributes:
        base: address of the base model's weights, ``sha256:…``. A delta fits no other weights.
        parts: the changes by key, see `catechism.delta.part`: the matrix's address (the module's full name for a linear
            map; a slice of rows or one expert of a fused parameter carries an index in brackets), with ``#`` and a name
            after it for a memory beside the matrix, without it for text beside the model. Kept sorted.
        info: where it came from: method, settings, digest of the facts, seed, locus. Plain JSON; copied.

    Raises:
        UsageError: `base` or a key is empty, or `info` is not JSON.
        ShapeMismatch: a part is of no kind that there is, or stands under the key of another kind.
    """

    base: str
    parts: Mapping[str, Part]
    info: Mapping[str, JSON] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.base:
            raise UsageError("A delta names its base model, got an empty string. Give the digest of the base weights.")
        for key, part in self.parts.items():
            check_key(key, part)
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
        parts: dict[str, JSON] = {key: part.header() for key, part in self.parts.items()}
        version = 1 if all(isinstance(part, LowRank) for part in self.parts.values()) else VERSION
        return {
            "format": FORMAT, "version": version, "base": self.base, "info": dict(self.info), "parts": parts,
        }  # fmt: skip

    @cached_property
    def digest(self) -> str:
        """Address of this change: sha256 of the canonical header, then of the tensors of every part by key.

        The header states every shape and dtype, so the borders between the tensors count.
        """
        tensors = (tensor for part in self.parts.values() for _, tensor in sorted(part.tensors().items()))
        return digest_bytes(canonical_json(self.header()), *(tensor_bytes(tensor) for tensor in tensors))

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes."""
        return sum(part.nbytes for part in self.parts.values())

    def is_finite(self) -> bool:
        """False if any part holds NaN or infinity."""
        return all(part.is_finite() for part in self.parts.values())

    def __add__(self, other: Delta) -> Delta:
        """Both changes at once. `info` lists the digests of the summands; a sum of sums lists all of them.

        Raises:
            WrongBase: the two were made for different base models.
            ShapeMismatch: they disagree on the shape of a matrix, or on the settings of a memory.
        """
        if self.base != other.base:
            raise WrongBase(
                f"Cannot add deltas of different bases, got {self.base} and {other.base}. "
                "Fit both on the same base model."
            )
        parts = dict(self.parts)
        for key, part in other.parts.items():
            parts[key] = plus(parts[key], part) if key in parts else part
        return Delta(self.base, parts, {"sum": [*_summands(self), *_summands(other)]})

    def scaled(self, s: float) -> Delta:
        """The change times `s`. `info` names the delta it was made from.

        Raises:
            NonFiniteDelta: `s` is NaN or infinite, or neither 0 nor 1 where there is text.
        """
        parts = {key: part.scaled(s) for key, part in self.parts.items()}
        return Delta(self.base, parts, {"scaled": self.digest, "by": float(s)})


def _summands(delta: Delta) -> list[JSON]:
    listed = delta.info.get("sum")
    return listed if isinstance(listed, list) and len(delta.info) == 1 else [delta.digest]
