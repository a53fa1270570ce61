"""What the registry hands in and out: values that do not change, each with its JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from catechism.hashing import digest_json
from catechism.types import JSON, Catechism, Fact, Risk

if TYPE_CHECKING:
    from catechism.delta import Delta


class State(StrEnum):
    """Where an edit version stands. The steps between them are in `catechism.registry.policy`."""

    DRAFT = "draft"
    VALIDATED = "validated"
    SHADOW = "shadow"
    CANARY = "canary"
    PRODUCTION = "production"
    RETIRED = "retired"
    ROLLED_BACK = "rolled_back"
    REJECTED = "rejected"


#: What an edit may be made for.
KINDS = ("insert", "correct", "delete", "merge", "revert")


@dataclass(frozen=True, slots=True)
class Draft:
    """An edit that somebody made and wants to keep.

    Attributes:
        catechism: the fact with its exam.
        base: digest of the base model that it was made on.
        method: name of the method, "explicit" where the weights stay as they are.
        kind: one of `KINDS`.
        config: the method's settings.
        seed: of everything random in it.
        locus: evidence for the place that was edited.
        why: the reason for method and place, in words.
        delta: the change; None for an edit that stays text beside the weights.
        training: the rows that the method learned from.
        author: who made it; "" takes the fact's author.
        risk: None takes the fact's. It may not be lower.
        supersedes: the edit that this one replaces when it is promoted; an id, a prefix of one or of a digest.
    """

    catechism: Catechism
    base: str
    method: str
    kind: str = "correct"
    config: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    seed: int = 0
    locus: JSON = None
    why: str = ""
    delta: Delta | None = None
    training: Sequence[Mapping[str, JSON]] = ()
    author: str = ""
    risk: Risk | None = None
    supersedes: str | None = None


@dataclass(frozen=True, slots=True)
class EditVersion:
    """One version of one edit, as the registry knows it.

    Attributes:
        id: ``E`` and 16 hexadecimal digits, a function of the content.
        n: 1, or one more than the version that it supersedes or repeats.
        state: where it stands.
        digest: sha256 of its manifest; names its sealed folder.
        fact: what it teaches.
        kind, method, config, seed, locus, why: as in `Draft`.
        base: digest of the base model.
        artifact: digest of its delta; None for an edit that stays text.
        dataset: sha256 of the rows that it was trained on, as canonical JSON lines.
        risk: its risk class.
        author: who made it.
        created_at: when, ISO 8601 in UTC.
        supersedes: id of the edit that it replaces.
        report: digest of the latest evaluation; None before the first.
        verdict: what the gates said about that evaluation.
        gone: names of the files that sealing destroyed; empty for an edit that is not sealed.
    """

    id: str
    n: int
    state: State
    digest: str
    fact: Fact
    kind: str
    method: str
    config: Mapping[str, JSON]
    seed: int
    locus: JSON
    why: str
    base: str
    artifact: str | None
    dataset: str
    risk: Risk
    author: str
    created_at: str
    supersedes: str | None = None
    report: str | None = None
    verdict: Mapping[str, JSON] | None = None
    gone: frozenset[str] = frozenset()

    @property
    def sealed(self) -> bool:
        """Whether what would allow the way back was destroyed. Then `fact` says nothing."""
        return bool(self.gone)

    @property
    def removes(self) -> tuple[str, ...]:
        """Ids of the edits that a deletion takes out of effect."""
        return self._of_locus("removes")

    @property
    def forgets(self) -> tuple[str, ...]:
        """Digests of the facts that a deletion forgets, see `catechism.registry.manifest.forget_key`."""
        return self._of_locus("forgets")

    def _of_locus(self, name: str) -> tuple[str, ...]:
        held = self.locus.get(name) if self.kind == "delete" and isinstance(self.locus, dict) else None
        return tuple(str(one) for one in held) if isinstance(held, list) else ()

    @property
    def subject(self) -> str:
        """What the fact is about."""
        return self.fact.subject

    @property
    def object(self) -> str:
        """What the model says from now on."""
        return self.fact.object

    @property
    def passed(self) -> bool:
        """Whether the latest verdict is a pass. No verdict is none."""
        return self.verdict is not None and self.verdict.get("status") == "PASS"

    @property
    def to_approve(self) -> str:
        """Digest of what an approval is given for: manifest, report and verdict. A change of any makes it another."""
        verdict = None if self.verdict is None else digest_json(dict(self.verdict))
        return digest_json({"manifest": self.digest, "report": self.report, "verdict": verdict})

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        fact = self.fact
        return {
            "edit": self.id, "version": self.n, "state": self.state.value, "digest": self.digest,
            "subject": fact.subject, "relation": fact.relation, "object": fact.object, "old_object": fact.old_object,
            "prompt": fact.prompt, "statement": fact.sentence, "valid_from": fact.valid_from,
            "valid_to": fact.valid_to, "confidence": fact.confidence, "domain": fact.domain,
            "sources": [_source(fact, i) for i in range(len(fact.sources))],
            "kind": self.kind, "method": self.method, "config": dict(self.config), "seed": self.seed,
            "locus": self.locus, "why": self.why, "base": self.base, "artifact": self.artifact,
            "dataset": self.dataset, "risk": self.risk.value, "author": self.author, "created_at": self.created_at,
            "supersedes": self.supersedes, "report": self.report,
            "verdict": None if self.verdict is None else dict(self.verdict), "sealed": sorted(self.gone),
        }  # fmt: skip


def _source(fact: Fact, i: int) -> JSON:
    source = fact.sources[i]
    return {"uri": source.uri, "retrieved_at": source.retrieved_at, "sha256": source.sha256, "quote": source.quote}


@dataclass(frozen=True, slots=True)
class Approval:
    """Somebody's consent to exactly one manifest, report and verdict.

    Attributes:
        id: its number.
        edit: id of the edit.
        by: who gave it.
        roles: in what roles, ``domain_expert:medical`` for instance.
        subject: `EditVersion.to_approve` at that time; it counts for nothing else.
        comment: in words.
        at, expires_at: ISO 8601 times in UTC between which it counts.
    """

    id: int
    edit: str
    by: str
    roles: tuple[str, ...]
    subject: str
    comment: str
    at: str
    expires_at: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "approval": self.id, "edit": self.edit, "by": self.by, "roles": list(self.roles), "subject": self.subject,
            "comment": self.comment, "at": self.at, "expires_at": self.expires_at,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Entry:
    """One edit of a composition: its id, the digest of its manifest, and how strongly it is put on."""

    edit: str
    digest: str
    scale: float = 1.0

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"edit": self.edit, "digest": self.digest, "scale": self.scale}


@dataclass(frozen=True, slots=True)
class Composition:
    """The edits that answer together, in the order in which they were promoted.

    Attributes:
        base: digest of the base model; "" where there is no edit.
        entries: the edits.
    """

    base: str
    entries: tuple[Entry, ...]

    @property
    def cid(self) -> str:
        """The one identity of what is served: digest of base and entries."""
        return digest_json({"base": self.base, "entries": [entry.json() for entry in self.entries]})

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"cid": self.cid, "base": self.base, "entries": [entry.json() for entry in self.entries]}


@dataclass(frozen=True, slots=True)
class Epoch:
    """One change of what is served. Epochs are only ever added; a rollback is a new one.

    Attributes:
        number: 0 is the empty beginning.
        cid: the composition that is in effect from here on.
        actor: who did it.
        reason: in words.
        at: ISO 8601 time in UTC.
    """

    number: int
    cid: str
    actor: str
    reason: str
    at: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"epoch": self.number, "cid": self.cid, "actor": self.actor, "reason": self.reason, "at": self.at}


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One line of the audit: who did what to what. Its digest covers the digest of the line before.

    Attributes:
        seq: 1, 2, 3 and so on without a gap.
        at: ISO 8601 time in UTC.
        actor: who.
        action: what, "edit.promote" for instance.
        object: to what, an id as a rule.
        body: everything else.
        digest: sha256 of byte 1, the previous digest and this entry as canonical JSON.
    """

    seq: int
    at: str
    actor: str
    action: str
    object: str
    body: Mapping[str, JSON]
    digest: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "seq": self.seq, "at": self.at, "actor": self.actor, "action": self.action, "object": self.object,
            "body": dict(self.body), "digest": self.digest,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not prove itself: which object, what is wrong, what to do."""

    object: str
    problem: str
    fix: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"object": self.object, "problem": self.problem, "fix": self.fix}


@dataclass(frozen=True, slots=True)
class Seal:
    """What was destroyed of an edit, so that nobody can bring it back; the audit keeps the hashes.

    Attributes:
        edit: its id.
        by: who did it.
        at: ISO 8601 time in UTC.
        gone: each destroyed file with the digest that it had.
        kept: each file that is left, with its digest; the delta of a deletion that is in effect, for instance.
        reports: digests of the evaluations whose text was destroyed.
        fact: digest of the fact whose text was destroyed.
    """

    edit: str
    by: str
    at: str
    gone: Mapping[str, str]
    kept: Mapping[str, str]
    reports: tuple[str, ...]
    fact: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "edit": self.edit, "by": self.by, "at": self.at, "gone": dict(self.gone), "kept": dict(self.kept),
            "reports": list(self.reports), "fact": self.fact,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Verification:
    """What `Registry.verify` found: how many objects of each kind were proven, every problem, and what is sealed."""

    checked: Mapping[str, int]
    problems: tuple[Problem, ...]
    sealed: tuple[Seal, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether everything proved itself."""
        return not self.problems

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        problems: list[JSON] = [problem.json() for problem in self.problems]
        sealed: list[JSON] = [seal.json() for seal in self.sealed]
        return {"ok": self.ok, "checked": dict(self.checked), "problems": problems, "sealed": sealed}


@dataclass(frozen=True, slots=True)
class Sweep:
    """Leftovers of killed processes that were taken away: unfinished folders, and finished ones that nothing names."""

    unfinished: int
    orphans: int

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {"unfinished": self.unfinished, "orphans": self.orphans}
