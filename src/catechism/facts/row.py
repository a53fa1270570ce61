"""What one row of a feed means: from a JSON object to a catechism and back.

The keys are listed in ``docs/feed-format.md``, which is the norm. Nothing here knows about files or line numbers;
`catechism.facts.feed` puts the place in front of a message.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import cast

from catechism.errors import BadFact, BadFeed
from catechism.types import JSON, UNMOVED, Catechism, Fact, Kind, Question

MAX_OBJECT_CHARS = 2_000  # subjects, objects, answers
MAX_PROMPT_CHARS = 20_000  # everything that is asked

REQUIRED = ("prompt", "subject", "new_object")
KEYS = (
    *REQUIRED,
    *("old_object", "accept", "reject", "paraphrases", "reversed", "one_hop", "aliases"),
    *("neighbours", "same_subject", "unrelated", "relation", "id"),
)

#: Control characters, lone surrogates, line and paragraph separators; direction overrides, which make a text read
#: otherwise than it is stored; the byte order mark, which is invisible.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff]")
_FORBIDDEN_BUT_NEWLINE = re.compile(_FORBIDDEN.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
_PLACE = "{}"  # where the subject stands


def parse_row(row: Mapping[str, object], *, default_id: str) -> Catechism:
    """The catechism that a row stands for. Texts lose white space at their ends; repeated questions are dropped.

    Raises:
        BadFeed: an unknown or missing key, or a value of the wrong type.
        BadFact: a value that cannot be used: empty, control characters, too long, subject not in the prompt,
            old object equal to the new one, one prompt that must both change and stay.
    """
    _check_keys(row)
    reader = _Reader(row)
    subject, new = reader.text("subject"), reader.text("new_object")
    old = reader.text("old_object") if row.get("old_object") is not None else None
    prompt = _fill(reader.prompt("prompt", row["prompt"]), subject)
    if subject not in prompt:
        raise BadFact(_subject_missing(subject, prompt))
    accept = _unique((new, *reader.texts("accept")))
    reject = _unique(((old,) if old is not None else ()) + reader.texts("reject"))
    for right in accept:
        for wrong in reject:
            if _folded(right) == _folded(wrong):
                raise BadFact(
                    f"{wrong!r} is both an answer that passes and one that must be absent, so no model could pass. "
                    "Correct 'old_object' or 'reject', or leave the row out if nothing changes."
                )
    fact = Fact(
        prompt=prompt,
        subject=subject,
        object=new,
        old_object=old,
        relation=reader.text("relation") if row.get("relation") is not None else None,
        id=reader.id(default_id),
    )
    return Catechism(fact, _questions(reader, fact, accept, reject))


def dump_row(catechism: Catechism) -> dict[str, JSON]:
    """The row that `parse_row` reads back as this very catechism.

    Raises:
        BadFact: the catechism holds something that a row cannot say, or that `parse_row` would refuse.
    """
    fact = catechism.fact
    rewrites = catechism.of(Kind.REWRITE)
    row: dict[str, JSON] = {"prompt": fact.prompt, "subject": fact.subject, "new_object": fact.object}
    if fact.old_object is not None:
        row["old_object"] = fact.old_object
    if rewrites:
        row["accept"] = [a for a in rewrites[0].accept if a != fact.object]
        row["reject"] = [a for a in rewrites[0].reject if a != fact.old_object]
    row["paraphrases"] = [q.text for q in catechism.of(Kind.PARAPHRASE)]
    row["aliases"] = [_alias(fact, q.text) for q in catechism.of(Kind.ALIAS)]
    for key, kind in _ASKED.items():
        row[key] = [_dump_asked(q) for q in catechism.of(kind)]
    if fact.relation is not None:
        row["relation"] = fact.relation
    if fact.id:
        row["id"] = fact.id
    row = {key: value for key, value in row.items() if value != []}
    try:
        same = parse_row(row, default_id=fact.id) == catechism
    except BadFeed as error:  # wrong types inside a hand-made catechism
        raise BadFact(str(error)) from None
    if not same:
        raise BadFact(
            f"The catechism of fact {fact.id or fact.prompt!r} is not one that a feed row can hold. Put its questions "
            "in the order of docs/feed-format.md, the rewrite first, with the answers that a row would give them."
        )
    return row


_ASKED: Mapping[str, Kind] = {
    "reversed": Kind.REVERSED,
    "one_hop": Kind.ONE_HOP,
    "neighbours": Kind.NEIGHBOUR,
    "same_subject": Kind.SUBJECT,
    "unrelated": Kind.UNRELATED,
}
#: Lists about the subject itself, where ``{}`` stands for it.
_ABOUT_SUBJECT = frozenset({"paraphrases", "one_hop", "same_subject"})


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to a row's values. Every refusal names the key and what to write instead."""

    row: Mapping[str, object]

    def text(self, key: str) -> str:
        return _clean(key, self.row[key], limit=MAX_OBJECT_CHARS, newline=False)

    def prompt(self, key: str, value: object) -> str:
        return _clean(key, value, limit=MAX_PROMPT_CHARS, newline=True)

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(
            _clean(f"{key}[{i}]", value, limit=MAX_OBJECT_CHARS, newline=False)
            for i, value in enumerate(self.items(key))
        )

    def items(self, key: str) -> list[object]:
        value = self.row.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise BadFeed(f"{key!r} must be a list, got {_kind_of(value)}. Put it in square brackets.")
        return cast("list[object]", value)

    def id(self, default: str) -> str:
        value = self.row.get("id")
        if value is None:
            return default
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        return self.text("id")

    def asked(self, key: str, subject: str) -> list[tuple[str, tuple[str, ...]]]:
        """Prompts of a list with the answers given for them; an entry is a text or {prompt, answer}."""
        found: list[tuple[str, tuple[str, ...]]] = []
        for i, item in enumerate(self.items(key)):
            name, answers = f"{key}[{i}]", ()
            if isinstance(item, dict):
                entry = cast("dict[str, object]", item)
                if "prompt" not in entry or set(entry) - {"prompt", "answer"}:
                    raise BadFeed(f"{name} has the keys {sorted(entry)}. Give it 'prompt' and, if known, 'answer'.")
                answers, item = _answers(f"{name}.answer", entry.get("answer")), entry["prompt"]
            text = self.prompt(name, item)
            if key in _ABOUT_SUBJECT:
                text = _fill(text, subject)
            elif _PLACE in text:
                raise BadFact(f"{name} holds '{{}}', which stands for the subject in other keys only. Write it out.")
            found.append((text, answers))
        return found


