"""An address of its own for conditional memory: which entry's question a prompt asks, told by two keys.

*What* is asked of whom stands at a prompt's last token, where the answer would begin. *Who* is named stands at the last
token of the name, in a lower layer. An entry has a key of either sort, the mean of such states over wordings of its
question and over texts that name its subject; a prompt is scored against both by `Spreads`, and an entry fires where
both fit. The first key tells questions about one subject apart, the second one subjects of whom the same is asked. The
whole table is a function of the set of its entries: one that is added or taken out has the table fitted again, and what
was learned from a deleted entry is gone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from catechism.delta.address import Feature, Match, Reading, renumbered
from catechism.delta.piece import Piece
from catechism.delta.spreads import Spreads, fit_spreads, group_means
from catechism.errors import ShapeMismatch

SAMPLE = 512  # entries that spreads and thresholds are taken from: the 10,000th edit costs as much as the 1,000th
SLACK = 0.01  # nats above a wrong text's score, so that rounding decides nothing
MISSED = 0.01  # share of the right texts that may stay below a threshold where there is room to choose
MENTIONED = 10  # times the rate, at mentions of a subject: nobody means them, and some do ask for the fact
MENTION, ABOUT, ANOTHER = range(3)
NOBODY = -1  # in place of a subject where a fact has none


@dataclass(frozen=True, slots=True)
class Settings:
    """How a table is fitted.

    Attributes:
        rate: share of the wrong texts that may pass a key.
        strength: how many wordings, and how many questions, the prior is worth.
        prior: share of the background's spread that the prior takes for wording.
    """

    rate: float = 0.01
    strength: float = 100.0
    prior: float = 0.5


@dataclass(frozen=True, slots=True, eq=False)
class Coordinates:
    """Takes the states of a layer to coordinates in which the model's own text has mean 0 and spread 1."""

    layer: int
    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d c"]


@dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """States of texts in the coordinates of a background: what a table is fitted on.

    Attributes:
        right, owner, wording: last tokens of texts that ask an entry's question, the entry, and the wording's number
            within it; equal numbers are the same wording after different texts.
        wrong, beside, posed: last tokens of texts that do not ask it, though they name its subject, the entry, and
            whether it is a question that somebody posed (1) or a mere mention of the subject (0).
        names, named, frame: last tokens of an entry's subject, the entry, and the text's number within it.
        tags: of every entry, drawn from its question: the smallest are the sample that a table is fitted on.
        subjects: of every entry, drawn from its subject; `NOBODY` where it has none.
    """

    right: Float[Tensor, "m c"]
    owner: Int[Tensor, " m"]
    wording: Int[Tensor, " m"]
    wrong: Float[Tensor, "n c"]
    beside: Int[Tensor, " n"]
    sort: Int[Tensor, " n"]
    names: Float[Tensor, "k cw"]
    named: Int[Tensor, " k"]
    frame: Int[Tensor, " k"]
    tags: Int[Tensor, " e"]
    subjects: Int[Tensor, " e"]

    def of(self, entries: Int[Tensor, " s"]) -> Texts:
        """Those of these entries, in their order."""
        rows, owner = renumbered(self.owner, entries)
        others, beside = renumbered(self.beside, entries)
        places, named = renumbered(self.named, entries)
        return Texts(
            self.right[rows], owner, self.wording[rows], self.wrong[others], beside, self.sort[others],
            self.names[places], named, self.frame[places], self.tags[entries], self.subjects[entries],
        )  # fmt: skip

    def joined(self, other: Texts) -> Texts:
        """Both, the other's entries after these."""
        e = len(self.tags)
        moved = replace(other, owner=other.owner + e, beside=other.beside + e, named=other.named + e)
        both = ((getattr(self, field.name), getattr(moved, field.name)) for field in fields(self))
        return Texts(*map(torch.cat, both))


