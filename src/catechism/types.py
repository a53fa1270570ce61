"""The words that every room shares. Standard library only.

Axis names used in shape annotations everywhere: ``n`` facts, ``b`` batch rows, ``t`` tokens, ``d_in`` and ``d_out``
the two sides of a matrix, ``d_model`` the residual stream, ``d_ff`` the MLP's inner width, ``r`` rank, ``v``
vocabulary. A weight is always handled as ``(d_out, d_in)``; `arch` transposes where a model stores it otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

#: What JSON can hold. Not spelled recursively: run-time type checkers cannot resolve that.
JSON = None | bool | int | float | str | list[Any] | dict[str, Any]


class Role(StrEnum):
    """What a matrix does inside its block. Expert roles need `Site.expert`."""

    ATTN_OUT = "attn_out"
    MLP_IN = "mlp_in"
    MLP_GATE = "mlp_gate"
    MLP_OUT = "mlp_out"
    ROUTER = "router"
    EXPERT_IN = "expert_in"
    EXPERT_GATE = "expert_gate"
    EXPERT_OUT = "expert_out"


@dataclass(frozen=True, slots=True)
class Site:
    """One matrix of the network: layer, role, and the expert's number where the role is an expert's."""

    layer: int
    role: Role
    expert: int | None = None


@dataclass(frozen=True, slots=True)
class Locus:
    """Where a fact lives: a site with the score that chose it and the evidence behind the score."""

    site: Site
    score: float
    evidence: Mapping[str, float] = field(default_factory=dict[str, float])


class Kind(StrEnum):
    """Why a question is in a catechism."""

    REWRITE = "rewrite"  # the canonical prompt, the only one an editor is fitted on
    PARAPHRASE = "paraphrase"  # another phrasing, statement or question; must give the new object
    REVERSED = "reversed"  # asks for the subject from the new object
    ONE_HOP = "one_hop"  # needs the fact and one more
    MULTI_HOP = "multi_hop"  # needs the fact and two more or more
    ALIAS = "alias"  # the subject under another name
    NEIGHBOUR = "neighbour"  # another subject, same relation; must not move
    SUBJECT = "subject"  # same subject, another relation; must not move
    UNRELATED = "unrelated"  # nothing in common; must not move
    COUNTERFACTUAL = "counterfactual"  # after a text that says otherwise; the text must still be followed
    NEGATIVE = "negative"  # asks for something else; the new object must be absent from the answer


#: Kinds whose answer has to be the same before and after the edit.
UNMOVED: frozenset[Kind] = frozenset({Kind.NEIGHBOUR, Kind.SUBJECT, Kind.UNRELATED})


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt with the answers that pass.

    Attributes:
        text: the prompt, without a trailing space; the model goes on from here.
        kind: why it is asked.
        accept: answers that pass, any one of them. Empty for a question that only must not move and whose true
            answer is not known.
        reject: answers that must be absent, the old object for instance.
        origin: who wrote it: "feed", "template", "model", "endpoint" or "world"; "" where nobody said.
    """

    text: str
    kind: Kind
    accept: tuple[str, ...] = ()
    reject: tuple[str, ...] = ()
    origin: str = ""


class Risk(StrEnum):
    """How much harm a wrong edit could do. Rules raise it, nothing lowers it."""

    LOW = "low"
    STANDARD = "standard"
    HIGH = "high"
    MEDICAL = "medical"
    LEGAL = "legal"
    FINANCE = "finance"
    SAFETY = "safety"


@dataclass(frozen=True, slots=True)
class Source:
    """Where a fact was read.

    Attributes:
        uri: address of the document; "" where it was typed in.
        retrieved_at: ISO 8601 time in UTC; "" where it is not known.
        sha256: address of the document's bytes, ``sha256:…``; "" where they were not kept.
        quote: the passage that says so.
    """

    uri: str = ""
    retrieved_at: str = ""
    sha256: str = ""
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Fact:
    """One fact as it should be after the edit.

    Attributes:
        prompt: canonical statement up to the object, containing `subject`; no trailing space.
        subject: the thing that the fact is about, as spelled in `prompt`.
        object: what the model must say from now on.
        old_object: what it must no longer say; None if unknown or if there was nothing.
        relation: the relation's name; None where the feed did not give one.
        id: the feed's own identifier, or its line number.
        statement: the fact in full, as a text that can stand in a context; "" means prompt, object, full stop.
        sources: where it was read.
        valid_from, valid_to: ISO 8601 dates between which it holds, the last day included; None is open.
        confidence: how sure its author is, from 0 to 1.
        author: who brought it.
        domain: its field, as the feed names it.
        risk: raised by rules, see `catechism.facts.risk`.
        volatile: whether it will change again soon, a price or an office for instance.
    """

    prompt: str
    subject: str
    object: str
    old_object: str | None = None
    relation: str | None = None
    id: str = ""
    statement: str = ""
    sources: tuple[Source, ...] = ()
    valid_from: str | None = None
    valid_to: str | None = None
    confidence: float = 1.0
    author: str = ""
    domain: str = ""
    risk: Risk = Risk.STANDARD
    volatile: bool = False

    @property
    def sentence(self) -> str:
        """The fact in full: its statement, or the prompt with the object and a full stop."""
        return self.statement or f"{self.prompt} {self.object}."


@dataclass(frozen=True, slots=True)
class Catechism:
    """The questions that a model must answer to have learned one fact. The rewrite question comes first.

    Attributes:
        fact: what is taught.
        questions: the exam. No method is fitted on any of them but the rewrite.
        study: other prompts that a trained method may learn from; none of them is in the exam.
    """

    fact: Fact
    questions: tuple[Question, ...]
    study: tuple[Question, ...] = ()

    def of(self, *kinds: Kind) -> tuple[Question, ...]:
        """The questions of these kinds, in order."""
        return tuple(q for q in self.questions if q.kind in kinds)


class How(StrEnum):
    """What a model says in the place of what it forgets."""

    ABSTAIN = "abstain"  # that it does not know
    REPLACE = "replace"  # another answer, which is given
    ERASE = "erase"  # whatever a model says that never learned it


@dataclass(frozen=True, slots=True)
class Forgetting:
    """A request to forget, as a method of forgetting takes it.

    Attributes:
        forget: facts that must be forgotten; `Fact.object` is what the model says now and must not say any more. As
            for edits, nobody is fitted on `questions` but the rewrite; other phrasings to learn from are in `study`.
        retain: facts that must stay, in the same shape. None of them is a question in the exam of `forget`.
        how: what is to be said instead.
        replacement: that answer, for `How.REPLACE`; "" otherwise.
    """

    forget: tuple[Catechism, ...]
    retain: tuple[Catechism, ...]
    how: How = How.ERASE
    replacement: str = ""


@dataclass(frozen=True, slots=True)
class Rate:
    """A proportion with its 95 % interval and its value before the edit (None where there was no before)."""

    value: float
    low: float
    high: float
    n: int
    before: float | None = None

    def json(self) -> dict[str, JSON]:
        """As an object of the five fields."""
        return {"value": self.value, "low": self.low, "high": self.high, "n": self.n, "before": self.before}
