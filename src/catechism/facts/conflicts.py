"""Duplicates and contradictions, inside a feed and with the edits that are active.

Two facts are about the same thing when they share a slot: the same relation of the same subject, or the same prompt
in other words. With the same object they are duplicates; with another object, at a time that both cover, they
contradict each other. So a relation is taken to have one object at a time; what has several at once (a person's
children) belongs in several relations or in one object.

A ledger holds no more than one fact in memory. What it has seen lies in a private temporary database on disk.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from enum import StrEnum
from hashlib import blake2b
from itertools import islice
from types import TracebackType
from typing import Any

from catechism.facts.bank import SUBJECT, TemplateBank
from catechism.facts.belief import Belief
from catechism.matching import fold, name_key
from catechism.types import JSON, Fact, Risk, Source

MAX_FINDINGS = 20  # for one fact; more of them say nothing new
_CACHE_KIB = 32 << 10  # what the database may hold in memory

#: The fields of a fact as they are stored, the sources last.
_FIELDS = (*(field.name for field in fields(Fact) if field.name != "sources"), "sources")

_WORDS = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*|[{}]+")
#: Words that a question and a statement of one fact do not share.
_FUNCTION_WORDS = frozenset("a an the is are do does what which who whom whose how name tell me please".split())


class FindingKind(StrEnum):
    """What is the matter with a fact."""

    EXACT_DUPLICATE = "exact_duplicate"  # of an earlier fact of the feed, in the same words
    SEMANTIC_DUPLICATE = "semantic_duplicate"  # of an earlier fact of the feed, in other words
    CONTRADICTION = "contradiction"  # an earlier fact of the feed says otherwise
    ACTIVE_DUPLICATE = "active_duplicate"  # an active edit says so already
    ACTIVE_CONTRADICTION = "active_contradiction"  # an active edit says otherwise
    KNOWN = "known"  # the model says so already, in every phrasing
    OTHER_BELIEF = "other_belief"  # the model says otherwise than the fact's old object


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that somebody should know before a fact is taught.

    Attributes:
        kind: what it is.
        fact: the fact at hand.
        other: the fact that it duplicates or contradicts; None where the model is the other side.
        reason: what was found, in words.
        advice: what to do.
    """

    kind: FindingKind
    fact: Fact
    other: Fact | None
    reason: str
    advice: str

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "kind": self.kind.value,
            "fact": self.fact.id or self.fact.sentence,
            "other": None if self.other is None else self.other.id or self.other.sentence,
            "reason": self.reason,
            "advice": self.advice,
        }


class Ledger:
    """The facts seen so far, and what each new one has to do with them.

    Args:
        bank: finds facts in other words: its templates give the relation, its aliases the subject.
        active: facts of the edits that are in force.
    """

    def __init__(self, bank: TemplateBank | None = None, active: Iterable[Fact] = ()) -> None:
        self._bank = bank
        self._database = sqlite3.connect("", isolation_level=None)  # a temporary file that nobody else sees
        self._database.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute("CREATE TABLE fact (n INTEGER PRIMARY KEY, active INTEGER NOT NULL, body TEXT NOT NULL)")
        self._database.execute("CREATE TABLE slot (digest BLOB, n INTEGER, PRIMARY KEY (digest, n)) WITHOUT ROWID")
        for fact in active:
            self._keep(fact, slots(fact, bank), active=True)

    def add(self, fact: Fact) -> list[Finding]:
        """What a fact has to do with the earlier ones, at most `MAX_FINDINGS`; then it is one of them.

        An exact duplicate of an earlier fact of the feed is not kept.
        """
        keys = slots(fact, self._bank)
        sharing = self._sharing(keys)
        found = (finding for other, active in sharing if (finding := self._compare(fact, other, active)))
        findings = list(islice(found, MAX_FINDINGS))
        if all(finding.kind is not FindingKind.EXACT_DUPLICATE for finding in findings):
            self._keep(fact, keys, active=False)
        return findings

    def close(self) -> None:
        """Drop the temporary database."""
        self._database.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _keep(self, fact: Fact, keys: frozenset[bytes], *, active: bool) -> None:
        body = json.dumps([getattr(fact, name) for name in _FIELDS[:-1]] + [[_source(s) for s in fact.sources]])
        number = self._database.execute("INSERT INTO fact (active, body) VALUES (?, ?)", (active, body)).lastrowid
        self._database.executemany("INSERT INTO slot VALUES (?, ?)", [(key, number) for key in sorted(keys)])

    def _sharing(self, keys: frozenset[bytes]) -> Iterator[tuple[Fact, bool]]:
        marks = ", ".join("?" * len(keys))
        rows = self._database.execute(
            f"SELECT active, body FROM fact WHERE n IN (SELECT n FROM slot WHERE digest IN ({marks})) ORDER BY n",
            sorted(keys),
        )
        yield from ((_fact(body), bool(active)) for active, body in rows)

    def _compare(self, fact: Fact, other: Fact, active: bool) -> Finding | None:
        named = f"active edit {_name(other)}" if active else _name(other)
        if name_key(fact.object) == name_key(other.object):
            if active:
                reason = f"The {named} says {other.object!r} already."
                return Finding(FindingKind.ACTIVE_DUPLICATE, fact, other, reason, "Leave it out: nothing would change.")
            exact = _is_exact(fact, other)
            kind = FindingKind.EXACT_DUPLICATE if exact else FindingKind.SEMANTIC_DUPLICATE
            reason = f"It says what {named} says{'' if exact else ', in other words'}: {other.sentence!r}"
            advice = "Leave one of the two out." if exact else "Keep one of the two, with both phrasings."
            return Finding(kind, fact, other, reason, advice)
        if not _overlap(fact, other):
            return None
        reason = f"It says {fact.object!r}, {named} says {other.object!r}, and both hold at the same time."
        if active:
            advice = "Let it supersede the active edit, or give it dates at which that one does not hold."
            return Finding(FindingKind.ACTIVE_CONTRADICTION, fact, other, reason, advice)
        advice = "Find out which is right and remove the other, or give them dates that do not overlap."
        return Finding(FindingKind.CONTRADICTION, fact, other, reason, advice)