@dataclass(frozen=True, slots=True, eq=False)
class Evidence:
    """What the texts of a table say about the threshold of a key.

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

    @property
    def threshold(self) -> float:
        """Where it is as likely as not that a text is right, moved to where the texts have their gap."""
        right = self.right.sort().values
        lowest = float(right[int(MISSED * len(right))]) if len(right) else 0.0
        return max(self.limit, min(lowest, 0.0))


@dataclass(frozen=True, slots=True, eq=False)
class Keys:
    """Keys of entries in a basis: the mean of each entry's wordings, and how many it has."""

    spreads: Spreads
    keys: Float[Tensor, "e r"]
    weights: Float[Tensor, " e"]

    @staticmethod
    def fit(
        x: Float[Tensor, "m c"],
        owner: Int[Tensor, " m"],
        wording: Int[Tensor, " m"],
        sample: Int[Tensor, " s"],
        entries: int,
        settings: Settings,
    ) -> Keys:
        """The keys of all entries, in a basis that is fitted on those of the sample."""
        rows, drawn = renumbered(owner, sample)
        present, entry = drawn.unique(return_inverse=True)  # some may have no text of this sort
        of, number = numbered(entry, wording[rows])
        fitted = fit_spreads(x[rows], number, of, len(present), strength=settings.strength, prior=settings.prior)
        spreads = Spreads(fitted.centre.float(), fitted.projection.float(), fitted.between.float())
        of, number = numbered(owner, wording)
        means = group_means(spreads.place(x.float()), number, len(of))
        return Keys(spreads, group_means(means, of, entries), torch.bincount(of, minlength=entries).float())

    def scores(self, x: Float[Tensor, "b c"]) -> Float[Tensor, "b e"]:
        """Score of every state for every entry."""
        return self.spreads.scores(self.spreads.place(x.float()), self.keys, self.weights)

    def own(self, x: Float[Tensor, "m c"], owner: Int[Tensor, " m"]) -> Float[Tensor, " m"]:
        """Score of every state for one entry."""
        return self.spreads.own_scores(self.spreads.place(x.float()), self.keys[owner], self.weights[owner])

    def left_out(
        self, x: Float[Tensor, "m c"], owner: Int[Tensor, " m"], wording: Int[Tensor, " m"]
    ) -> Float[Tensor, " k"]:
        """Score of every state for its own entry, its wording left out; of those that have another wording."""
        of, number = numbered(owner, wording)
        z = self.spreads.place(x.float())
        means, weights = group_means(z, number, len(of))[number], self.weights[owner]
        keys = (self.keys[owner] * weights[:, None] - means) / (weights - 1).clamp_min(1)[:, None]
        return self.spreads.own_scores(z, keys, weights - 1)[weights > 1]


def numbered(owner: Int[Tensor, " m"], wording: Int[Tensor, " m"]) -> tuple[Int[Tensor, " w"], Int[Tensor, " m"]]:
    """The entry of every wording, and the wording of every text, numbered through all entries."""
    pairs, number = torch.stack([owner, wording], dim=1).unique(dim=0, return_inverse=True)
    return pairs[:, 0], number


def reached(scores: Float[Tensor, " n"], rate: float) -> float:
    """A score that no more than this share of the scores reach; minus infinity without scores."""
    if not len(scores):
        return -math.inf
    return float(scores.sort().values[math.ceil((1 - rate) * len(scores)) - 1]) + SLACK


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """Evidence on the key of questions, on that key alone where it has to tell other subjects apart too, on names."""

    what: Evidence
    alone: Evidence
    who: Evidence


def judged(what: Keys, who: Keys, texts: Texts, sample: Int[Tensor, " s"], rate: float) -> Judged:
    """What the texts of the sample's entries say, each scored in the whole table."""
    drawn = texts.of(sample)
    owner, named = sample[drawn.owner], sample[drawn.named]
    right = what.left_out(drawn.right, owner, drawn.wording)
    scores, said = what.scores(drawn.right), what.own(drawn.wrong, sample[drawn.beside])
    other = texts.tags[owner][:, None] != texts.tags  # the same question may be there twice
    near = other & (texts.subjects[owner][:, None] == texts.subjects)
    mentions = reached(said[drawn.sort == MENTION], min(MENTIONED * rate, 0.5))
    about = max(mentions, reached(said[drawn.sort == ABOUT], rate), reached(_best(scores, near), rate))
    anyone = max(mentions, reached(said[drawn.sort != MENTION], rate), reached(_best(scores, other), rate))
    bare = drawn.frame == 0  # the names in the entries' own prompts
    apart = (texts.subjects[named[bare]][:, None] != texts.subjects) & (texts.subjects != NOBODY)
    strangers = reached(_best(who.scores(drawn.names[bare]), apart), rate)
    return Judged(
        Evidence(right, about),
        Evidence(right, anyone),
        Evidence(who.left_out(drawn.names, named, drawn.frame), strangers),
    )


def _best(scores: Float[Tensor, "m e"], allowed: Bool[Tensor, "m e"]) -> Float[Tensor, " k"]:
    """Largest allowed score of every row that has one."""
    padded = torch.nn.functional.pad(scores.masked_fill(~allowed, -math.inf), (0, 1), value=-math.inf)  # or no entries
    return padded.amax(dim=1)[allowed.any(dim=1)]


