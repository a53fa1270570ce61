"""Text that is kept beside a model and put before a prompt that it belongs to."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta.address import POOLINGS, Feature
from catechism.delta.piece import Piece
from catechism.errors import NonFiniteDelta, ShapeMismatch


@dataclass(frozen=True, eq=False)
class Context(Piece):
    """Entries of a key and a text. A prompt whose feature is near enough to a key is asked with the text before it.

    Attributes:
        keys: the feature of each entry, as the model gave it.
        center: taken off keys and queries before they are compared; zeros for none.
        thresholds: per entry, the least cosine similarity at which it is taken.
        texts: per entry, what is put before the prompt, with a space between.
        layer, place, side: the activation that the feature is read from, see `Feature`.
        pooling: "mean" over the prompt's tokens, or its "last" one.
        most: at most so many texts before one prompt, the nearest one last.

    Raises:
        ShapeMismatch: tensors or texts that do not belong together, or settings that there are not.
    """

    keys: Float[Tensor, "e d"]
    center: Float[Tensor, " d"]
    thresholds: Float[Tensor, " e"]
    texts: tuple[str, ...]
    layer: int
    place: str = "block"
    side: str = "output"
    pooling: str = "mean"
    most: int = 1

    kind: ClassVar[str] = "context"

    def __post_init__(self) -> None:
        e = len(self.texts)
        self._check(keys=(e, None), center=(self.keys.shape[-1],), thresholds=(e,))
        Feature(self.layer, self.place, self.side)
        if self.pooling not in POOLINGS or self.most < 1:
            raise ShapeMismatch(
                f"A context has pooling {self.pooling!r} and at most {self.most} texts. Use one of "
                f"{', '.join(POOLINGS)}, and 1 text or more."
            )

    @property
    def feature(self) -> Feature:
        """The activation that a query's key is read from."""
        return Feature(self.layer, self.place, self.side)

    @property
    def shape(self) -> None:
        """None: no matrix is changed."""
        return None

    def similarity(self, queries: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Cosine of every query and key about the center."""
        center = self.center.to(queries.device, torch.float32)
        keys = torch.nn.functional.normalize(self.keys.to(center.device, torch.float32) - center, dim=1)
        return torch.nn.functional.normalize(queries.float() - center, dim=1) @ keys.T

    def retrieve(self, queries: Float[Tensor, "b d"]) -> list[list[tuple[float, str]]]:
        """Per query, the entries that are taken, nearest last: (similarity, text)."""
        found: list[list[tuple[float, str]]] = []
        for row in self.similarity(queries).cpu():
            near = (row >= self.thresholds.cpu()).nonzero()[:, 0].tolist()
            near.sort(key=lambda i: (float(row[i]), self.texts[i]))
            found.append([(float(row[i]), self.texts[i]) for i in near[-self.most :]])
        return found

    def scaled(self, s: float) -> Context:
        """Itself for 1, without entries for 0: a text is there or it is not.

        Raises: NonFiniteDelta for any other number.
        """
        if s == 1:
            return self
        if s == 0:
            return self.select(torch.zeros(0, dtype=torch.int64))
        raise NonFiniteDelta(f"Text cannot be scaled by {s}. Use a scale of 1, or of 0 to leave it out.")

    def select(self, entries: Tensor) -> Context:
        """The entries with these numbers, in this order."""
        texts = tuple(self.texts[i] for i in entries.tolist())
        return replace(self, keys=self.keys[entries], thresholds=self.thresholds[entries], texts=texts)

    def joined(self, other: Context) -> Context:
        """The entries of both.

        Raises: ShapeMismatch if they read different features.
        """
        settings = [{k: v for k, v in context.settings().items() if k != "texts"} for context in (self, other)]
        if settings[0] != settings[1] or not torch.equal(self.center, other.center):
            raise ShapeMismatch(
                f"Two contexts with different settings do not add, {settings[0]} and {settings[1]} or their centers. "
                "Apply both deltas instead of their sum."
            )
        keys, thresholds = torch.cat([self.keys, other.keys]), torch.cat([self.thresholds, other.thresholds])
        return replace(self, keys=keys, thresholds=thresholds, texts=self.texts + other.texts)
