"""The settings that all trained methods of forgetting share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from catechism.errors import BadSpec


@dataclass(frozen=True)
class Training:
    """How a model is trained to forget. A method's own settings come on top, and it may have other defaults.

    Attributes:
        layers: blocks that get side paths; None takes all of them.
        rank: of every side path.
        rates: learning rates, each of them tried with each of `alphas`.
        alphas: weights of what is kept.
        keep: hold kept rows to their answers ("nll"), or to all that the model said there before ("kl").
        strangers: rows to keep for every row to forget that ask the same of made-up names, held by "kl": only who is
            forgotten may be answered otherwise than before. Of few facts there are more, `material.STRANGERS` in all.
            None where nothing is kept.
        recalled: rows to keep for every row to forget that the model says by itself, of others: it goes on from what
            stands before a subject. Held by "kl", and None where nothing is kept.
        written: rows to keep that the model writes from nothing, of whatever it writes of. Held by "kl", and none where
            nothing is kept.
        steps: most steps of a run.
        batch: rows to forget in a step.
        beside: rows to keep that are drawn in a step for every row of `batch`.
        every: steps between two looks at all rows to forget, at which a run may end and is saved.
        lift: weight of lifting answers that have fallen far below their level, so that nothing is forgotten too well.
        tails: weight of forgetting how answers go on once their beginning is given away.
        names: weight of forgetting that the names were ever read, of subjects of whom nothing stays. Neither this nor
            `lift` counts where something else is to be said.
        level: probability per token that an answer has in a model that never learned it; None estimates it, for every
            row, from what the model says of made-up names.
        let_go: whether a row that has come down to its level is pushed no further. The papers do not.
        halves: forget so that either half of the change is enough, as an attack that puts half of it back would have
            it: of three steps two are taken with a random half of the matrices, and with the other half, as they were.
        cooling: steps that a run goes on for once the answers are at their level, or `steps` are over, while the rate,
            level until then, falls; 0 ends it there, and the rate falls from the start.
        half: train a random half of the matrices only and leave the other half as it is (arXiv:2404.18466).
        seed: of the side paths, the batches and the made-up names.

    Raises: BadSpec for a setting out of range.
    """

    layers: tuple[int, ...] | None = None
    rank: int = 8
    rates: tuple[float, ...] = (5e-3,)
    alphas: tuple[float, ...] = (2.0,)
    keep: Literal["nll", "kl"] = "kl"
    strangers: int = 3
    recalled: int = 0
    written: int = 0
    steps: int = 50
    batch: int = 16
    beside: int = 1
    every: int = 5  # measured: 10 overshoots, and neighbours pay for it
    lift: float = 0.0
    tails: float = 0.0
    names: float = 0.0
    level: float | None = None
    let_go: bool = True
    halves: bool = False
    cooling: int = 0
    half: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("rank", "steps", "batch", "beside", "every"):
            if getattr(self, name) < 1:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 1 or more.")
        for name in ("strangers", "recalled", "written", "cooling"):
            if getattr(self, name) < 0:
                raise BadSpec(f"{name}={getattr(self, name)} is too small. Use 0 or more.")
        if self.layers is not None and not self.layers:
            raise BadSpec("layers is empty, which trains nothing. Name blocks, or give None for all of them.")
        check_above("lift", self.lift, equal=True)
        check_above("tails", self.tails, equal=True)
        check_above("names", self.names, equal=True)
        if not self.rates or not all(math.isfinite(rate) and rate > 0 for rate in self.rates):
            raise BadSpec(f"rates={self.rates} are no learning rates. Give one or more numbers above 0.")
        if not self.alphas or not all(math.isfinite(alpha) and alpha >= 0 for alpha in self.alphas):
            raise BadSpec(f"alphas={self.alphas} are no weights. Give one or more numbers of 0 or more.")
        if self.keep not in ("nll", "kl"):
            raise BadSpec(f"keep={self.keep!r} is no way to keep. Use 'nll' or 'kl'.")
        if self.level is not None and not 0 < self.level < 1:
            raise BadSpec(f"level={self.level} is no probability. Use a number between 0 and 1, or None.")


def check_above(name: str, value: float, least: float = 0.0, *, equal: bool = False) -> None:
    """Raise BadSpec for a setting that is not finite, or not above `least` (with `equal`: below it)."""
    if not math.isfinite(value) or value < least or (value == least and not equal):
        raise BadSpec(f"{name}={value} is out of range. Use a number {'of at least' if equal else 'above'} {least:g}.")