@dataclass(frozen=True, eq=False)
class KeyedAddress(Piece):
    """Entries that are known by what their questions ask, and of whom.

        what_j = score of the prompt's last token,   who_j = largest score of any of its tokens
        the j of largest what_j + who_j fires, out of those with
        what_j >= alone, or what_j >= threshold and who_j >= who_threshold

    `alone` is calibrated against questions about all other subjects, `threshold` against texts about the same one: a
    question that is certain needs no name, and with the name one that is less certain is enough. An entry without a
    subject has no second key. For the thresholds see `Evidence`.

    Attributes:
        mean, basis: take a last token's state to coordinates in which the model's own text has mean 0 and spread 1.
        who_mean, who_basis: the same for names.
        right, owner, wording, wrong, beside, sort, names, named, frame, tags, subjects: see `Texts`.
        centre, projection, between, keys, weights: of questions, the fitted `Spreads` and `Keys`.
        who_centre, who_projection, who_between, who_keys, who_weights: of subjects.
        layer, who_layer: the blocks whose MLPs' inputs are read, for questions and for names.
        rate, strength, prior: see `Settings`.
        threshold, who_threshold, alone: see above.
    """

    mean: Float[Tensor, " d"]
    basis: Float[Tensor, "d c"]
    who_mean: Float[Tensor, " d"]
    who_basis: Float[Tensor, "d cw"]
    right: Float[Tensor, "m c"]
    owner: Int[Tensor, " m"]
    wording: Int[Tensor, " m"]
    wrong: Float[Tensor, "n c"]
    beside: Int[Tensor, " n"]
    sort: Int[Tensor, " n"]
    names: Float[Tensor, "k cw"]
    named: Int[Tensor, " k"]
    frame: Int[Tensor, " k"]
    tags: Int[Tensor, " e"]
    subjects: Int[Tensor, " e"]
    centre: Float[Tensor, " c"]
    projection: Float[Tensor, "c r"]
    between: Float[Tensor, " r"]
    keys: Float[Tensor, "e r"]
    weights: Float[Tensor, " e"]
    who_centre: Float[Tensor, " cw"]
    who_projection: Float[Tensor, "cw rw"]
    who_between: Float[Tensor, " rw"]
    who_keys: Float[Tensor, "e rw"]
    who_weights: Float[Tensor, " e"]
    layer: int
    who_layer: int
    rate: float
    strength: float
    prior: float
    threshold: float
    who_threshold: float
    alone: float

    kind: ClassVar[str] = "keyed"

    def __post_init__(self) -> None:
        (d, c), cw, e = self.basis.shape, self.who_basis.shape[1], self.tags.shape[0]
        m, n, k = len(self.right), len(self.wrong), len(self.names)
        r, rw = len(self.between), len(self.who_between)
        self._check(
            mean=(d,), basis=(d, c), who_mean=(d,), who_basis=(d, cw), right=(m, c), owner=(m,), wording=(m,),
            wrong=(n, c), beside=(n,), sort=(n,), names=(k, cw), named=(k,), frame=(k,), tags=(e,), subjects=(e,),
            centre=(c,), projection=(c, r), between=(r,), keys=(e, r), weights=(e,),
            who_centre=(cw,), who_projection=(cw, rw), who_between=(rw,), who_keys=(e, rw), who_weights=(e,),
        )  # fmt: skip
        numbers = set(torch.cat([self.owner, self.beside, self.named]).tolist())
        someone = set((self.subjects != NOBODY).nonzero()[:, 0].tolist())
        if numbers != set(range(e)) or len(self.owner.unique()) < e or set(self.named.tolist()) != someone:
            raise ShapeMismatch(
                f"Texts of {len(self.owner.unique())} entries for a table of {e}. Give every entry a text that asks "
                "its question, and one that names its subject if it has one; number entries from 0."
            )
        if not (0 < self.rate < 1 and self.strength > 0 and 0 < self.prior < 1):
            raise ShapeMismatch(
                f"rate={self.rate}, strength={self.strength}, prior={self.prior}. Use shares between 0 and 1 and a "
                "strength above 0."
            )

    @staticmethod
    def fit(what: Coordinates, who: Coordinates, texts: Texts, settings: Settings) -> KeyedAddress:
        """The table of the entries that these texts are about. Nothing depends on the order of the entries."""
        e, sample = len(texts.tags), texts.tags.argsort(stable=True)[:SAMPLE]
        asked = Keys.fit(texts.right, texts.owner, texts.wording, sample, e, settings)
        named = Keys.fit(texts.names, texts.named, texts.frame, sample, e, settings)
        found = judged(asked, named, texts, sample, settings.rate)
        return KeyedAddress(
            mean=what.mean, basis=what.basis, who_mean=who.mean, who_basis=who.basis,
            **{field.name: getattr(texts, field.name) for field in fields(texts)},
            centre=asked.spreads.centre, projection=asked.spreads.projection, between=asked.spreads.between,
            keys=asked.keys, weights=asked.weights,
            who_centre=named.spreads.centre, who_projection=named.spreads.projection,
            who_between=named.spreads.between, who_keys=named.keys, who_weights=named.weights,
            layer=what.layer, who_layer=who.layer,
            rate=settings.rate, strength=settings.strength, prior=settings.prior,
            threshold=found.what.threshold, who_threshold=found.who.threshold, alone=found.alone.threshold,
        )  # fmt: skip

    @property
    def entries(self) -> int:
        """How many edits it tells apart."""
        return self.tags.shape[0]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The inputs of two blocks' MLPs, which hold what the blocks' own attention has brought."""
        return Feature(self.layer, "mlp"), Feature(self.who_layer, "mlp")

    @property
    def what(self) -> Keys:
        """The keys of questions."""
        return Keys(Spreads(self.centre, self.projection, self.between), self.keys, self.weights)

    @property
    def who(self) -> Keys:
        """The keys of subjects."""
        spreads = Spreads(self.who_centre, self.who_projection, self.who_between)
        return Keys(spreads, self.who_keys, self.who_weights)

    def scores(self, states: Float[Tensor, "b d"]) -> Float[Tensor, "b e"]:
        """what_j of last tokens."""
        return self.what.scores((states - self.mean) @ self.basis)

    def match(self, reading: Reading) -> Match:
        """The entry that fires in each row. Names are looked for only where a question fits."""
        states = reading.pooled(0, "last").to(self.mean.device)
        entry = states.new_full((len(states),), -1, dtype=torch.long)
        score = torch.full_like(states[:, 0], -math.inf)
        if not self.entries:
            return entry, score
        what, who = self.scores(states), self.who
        fits = what >= min(self.threshold, self.alone)
        for row in fits.any(dim=1).nonzero()[:, 0].tolist():
            near = fits[row].nonzero()[:, 0]
            tokens = reading.features[1][row][reading.prompt[row].to(reading.features[1].device)].to(states)
            some = Keys(who.spreads, who.keys[near], who.weights[near])
            found = some.scores((tokens - self.who_mean) @ self.who_basis).amax(dim=0)
            found = torch.where(self.subjects[near] == NOBODY, self.who_threshold, found)
            asked = what[row, near]
            fires = (asked >= self.alone) | ((asked >= self.threshold) & (found >= self.who_threshold))
            total = torch.where(fires, found + asked, -math.inf)
            score[row], best = total.max(dim=0)
            entry[row] = torch.where(score[row] > -math.inf, near[best], -1)
        return entry, score

    def select(self, entries: Int[Tensor, " s"]) -> KeyedAddress:
        """See `Address`. The table is fitted again, to what it would be had the others never been in it."""
        return self._refitted(self._texts.of(entries))

    def joined(self, other: KeyedAddress) -> KeyedAddress:
        """See `Address`. The table is fitted again, on the texts of both."""
        same = ("layer", "who_layer", "rate", "strength", "prior")
        tensors = ("mean", "basis", "who_mean", "who_basis")
        if any(getattr(self, name) != getattr(other, name) for name in same) or not all(
            torch.equal(getattr(self, name), getattr(other, name)) for name in tensors
        ):
            raise ShapeMismatch(
                "Two tables with different layers, settings or backgrounds do not add. Apply both deltas instead of "
                "their sum, or fit both with the same settings."
            )
        return self._refitted(self._texts.joined(other._texts))

    def evidence(self) -> Judged:
        """What the table's own texts say about how well it tells its entries apart."""
        sample = self.tags.argsort(stable=True)[:SAMPLE]
        return judged(self.what, self.who, self._texts, sample, self.rate)

    @property
    def _texts(self) -> Texts:
        return Texts(**{field.name: getattr(self, field.name) for field in fields(Texts)})

    def _refitted(self, texts: Texts) -> KeyedAddress:
        what = Coordinates(self.layer, self.mean, self.basis)
        who = Coordinates(self.who_layer, self.who_mean, self.who_basis)
        return KeyedAddress.fit(what, who, texts, Settings(self.rate, self.strength, self.prior))