def _questions(reader: _Reader, fact: Fact, accept: tuple[str, ...], reject: tuple[str, ...]) -> tuple[Question, ...]:
    aliases = reader.texts("aliases")
    questions = [Question(fact.prompt, Kind.REWRITE, accept, reject)]
    for i, item in enumerate(reader.items("paraphrases")):
        text = _fill(reader.prompt(f"paraphrases[{i}]", item), fact.subject)
        questions.append(Question(text, Kind.PARAPHRASE, accept, reject))
    for alias in aliases:
        questions.append(Question(fact.prompt.replace(fact.subject, alias), Kind.ALIAS, accept, reject))
    for key, kind in _ASKED.items():
        for text, given in reader.asked(key, fact.subject):
            answers = given
            if kind is Kind.REVERSED and not answers:
                answers = _unique((fact.subject, *aliases))
            if kind is Kind.ONE_HOP and not answers:
                raise BadFeed(
                    f"The one_hop prompt {text!r} has no answer. Make it an object with 'prompt' and 'answer'."
                )
            questions.append(Question(text, kind, answers))
    return _without_repeats(questions)


def _without_repeats(questions: list[Question]) -> tuple[Question, ...]:
    """Each text once. Asking it again with another expectation is a contradiction."""
    kept: dict[str, Question] = {}
    for question in questions:
        first = kept.setdefault(question.text, question)
        if (first.kind in UNMOVED) != (question.kind in UNMOVED):
            raise BadFact(
                f"{question.text!r} is listed as {first.kind} and as {question.kind}: it cannot both change and stay. "
                "Remove one of the two."
            )
        if first.accept != question.accept and first.accept and question.accept:
            raise BadFact(
                f"{question.text!r} is listed as {first.kind} and as {question.kind} with different answers. "
                "Remove one of the two."
            )
    return tuple(kept.values())


def _check_keys(row: Mapping[str, object]) -> None:
    for key in row:
        if key not in KEYS:
            close = get_close_matches(str(key), KEYS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Use one of: {', '.join(KEYS)}."
            raise BadFeed(f"Unknown key {key!r}. {hint}")
    missing = [key for key in REQUIRED if row.get(key) is None]
    if missing:
        raise BadFeed(f"No value for {', '.join(repr(k) for k in missing)}. Every row needs {', '.join(REQUIRED)}.")


def _clean(key: str, value: object, *, limit: int, newline: bool) -> str:
    if not isinstance(value, str):
        fix = "Put it in quotes." if isinstance(value, int | float) else "Give one text."
        raise BadFeed(f"{key!r} must be a text, got {_kind_of(value)}. {fix}")
    if found := (_FORBIDDEN_BUT_NEWLINE if newline else _FORBIDDEN).search(value):
        char = found.group()
        name = unicodedata.name(char, "control character")
        raise BadFact(f"{key!r} holds U+{ord(char):04X} ({name}) at position {found.start()}. Remove it.")
    text = value.strip()
    if not text:
        raise BadFact(f"{key!r} is empty. Fill it in, or leave the key out if it is optional.")
    if len(text) > limit:
        raise BadFact(f"{key!r} has {len(text)} characters, at most {limit} are allowed. Shorten it.")
    return text


def _answers(key: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return _unique(tuple(_clean(key, v, limit=MAX_OBJECT_CHARS, newline=False) for v in values))


def _fill(text: str, subject: str) -> str:
    # A subject that itself holds "{}" is always written out.
    return text if _PLACE in subject else text.replace(_PLACE, subject)


def _subject_missing(subject: str, prompt: str) -> str:
    message = f"The subject {subject!r} is not in the prompt {prompt[:200]!r}. "
    at = prompt.casefold().find(subject.casefold())
    if at >= 0 and len(prompt.casefold()) == len(prompt):
        return message + f"The prompt spells it {prompt[at : at + len(subject)]!r}; spell both the same way."
    return message + "Spell it there exactly as in 'subject', or write {} in its place."


def _dump_asked(question: Question) -> JSON:
    if not question.accept:
        return question.text
    answer: JSON = question.accept[0] if len(question.accept) == 1 else list(question.accept)
    return {"prompt": question.text, "answer": answer}


def _alias(fact: Fact, text: str) -> str:
    """The name that stands in `text` where the fact's prompt has its subject."""
    pieces = fact.prompt.split(fact.subject)
    length = (len(text) - sum(map(len, pieces))) // max(len(pieces) - 1, 1)
    return text[len(pieces[0]) : len(pieces[0]) + length]


def _folded(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _unique(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))


def _kind_of(value: object) -> str:
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),  # before the numbers, since a bool is one
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "an object"),
        (str, "a text"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")
