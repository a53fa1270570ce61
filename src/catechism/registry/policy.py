"""What may become of an edit, and whose consent it takes. Tables, and the counting of approvals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from catechism.errors import Denied, UsageError, WrongState
from catechism.matching import name_key
from catechism.registry.records import Approval, EditVersion, State
from catechism.types import JSON, Risk

#: From, to, and the verb that may take the step. What is not here does not happen.
TRANSITIONS: frozenset[tuple[State, State, str]] = frozenset(
    {
        (State.DRAFT, State.VALIDATED, "report"),
        (State.DRAFT, State.REJECTED, "reject"),
        (State.VALIDATED, State.REJECTED, "reject"),
        (State.VALIDATED, State.SHADOW, "promote"),
        (State.SHADOW, State.CANARY, "promote"),
        (State.CANARY, State.PRODUCTION, "promote"),
        (State.VALIDATED, State.PRODUCTION, "promote"),  # where the policy has no rollout
        (State.PRODUCTION, State.RETIRED, "supersede"),
        (State.SHADOW, State.ROLLED_BACK, "rollback"),
        (State.CANARY, State.ROLLED_BACK, "rollback"),
        (State.PRODUCTION, State.ROLLED_BACK, "rollback"),
        (State.RETIRED, State.PRODUCTION, "rollback"),  # what a rolled back edit had replaced is in effect again
    }
)
#: Nothing that is asked for leads out of these; learning the fact again makes a new version.
ENDED = frozenset({State.RETIRED, State.ROLLED_BACK, State.REJECTED})

EXPERTS = frozenset({Risk.MEDICAL, Risk.LEGAL, Risk.FINANCE, Risk.SAFETY})
_STRICTNESS = {Risk.LOW: 0, Risk.STANDARD: 1, Risk.HIGH: 2}


def check_step(edit: str, frm: State, to: State, verb: str) -> None:
    """Raises WrongState unless the table has this step."""
    if (frm, to, verb) in TRANSITIONS:
        return
    sources = sorted(a.value for a, b, v in TRANSITIONS if (b, v) == (to, verb))
    done = {"report": "validated", "reject": "rejected", "promote": "promoted", "rollback": "rolled back"}
    fix = {
        State.DRAFT: "Test it first: `catechism test`.",
        State.PRODUCTION: "It is in effect already; `catechism rollback` takes it back.",
        State.VALIDATED: "It is not in effect; `catechism reject` ends it.",
    }.get(frm, "Learn the fact again: that makes a new version.")
    raise WrongState(
        f"{edit} is {frm} and cannot be {done.get(verb, verb)}, only one that is {' or '.join(sources)}. {fix}"
    )


def is_lower(risk: Risk, than: Risk) -> bool:
    """Whether a risk class is less strict than another. The classes of experts are all above the others."""
    return _STRICTNESS.get(risk, 3) < _STRICTNESS.get(than, 3)


def role_of(risk: Risk) -> str | None:
    """The role that one approver has to carry; None where anybody will do."""
    return f"domain_expert:{risk.value}" if risk in EXPERTS else None


@dataclass(frozen=True, slots=True)
class Policy:
    """How many approvals each risk class takes. For the classes of experts one of them has to be an expert's.

    Attributes:
        approvals: number of approvals by risk class, without the author's. The default is that of a store that one
            person keeps: none for low and standard, one for high, two for medical, legal, finance and safety.
        lifetime: how long an approval counts.
    """

    approvals: Mapping[Risk, int] = field(
        default_factory=lambda: {Risk.LOW: 0, Risk.STANDARD: 0, Risk.HIGH: 1, **dict.fromkeys(EXPERTS, 2)}
    )
    lifetime: timedelta = timedelta(days=14)

    def __post_init__(self) -> None:
        missing = [risk.value for risk in Risk if self.approvals.get(risk, -1) < 0]
        if missing:
            raise UsageError(f"The policy has no number of approvals for {', '.join(missing)}. Give each 0 or more.")

    @classmethod
    def team(cls) -> Policy:
        """The policy for several people: none for low, one for standard, two for high and for experts' classes."""
        return cls({Risk.LOW: 0, Risk.STANDARD: 1, Risk.HIGH: 2, **dict.fromkeys(EXPERTS, 2)})

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "approvals": {risk.value: self.approvals[risk] for risk in Risk},
            "lifetime_s": int(self.lifetime.total_seconds()),
        }

    def counting(self, edit: EditVersion, approvals: Sequence[Approval], at: str) -> tuple[Approval, ...]:
        """The approvals that count at a time: for this very content, not expired, one of each person, not the author's.

        Raises:
            Denied: there are too few, or none of them is an expert's where one has to be.
        """
        counted: dict[str, Approval] = {}
        for approval in approvals:
            is_current = approval.subject == edit.to_approve and approval.at <= at < approval.expires_at
            if is_current and name_key(approval.by) != name_key(edit.author):
                counted[name_key(approval.by)] = approval
        needed, role = self.approvals[edit.risk], role_of(edit.risk)
        is_short_of_expert = bool(needed and role) and not any(role in a.roles for a in counted.values())
        if len(counted) < needed or is_short_of_expert:
            expert = f", of which 1 from a {role}" if role else ""
            names = f" ({', '.join(a.by for a in counted.values())})" if counted else ""
            raise Denied(
                f"{edit.id} is of risk {edit.risk} and needs {needed} approval{'s' * (needed != 1)}{expert}; it has "
                f"{len(counted)}{names}. Let somebody else than its author approve it: `catechism approve {edit.id}`."
            )
        return tuple(counted.values())