def find_conflicts(
    facts: Iterable[Fact], *, bank: TemplateBank | None = None, active: Iterable[Fact] = ()
) -> Iterator[Finding]:
    """Every duplicate and contradiction of a stream of facts, as soon as its second side is seen."""
    with Ledger(bank, active) as ledger:
        for fact in facts:
            yield from ledger.add(fact)


def judge_belief(fact: Fact, belief: Belief) -> Finding | None:
    """What the model's belief means for a fact; None where it is an ordinary thing to teach."""
    if belief.is_known:
        return Finding(
            FindingKind.KNOWN,
            fact,
            None,
            f"The model says {belief.answer!r} already, in each of {len(belief.asked)} phrasings.",
            "Make no edit; keep the catechism as a probe.",
        )
    if fact.old_object is not None and not belief.agrees and not belief.says_old:
        return Finding(
            FindingKind.OTHER_BELIEF,
            fact,
            None,
            f"The model says {belief.answer!r}, neither the new object nor the old one, {fact.old_object!r}.",
            "Correct 'old_object', or leave it out if the model need not be of that opinion.",
        )
    return None


def slots(fact: Fact, bank: TemplateBank | None = None) -> frozenset[bytes]:
    """Digests of what a fact is about: its relation of its subject, and its prompt less function words."""
    subject = name_key(bank.canonical(fact.subject) if bank else fact.subject)
    relations = {fact.relation, bank.read_prompt(fact.prompt, fact.subject) if bank else None} - {None}
    found = {_digest("relation", name_key(str(relation)), subject) for relation in relations}
    return frozenset({*found, _digest("prompt", _prompt_words(fact), subject)})


def _prompt_words(fact: Fact) -> str:
    """The prompt's words in order, without the subject and without words that only make it a question."""
    text = fold(fact.prompt.replace(fact.subject, SUBJECT)).text
    return " ".join(word for word in _WORDS.findall(text) if word not in _FUNCTION_WORDS)


def _digest(*parts: str) -> bytes:
    return blake2b("\0".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _is_exact(fact: Fact, other: Fact) -> bool:
    """Whether two facts with one object name subject and prompt, or subject and relation, alike."""
    if name_key(fact.subject) != name_key(other.subject):
        return False
    related = fact.relation is not None and fact.relation == other.relation
    return related or fold(fact.prompt).text == fold(other.prompt).text


def _overlap(one: Fact, other: Fact) -> bool:
    """Whether both hold on some day. ISO dates compare as texts; a missing date is open."""
    starts, ends = (one.valid_from or "", other.valid_from or ""), (one.valid_to or "9999", other.valid_to or "9999")
    return max(starts) <= min(ends)


def _name(fact: Fact) -> str:
    return f"fact {fact.id}" if fact.id else repr(fact.sentence)


def _source(source: Source) -> tuple[str, str, str, str]:
    return source.uri, source.retrieved_at, source.sha256, source.quote


def _fact(body: str) -> Fact:
    *values, sources = json.loads(body)
    known: dict[str, Any] = dict(zip(_FIELDS, values, strict=False))
    known["risk"] = Risk(known["risk"])
    return Fact(**known, sources=tuple(Source(*source) for source in sources))
