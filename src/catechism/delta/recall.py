"""Text that is kept beside a model and put before a prompt that asks for it, told by a keyed address."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.delta.address import Feature
from catechism.delta.keyed import KeyedAddress
from catechism.errors import NonFiniteDelta, ShapeMismatch
from catechism.types import JSON

_AT = "address."


@dataclass(frozen=True, eq=False)
class Recall:
    """Texts, each with the entry of an address. A prompt that the address knows is asked with the text before it.

    Where a `Context` compares two vectors, this asks which of its questions a prompt asks, and whether it asks any.

    Attributes:
        address: which entry a prompt asks for, from its last token.
        texts: per entry, what is put before the prompt, with a space between.

    Raises:
        ShapeMismatch: not as many texts as entries.
    """

    address: KeyedAddress
    texts: tuple[str, ...]

    kind: ClassVar[str] = "recall"
    most: ClassVar[int] = 1

    def __post_init__(self) -> None:
        if not isinstance(self.address, KeyedAddress) or self.address.entries != len(self.texts):
            raise ShapeMismatch(
                f"{len(self.texts)} texts for {getattr(self.address, 'entries', 'no')} entries of an address. "
                "Give one text for every entry of a keyed address."
            )

    @property
    def layer(self) -> int:
        """The block that the address reads."""
        return self.address.layer

    @property
    def feature(self) -> Feature:
        """The activation that a query is read from."""
        return self.address.features[0]

    @property
    def pooling(self) -> str:
        """A query is read at a prompt's last token."""
        return "last"

    @property
    def shape(self) -> None:
        """None: no matrix is changed."""
        return None

    @property
    def nbytes(self) -> int:
        """Size of all tensors in bytes; the texts do not count."""
        return self.address.nbytes

    def at(self, entries: Int[Tensor, " b"], scores: Float[Tensor, " b"]) -> list[list[tuple[float, str]]]:
        """Per prompt, the text of the entry that it was matched with, with the score; empty for -1."""
        pairs = zip(entries.tolist(), scores.tolist(), strict=True)
        return [[(score, self.texts[i])] if i >= 0 else [] for i, score in pairs]

    def retrieve(self, queries: Float[Tensor, "b d"]) -> list[list[tuple[float, str]]]:
        """Per query, the text whose question it asks for certain, whoever is named; empty where it asks none."""
        if not self.texts:
            return [[] for _ in queries]
        scores, best = self.address.scores(queries.float().to(self.address.mean.device)).cpu().max(dim=1)
        pairs = zip(scores.tolist(), best.tolist(), strict=True)
        return [[(score, self.texts[i])] if score >= self.address.alone else [] for score, i in pairs]

    def is_finite(self) -> bool:
        """False if the address holds NaN or infinity."""
        return self.address.is_finite()

    def equals(self, other: object) -> bool:
        """Same texts, and the same address to the byte."""
        return isinstance(other, Recall) and self.texts == other.texts and self.address.equals(other.address)

    def scaled(self, s: float) -> Recall:
        """Itself for 1, without entries for 0: a text is there or it is not.

        Raises: NonFiniteDelta for any other number.
        """
        if s == 1:
            return self
        if s == 0:
            return self.select(torch.zeros(0, dtype=torch.long))
        raise NonFiniteDelta(f"Text cannot be scaled by {s}. Use a scale of 1, or of 0 to leave it out.")

    def select(self, entries: Tensor) -> Recall:
        """The entries with these numbers, in this order; what was learned from the others is gone."""
        return Recall(self.address.select(entries), tuple(self.texts[i] for i in entries.tolist()))

    def joined(self, other: Recall) -> Recall:
        """The entries of both. Raises ShapeMismatch for addresses of different settings."""
        return Recall(self.address.joined(other.address), self.texts + other.texts)

    def header(self) -> dict[str, JSON]:
        """Kind, texts, and the header of the address."""
        return {"kind": self.kind, "texts": list(self.texts), "address": self.address.header()}

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of the address, by name."""
        return {f"{_AT}{name}": tensor for name, tensor in self.address.tensors().items()}

    @staticmethod
    def names(header: Mapping[str, Any]) -> list[str]:
        """The tensors that a part with this header has."""
        return [f"{_AT}{name}" for name in header["address"]["tensors"]]

    @staticmethod
    def build(header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Recall:
        """The part that has this header and these tensors. Raises ShapeMismatch, KeyError, TypeError."""
        texts = header["texts"]
        if not isinstance(texts, list) or not all(type(text) is str for text in texts):
            raise ShapeMismatch(f"recall: 'texts' is {texts!r}, no list of texts. Write it as its kind says.")
        own = {name.removeprefix(_AT): tensor for name, tensor in tensors.items()}
        return Recall(KeyedAddress.build(header["address"], own), tuple(texts))
