"""Sparse masks of prompts, and the threshold at which two of them are taken for the same question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta.address import Feature
from catechism.delta.addresses import PaperAddress
from catechism.delta.bits import overlaps, words
from catechism.errors import BadSpec
from catechism.model.background import Background
from catechism.model.live import LiveModel
from catechism.model.retrieval import read_features

IRRELEVANT = 100  # prompts that the mean feature is taken over (published 100), and as many to calibrate on
SHORTEST = 3  # words of a text that can stand for a prompt


class Masks:
    """TopHash of one layer of one model: what makes the addresses of MEMOIR, and the masks that residuals are read by.

    Args:
        live: the model.
        background: texts whose beginnings are prompts that no edit is about.
        layer: whose MLP output matrix's input is the feature.
        share: of the features that are in a mask.
        pooling: "mean" over the prompt's tokens, or its "last" one.
        seed: of the permutation.

    Raises: BadSpec for a share out of (0, 1]; UnknownName for a layer without such a matrix.
    """

    def __init__(
        self, live: LiveModel, background: Background, layer: int, *, share: float, pooling: str, seed: int
    ) -> None:
        if not 0 < share <= 1:
            raise BadSpec(f"share={share} is no share of the features. Use a number above 0 and at most 1.")
        self._live, self._feature, self._pooling = live, Feature(layer, "mlp_out"), pooling
        self._texts = background.texts(2 * IRRELEVANT)
        features = self._read(beginnings(self._texts))
        half = (len(features) + 1) // 2
        d = features.shape[1]
        self._held_out, self._held_texts = features[half:], self._texts[half:]
        mean = features[:half].mean(dim=0)
        permutation = torch.randperm(d, generator=torch.Generator().manual_seed(seed))
        empty = torch.zeros(0, dtype=torch.int64)
        self._empty = PaperAddress(
            torch.zeros(0, words(d), dtype=torch.uint8), empty, torch.zeros(0), mean, permutation,
            k=max(1, round(share * d)), layer=layer, entries=0, pooling=pooling,
        )  # fmt: skip

    def table(self, prompts: Sequence[str], threshold: float) -> PaperAddress:
        """An entry for each prompt, all with one threshold."""
        masks = self._empty.masks_of(self._read(prompts))
        n = len(masks)
        return replace(
            self._empty, masks=masks, owner=torch.arange(n), thresholds=torch.full((n,), threshold), entries=n
        )

    def calibrated(self, table: PaperAddress, subjects: Sequence[str], rate: float) -> PaperAddress:
        """The table with the lowest threshold at which at most a share `rate` of held-out prompts fires.

        A held-out text that names an entry's subject says nothing about that entry.
        """
        R = overlaps(self._empty.masks_of(self._held_out), table.masks).float() / table.k
        owners = [subjects[int(entry)] for entry in table.owner]
        about = torch.tensor([[subject in text for subject in owners] for text in self._held_texts], dtype=torch.bool)
        nearest = R.masked_fill(about.reshape(R.shape), 0.0).amax(dim=1) if R.numel() else torch.zeros(0)
        allowed = int(rate * len(nearest))
        highest = float(nearest.sort(descending=True).values[allowed]) if allowed < len(nearest) else 0.0
        threshold = min(highest + 1 / table.k, 1.0)  # one feature more than the highest that must not fire
        return replace(table, thresholds=torch.full_like(table.thresholds, threshold))

    def _read(self, prompts: Sequence[str]) -> Float[Tensor, "n d"]:
        return read_features(self._live, prompts, self._feature, self._pooling)


def beginnings(texts: Sequence[str]) -> list[str]:
    """Texts without their last quarters: prompts about to be answered, as far as a text can stand for one."""
    found: list[str] = []
    for text in texts:
        pieces = text.split()
        found.append(" ".join(pieces[: max(min(SHORTEST, len(pieces)), len(pieces) * 3 // 4)]) or text)
    return found
