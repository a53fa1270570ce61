"""An address of its own for conditional memory: which entry's question a prompt asks, told from its last token.

At a prompt's last token, where the answer would begin, stands what is asked of whom. A stored entry is the mean of
such states over wordings of its question; a prompt is scored against every entry by `Spreads`. The whole table is a
function of the set of its entries: one that is added or taken out has the table fitted again, and what was learned
from a deleted entry is gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.delta.address import Feature, Match, Reading, renumbered
from catechism.delta.piece import Piece
from catechism.delta.spreads import Spreads, fit_spreads, group_means
from catechism.errors import ShapeMismatch

SAMPLE = 512  # entries that spreads and threshold are taken from: the 10,000th edit costs as much as the 1,000th
SLACK = 0.01  # nats above a wrong text's score, so that rounding decides nothing
MISSED = 0.01  # share of the right texts that may stay below the threshold where there is room to choose


@dataclass(frozen=True, slots=True)
class Settings:
    """How a table is fitted.

    Attributes:
        rate: share of the wrong texts that may fire.
        strength: how many wordings, and how many questions, the prior is worth.
        prior: share of the background's spread that the prior takes for wording.
    """

    rate: float = 0.005
    strength: float = 100.0
    prior: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """States of texts in the coordinates of a background: what a table is fitted on.

    Attributes:
        right, owner, wording: texts that ask an entry's question, the entry, and the wording's number within it; equal
            numbers are the same wording after different texts.
        wrong, beside: texts that do not ask it, and the entry that each was written for.
        tags: of every entry, drawn from its question: the smallest are the sample that a table is fitted on.
    """

    right: Float[Tensor, "m c"]
    owner: Int[Tensor, " m"]
    wording: Int[Tensor, " m"]
    wrong: Float[Tensor, "n c"]
    beside: Int[Tensor, " n"]
    tags: Int[Tensor, " e"]

    def of(self, entries: Int[Tensor, " s"]) -> Texts:
        """Those of these entries, in their order."""
        rows, owner = renumbered(self.owner, entries)
        others, beside = renumbered(self.beside, entries)
        return Texts(self.right[rows], owner, self.wording[rows], self.wrong[others], beside, self.tags[entries])

    def joined(self, other: Texts) -> Texts:
        """Both, the other's entries after these."""
        e = len(self.tags)
        return Texts(
            torch.cat([self.right, other.right]),
            torch.cat([self.owner, other.owner + e]),
            torch.cat([self.wording, other.wording]),
            torch.cat([self.wrong, other.wrong]),
            torch.cat([self.beside, other.beside + e]),
            torch.cat([self.tags, other.tags]),
        )


