"""What became of one row of a feed, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from catechism.evaluate import Report, Verdict
from catechism.methods.select import Choice
from catechism.registry import EditVersion
from catechism.types import JSON, Catechism, Locus, Rate

#: The stations of a fact, in their order; the keys of `Outcome.seconds`.
STAGES = ("read", "check", "synthesise", "locate", "fit", "validate", "release")


class Ending(StrEnum):
    """How a row ended."""

    MALFORMED = "malformed"  # it could not be read, or its fact cannot be used
    DUPLICATE = "duplicate"  # the same fact came before, or is active
    CONTRADICTION = "contradiction"  # another row of the feed, or an active edit, says otherwise
    KNOWN = "known"  # the model says so already
    FAILED = "failed"  # a method found no change
    REFUSED = "refused"  # its gates did not pass
    VALIDATED = "validated"  # its gates passed; it was not to be released
    WAITING = "waiting"  # its gates passed; approvals are missing
    RELEASED = "released"  # it is in effect


@dataclass(frozen=True)
class Outcome:
    """One row of a feed at the end of its way.

    Attributes:
        name: the row's own identifier, or its line.
        ending: how it ended.
        reason: why, in words.
        lesson: the fact with its exam; None where the row could not be read.
        edit: what the registry keeps of it; None where no edit was made.
        choice: method and layer with the selector's reason.
        loci: where the fact was measured to sit, best first.
        before, after: what was said to the canonical prompt without and with the edit; None where it was not asked.
        report, verdict: of the edit's evaluation.
        dropped: questions that the teacher could not answer, by kind and origin.
        attempts: what was tried before `choice` and failed its gates, with the gates that failed.
        seconds: time spent at each of `STAGES`.
    """

    name: str
    ending: Ending
    reason: str
    lesson: Catechism | None = None
    edit: EditVersion | None = None
    choice: Choice | None = None
    loci: tuple[Locus, ...] = ()
    before: str | None = None
    after: str | None = None
    report: Report | None = None
    verdict: Verdict | None = None
    dropped: Mapping[str, int] = field(default_factory=dict[str, int])
    attempts: tuple[str, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        fact = None if self.lesson is None else self.lesson.fact
        return {
            "row": self.name,
            "ending": self.ending.value,
            "reason": self.reason,
            "prompt": fact and fact.prompt,
            "subject": fact and fact.subject,
            "object": fact and fact.object,
            "risk": fact and fact.risk.value,
            "edit": self.edit and self.edit.id,
            "state": self.edit and self.edit.state.value,
            "choice": self.choice and self.choice.json(),
            "loci": [_locus(locus) for locus in self.loci],
            "before": self.before,
            "after": self.after,
            "metrics": self.report and metrics_json(self.report),
            "verdict": self.verdict and self.verdict.json(),
            "dropped": dict(self.dropped),
            "attempts": list(self.attempts),
            "seconds": dict(self.seconds),
        }


def metrics_json(report: Report) -> dict[str, JSON]:
    """The metrics that were measured; what was not asked is left out."""
    return {
        name: value.json() if isinstance(value, Rate) else value
        for name, value in report.metrics.items()
        if value is not None
    }


def _locus(locus: Locus) -> JSON:
    return {"layer": locus.site.layer, "role": locus.site.role.value, "score": locus.score, **locus.evidence}
