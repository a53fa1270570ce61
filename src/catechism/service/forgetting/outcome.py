"""What became of a request to forget, as a value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from catechism.registry import EditVersion, Seal
from catechism.service.examine import Trial
from catechism.service.forgetting.copies import Copy
from catechism.service.forgetting.plan import ForgetPlan
from catechism.types import JSON, Rate


class ForgetEnding(StrEnum):
    """How a request ended."""

    UNKNOWN = "unknown"  # the model knows nothing of it, and nothing was done
    PLANNED = "planned"  # the plan was shown, and nothing was done
    FAILED = "failed"  # no method found a change
    REFUSED = "refused"  # the gates did not pass; the best try is kept as a draft
    VALIDATED = "validated"  # the gates passed; it was not to be released
    WAITING = "waiting"  # the gates passed; approvals are missing
    RELEASED = "released"  # it is in effect


@dataclass(frozen=True)
class Forgotten:
    """A request to forget at the end of its way.

    Attributes:
        ending: how it ended. reason: why, in words.
        plan: what was planned.
        edit: the deletion in the registry; None where none was made.
        trial: what was asked before and after it, judged.
        attempts: methods that were tried before, with what kept them from passing.
        seals: what was destroyed.
        copies: where else the facts are written down, with what was done.
        seconds: time spent, by stage.
    """

    ending: ForgetEnding
    reason: str
    plan: ForgetPlan
    edit: EditVersion | None = None
    trial: Trial | None = None
    attempts: tuple[str, ...] = ()
    seals: tuple[Seal, ...] = ()
    copies: tuple[Copy, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict[str, float])

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        metrics: dict[str, JSON] | None = None
        if self.trial is not None:
            metrics = {
                name: value.json() if isinstance(value, Rate) else value
                for name, value in self.trial.report.metrics.items()
            }
        return {
            "ending": self.ending.value,
            "reason": self.reason,
            "edit": self.edit and self.edit.id,
            "state": self.edit and self.edit.state.value,
            "method": self.edit and self.edit.method,
            "removes": [] if self.edit is None else list(self.edit.removes),
            "metrics": metrics,
            "verdict": self.trial and self.trial.verdict.json(),
            "attempts": list(self.attempts),
            "sealed": [seal.json() for seal in self.seals],
            "plan": self.plan.json(),
            "copies": [copy.json() for copy in self.copies],
            "seconds": dict(self.seconds),
        }