@dataclass(frozen=True, eq=False)
class KeyedAddress(Piece):
    """Entries that are known by how their questions look at a prompt's last token.

    An entry fires if its score is the largest of all and at least `threshold`. That is the larger of

    * what a share `rate` of the wrong texts reach: texts that were written as wrong for an entry, scored for it; and,
      on their own, the right texts of each entry, scored for the best of the others;
    * 0, where it is as likely as not that the question is asked; less, if `MISSED` of the right texts fall below it,
      each scored with its own wording left out of its entry's key.

    Attributes:
        mean, basis: take a state to coordinates in which the model's own text has mean 0 and spread 1.
        right, owner, wording, wrong, beside, tags: see `Texts`.
        centre, projection, between: the fitted `Spreads`.
        keys, weights: of every entry, the mean of its wordings in the basis of the spreads, and their number.
        layer: the block whose MLP's input is read.
        rate, strength, prior: see `Settings`.
        threshold: see above.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d c"]
    right: Float[Tensor, "m c"]
    owner: Int[Tensor, " m"]
    wording: Int[Tensor, " m"]
    wrong: Float[Tensor, "n c"]
    beside: Int[Tensor, " n"]
    tags: Int[Tensor, " e"]
    centre: Float[Tensor, " c"]
    projection: Float[Tensor, "c r"]
    between: Float[Tensor, " r"]
    keys: Float[Tensor, "e r"]
    weights: Float[Tensor, " e"]
    layer: int
    rate: float
    strength: float
    prior: float
    threshold: float

    kind: ClassVar[str] = "keyed"

    def __post_init__(self) -> None:
        (d, c), m, n = self.basis.shape, self.right.shape[0], self.wrong.shape[0]
        e, r = self.tags.shape[0], self.between.shape[0]
        self._check(
            mean=(d,), basis=(d, c), right=(m, c), owner=(m,), wording=(m,), wrong=(n, c), beside=(n,), tags=(e,),
            centre=(c,), projection=(c, r), between=(r,), keys=(e, r), weights=(e,),
        )  # fmt: skip
        named = torch.cat([self.owner, self.beside]).tolist()
        if set(self.owner.tolist()) != set(range(e)) or not set(named) <= set(range(e)):
            raise ShapeMismatch(
                f"Texts of {len(set(self.owner.tolist()))} entries for a table of {e}. Give every entry a text that "
                "asks its question, and number entries from 0."
            )
        if not (0 < self.rate < 1 and self.strength > 0 and 0 < self.prior < 1):
            raise ShapeMismatch(
                f"rate={self.rate}, strength={self.strength}, prior={self.prior}. Use shares between 0 and 1 and a "
                "strength above 0."
            )

    @staticmethod
    def fit(
        mean: Float[Tensor, " d"], basis: Float[Tensor, "d c"], texts: Texts, *, layer: int, settings: Settings
    ) -> KeyedAddress:
        """The table of the entries that these texts are about. Nothing depends on the order of the entries."""
        chosen = texts.tags.argsort(stable=True)[:SAMPLE]
        sample = texts.of(chosen)
        entry, wording = _wordings(sample)
        fitted = fit_spreads(
            sample.right, wording, entry, len(sample.tags), strength=settings.strength, prior=settings.prior
        )
        spreads = Spreads(fitted.centre.float(), fitted.projection.float(), fitted.between.float())
        table = _Table.of(spreads, texts)
        return KeyedAddress(
            mean, basis, texts.right, texts.owner, texts.wording, texts.wrong, texts.beside, texts.tags,
            spreads.centre, spreads.projection, spreads.between, table.keys, table.weights,
            layer=layer, rate=settings.rate, strength=settings.strength, prior=settings.prior,
            threshold=_threshold(_evidence(table, texts, chosen, settings.rate)),
        )  # fmt: skip

    @property
    def entries(self) -> int:
        """How many edits it tells apart."""
        return self.tags.shape[0]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The input of one block's MLP, which holds what the block's own attention has brought."""
        return (Feature(self.layer, "mlp"),)

    @property
    def spreads(self) -> Spreads:
        """The fitted model."""
        return Spreads(self.centre, self.projection, self.between)

    def scores(self, states: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """Score of every state for every entry."""
        return self.spreads.scores(self.spreads.place((states - self.mean) @ self.basis), self.keys, self.weights)

    def match(self, reading: Reading) -> Match:
        """The entry with the largest score, if that reaches the threshold."""
        states = reading.pooled(0, "last").to(self.mean.device)
        if not self.entries:
            return states.new_full((len(states),), -1, dtype=torch.long), states.new_zeros(len(states))
        score, best = self.scores(states).max(dim=1)
        return torch.where(score >= self.threshold, best, -1), score

    def select(self, entries: Int[Tensor, " s"]) -> KeyedAddress:
        """See `Address`. The table is fitted again, to what it would be had the others never been in it."""
        return self._refitted(self._texts.of(entries))

    def joined(self, other: KeyedAddress) -> KeyedAddress:
        """See `Address`. The table is fitted again, on the texts of both."""
        same = ("layer", "rate", "strength", "prior")
        if (
            any(getattr(self, name) != getattr(other, name) for name in same)
            or not torch.equal(self.mean, other.mean)
            or not torch.equal(self.basis, other.basis)
        ):
            raise ShapeMismatch(
                "Two tables with different layers, settings or backgrounds do not add. Apply both deltas instead of "
                "their sum, or fit both with the same settings."
            )
        return self._refitted(self._texts.joined(other._texts))

    def evidence(self) -> Evidence:
        """What the table's own texts say about how well it tells its entries apart."""
        chosen = self.tags.argsort(stable=True)[:SAMPLE]
        return _evidence(_Table(self.spreads, self.keys, self.weights), self._texts, chosen, self.rate)

    @property
    def _texts(self) -> Texts:
        return Texts(self.right, self.owner, self.wording, self.wrong, self.beside, self.tags)

    def _refitted(self, texts: Texts) -> KeyedAddress:
        settings = Settings(self.rate, self.strength, self.prior)
        return KeyedAddress.fit(self.mean, self.basis, texts, layer=self.layer, settings=settings)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the texts of a table say about its threshold.

    Attributes:
        right: score of every right text for its own entry, its wording left out of the key. Empty where every entry
            has but one wording.
        limit: score that a share `rate` of the wrong texts reach; minus infinity where there is none.
    """

    right: Float[Tensor, " m"]
    limit: float

    @property
    def recall(self) -> float | None:
        """Share of the right texts that score above what the wrong ones leave; None where nothing can be said."""
        return float((self.right > self.limit).float().mean()) if len(self.right) else None


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Keys of entries in a basis: the mean of each entry's wordings, and how many it has."""

    spreads: Spreads
    keys: Float[Tensor, "e r"]
    weights: Float[Tensor, " e"]

    @staticmethod
    def of(spreads: Spreads, texts: Texts) -> _Table:
        entry, wording = _wordings(texts)
        means = group_means(spreads.place(texts.right.float()), wording, len(entry))
        weights = torch.bincount(entry, minlength=len(texts.tags)).float()
        return _Table(spreads, group_means(means, entry, len(texts.tags)), weights)


def _wordings(texts: Texts) -> tuple[Int[Tensor, " w"], Int[Tensor, " m"]]:
    """The entry of every wording, and the wording of every right text, numbered through all entries."""
    pairs, number = torch.stack([texts.owner, texts.wording], dim=1).unique(dim=0, return_inverse=True)
    return pairs[:, 0], number


def _threshold(evidence: Evidence) -> float:
    """See `KeyedAddress`."""
    right = evidence.right.sort().values
    lowest = float(right[int(MISSED * len(right))]) if len(right) else 0.0
    return max(evidence.limit, min(lowest, 0.0))


def _evidence(table: _Table, texts: Texts, chosen: Int[Tensor, " s"], rate: float) -> Evidence:
    """The scores of the texts of the chosen entries, in the whole table."""
    spreads, sample = table.spreads, texts.of(chosen)
    z, wrong = spreads.place(sample.right.float()), spreads.place(sample.wrong.float())
    at, beside = chosen[sample.owner], chosen[sample.beside]
    others = spreads.scores(z, table.keys, table.weights)
    others[texts.tags[at][:, None] == texts.tags] = -torch.inf  # the same question may be there twice
    if not len(table.keys):
        return Evidence(z.new_zeros(0), -math.inf)
    limits = [spreads.own_scores(wrong, table.keys[beside], table.weights[beside]), others.amax(dim=1)]
    entry, wording = _wordings(sample)
    means = group_means(z, wording, len(entry))[wording]
    weights = table.weights[at]
    told = weights > 1  # there is another wording to make its key of
    keys = (table.keys[at] * weights[:, None] - means) / (weights - 1).clamp_min(1)[:, None]
    return Evidence(
        spreads.own_scores(z, keys, weights - 1)[told],
        max((_exceeded(scores, rate) for scores in limits if len(scores)), default=-math.inf),
    )


def _exceeded(scores: Float[Tensor, " n"], rate: float) -> float:
    """A score that no more than this share of the scores reach."""
    return float(scores.sort().values[math.ceil((1 - rate) * len(scores)) - 1]) + SLACK
