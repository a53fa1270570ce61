"""What an audit found: a row for every measure, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum

from catechism.types import JSON


class Family(StrEnum):
    """What a measure is a measure of."""

    RECALL = "recall"  # asked plainly
    ATTACK = "attack"  # asked by somebody who wants it back, or after the weights were tampered with
    MEMORISATION = "memorisation"
    MEMBERSHIP = "membership"
    DEPTH = "depth"
    PROBE = "probe"
    RELEARNING = "relearning"
    SPILL = "spill"  # what was to stay


class Word(StrEnum):
    """The verdict."""

    REMOVED = "removed"  # the caller proved that the change itself is out
    ERASED = "erased"  # nothing that was tried tells the model from one that never learned
    SUPPRESSED = "suppressed"  # something does
    FAILED = "failed"  # it still answers, or what was to stay is broken


@dataclass(frozen=True, slots=True)
class Row:
    """One measure.

    Attributes:
        name: of the measure or attack.
        family: of the measure.
        value: of the audited model; None where it could not be taken, `note` says why.
        low, high: 95 % interval of `value`.
        control: the same of the never-learned model.
        before: the same of the model without the edit.
        gap, gap_low, gap_high: difference to the control over the same things, with its 95 % interval.
        p: of a test against the control, not corrected.
        n: things that were asked.
        decides: whether the verdict looks at it.
        tells: whether it tells the model from the control or, for what was to stay, is broken; None if it cannot say.
        note: what else there is to know, layers for instance.
    """

    name: str
    family: Family
    value: float | None
    low: float | None = None
    high: float | None = None
    control: float | None = None
    before: float | None = None
    gap: float | None = None
    gap_low: float | None = None
    gap_high: float | None = None
    p: float | None = None
    n: int = 0
    decides: bool = True
    tells: bool | None = None
    note: str = ""

    def json(self) -> dict[str, JSON]:
        """As an object of the fields; numbers that are not finite as text."""
        return {
            key: str(value) if isinstance(value, float) and not math.isfinite(value) else value
            for key, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Audit:
    """The rows of an audit with its verdict.

    Attributes:
        profile: its name. seed: of every draw.
        facts: how many were to be forgotten.
        model, control: digests of the weights as audited; None for no control.
        rows: one per measure, by family.
        verdict: in one word.
        reasons: for the verdict, in sentences.
        not_shown: what this audit cannot say, in sentences.
    """

    profile: str
    seed: int
    facts: int
    model: str
    control: str | None
    rows: tuple[Row, ...]
    verdict: Word
    reasons: tuple[str, ...]
    not_shown: tuple[str, ...]

    def row(self, name: str) -> Row:
        """The row of this name. Raises KeyError, with the names that there are."""
        for row in self.rows:
            if row.name == name:
                return row
        raise KeyError(f"No row {name!r}. There are {', '.join(row.name for row in self.rows)}.")

    @property
    def worst_attack(self) -> Row | None:
        """The attack, relearning the facts themselves apart, that is furthest above the control; without a control the
        one with the highest recall. Of several the first; None if no attack was run.

        Raw recall does not serve for comparing: an attack that lists the answers is right by chance now and then.
        """
        return worst([row for row in self.rows if row.family is Family.ATTACK])

    def json(self) -> dict[str, JSON]:
        """As an object, for a certificate."""
        found: dict[str, JSON] = {
            "profile": self.profile, "seed": self.seed, "facts": self.facts, "model": self.model,
            "control": self.control, "verdict": str(self.verdict), "reasons": list(self.reasons),
            "not_shown": list(self.not_shown), "rows": [row.json() for row in self.rows],
        }  # fmt: skip
        attack = self.worst_attack
        found["worst_attack"] = None if attack is None else attack.name
        return found


def worst(rows: Sequence[Row]) -> Row | None:
    """The row that is furthest above its control, or, where none has one, that with the greatest value."""
    known = [row for row in rows if row.value is not None]
    return max(
        known, key=lambda row: (row.value or 0.0 if row.gap is None else row.gap, row.value or 0.0), default=None
    )
