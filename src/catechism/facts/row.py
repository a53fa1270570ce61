"""What one row of a feed means: from a JSON object to a catechism and back.

The keys are listed in ``docs/feed-format.md``, which is the norm. Nothing here knows about files or line numbers;
`catechism.facts.feed` puts the place in front of a message.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from typing import cast

from catechism.errors import BadFact, BadFeed
from catechism.facts import provenance
from catechism.facts.checks import MAX_PROMPT_CHARS, clean, kind_of, script_of
from catechism.facts.provenance import dump_provenance, read_provenance
from catechism.matching import fold
from catechism.types import JSON, UNMOVED, Catechism, Fact, Kind, Question

REQUIRED = ("prompt", "subject", "new_object")
KEYS = (
    *REQUIRED,
    *("old_object", "accept", "reject", "paraphrases", "reversed", "one_hop", "multi_hop", "aliases"),
    *("neighbours", "same_subject", "unrelated", "counterfactuals", "negatives", "study", "relation", "id"),
    *provenance.KEYS,
)
ORIGIN = "feed"

_PLACE = "{}"  # where the subject stands


def parse_row(row: Mapping[str, object], *, default_id: str) -> Catechism:
    """The catechism that a row stands for. Texts lose white space at their ends; repeated questions are dropped.

    Every question has the origin "feed".

    Raises:
        BadFeed: an unknown or missing key, or a value of the wrong type.
        BadFact: a value that cannot be used: empty, control characters, too long, subject not in the prompt,
            old object equal to the new one, one prompt that must both change and stay or is both exam and study.
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
            if fold(right).text == fold(wrong).text:
                raise BadFact(
                    f"{wrong!r} is both an answer that passes and one that must be absent, so no model could pass. "
                    "Correct 'old_object' or 'reject', or leave the row out if nothing changes."
                )
    origin = read_provenance(row)
    fact = Fact(
        prompt=prompt,
        subject=subject,
        object=new,
        old_object=old,
        relation=reader.text("relation") if row.get("relation") is not None else None,
        id=reader.id(default_id),
        **{field.name: getattr(origin, field.name) for field in fields(origin)},
    )
    questions = _questions(reader, fact, accept, reject)
    return Catechism(fact, questions, _study(reader, fact, questions))


def read_asked(fact: Fact, key: str, item: object, *, origin: str) -> tuple[Question, ...]:
    """The questions that one entry of a row's list stands for, checked as if a feed had brought it.

    Args:
        fact: what the entry is about.
        key: the list, ``paraphrases`` for instance.
        item: the entry, from whoever wrote it.
        origin: who wrote it.

    Raises: BadFeed or BadFact, as `parse_row`.
    """
    row = {"prompt": fact.prompt, "subject": fact.subject, "new_object": fact.object, "old_object": fact.old_object}
    catechism = parse_row({**row, key: [item]}, default_id="1")
    return tuple(replace(q, origin=origin) for q in catechism.questions if q.kind is not Kind.REWRITE)


def dump_row(catechism: Catechism) -> dict[str, JSON]:
    """The row that `parse_row` reads back as this very catechism, but for the origins of its questions.

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
    row["study"] = [_dump_study(q) for q in catechism.study]
    row |= dump_provenance(fact)
    row = {key: value for key, value in row.items() if value != []}
    try:
        same = parse_row(row, default_id=fact.id) == _of_feed(catechism)
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
    "multi_hop": Kind.MULTI_HOP,
    "neighbours": Kind.NEIGHBOUR,
    "same_subject": Kind.SUBJECT,
    "unrelated": Kind.UNRELATED,
    "counterfactuals": Kind.COUNTERFACTUAL,
    "negatives": Kind.NEGATIVE,
}
#: Lists about the subject itself, where ``{}`` stands for it.
_ABOUT_SUBJECT = frozenset({"paraphrases", "one_hop", "multi_hop", "same_subject", "counterfactuals"})
#: Kinds that are nothing without an answer.
_NEEDS_ANSWER = frozenset({Kind.ONE_HOP, Kind.MULTI_HOP, Kind.COUNTERFACTUAL})


@dataclass(frozen=True, slots=True)
class _Reader:
    """Typed access to a row's values. Every refusal names the key and what to write instead."""

    row: Mapping[str, object]

    def text(self, key: str) -> str:
        return clean(key, self.row[key])

    def prompt(self, key: str, value: object) -> str:
        return clean(key, value, limit=MAX_PROMPT_CHARS, newline=True)

    def texts(self, key: str) -> tuple[str, ...]:
        return tuple(clean(f"{key}[{i}]", value) for i, value in enumerate(self.items(key)))

    def items(self, key: str) -> list[object]:
        value = self.row.get(key)
        if value is None:
            return []
        if not isinstance(value, list):
            raise BadFeed(f"{key!r} must be a list, got {kind_of(value)}. Put it in square brackets.")
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
    questions = [Question(fact.prompt, Kind.REWRITE, accept, reject, ORIGIN)]
    for i, item in enumerate(reader.items("paraphrases")):
        text = _fill(reader.prompt(f"paraphrases[{i}]", item), fact.subject)
        questions.append(Question(text, Kind.PARAPHRASE, accept, reject, ORIGIN))
    for alias in aliases:
        questions.append(Question(fact.prompt.replace(fact.subject, alias), Kind.ALIAS, accept, reject, ORIGIN))
    for key, kind in _ASKED.items():
        for text, given in reader.asked(key, fact.subject):
            answers = given
            if kind is Kind.REVERSED and not answers:
                answers = _unique((fact.subject, *aliases))
            if kind in _NEEDS_ANSWER and not answers:
                raise BadFeed(f"The {key} prompt {text!r} has no answer. Make it an object with 'prompt' and 'answer'.")
            absent = accept if kind is Kind.NEGATIVE else ()
            questions.append(Question(text, kind, answers, absent, ORIGIN))
    return _without_repeats(questions)


def _study(reader: _Reader, fact: Fact, exam: tuple[Question, ...]) -> tuple[Question, ...]:
    """Prompts to learn from: a text is another phrasing of the fact, an object names what must not move."""
    taught, found = exam[0], dict[str, Question]()
    for i, item in enumerate(reader.items("study")):
        name = f"study[{i}]"
        if isinstance(item, dict):
            question = _study_unmoved(reader, name, cast("dict[str, object]", item))
        else:
            text = _fill(reader.prompt(name, item), fact.subject)
            question = Question(text, Kind.PARAPHRASE, taught.accept, taught.reject, ORIGIN)
        if any(question.text == asked.text for asked in exam):
            raise BadFact(f"{name} is also asked in the exam: {question.text!r}. Remove it from one of the two.")
        if found.setdefault(question.text, question) != question:
            raise BadFact(f"{question.text!r} stands twice in 'study', otherwise each time. Remove one of the two.")
    return tuple(found.values())


def _study_unmoved(reader: _Reader, name: str, entry: dict[str, object]) -> Question:
    kinds = sorted(kind.value for kind in UNMOVED)
    if "prompt" not in entry or set(entry) - {"prompt", "answer", "kind"} or entry.get("kind") not in kinds:
        raise BadFeed(
            f"{name!r} has the keys {sorted(entry)}. Give it 'prompt', 'kind' ({', '.join(kinds)}) and, if known, "
            "'answer'; a phrasing of the fact itself is a plain text."
        )
    text = reader.prompt(name, entry["prompt"])
    if _PLACE in text:
        raise BadFact(f"{name!r} holds '{{}}', which stands for the subject in other keys only. Write it out.")
    return Question(text, Kind(str(entry["kind"])), _answers(f"{name}.answer", entry.get("answer")), (), ORIGIN)


def _without_repeats(questions: list[Question]) -> tuple[Question, ...]:
    """Each text once. Asking it again with another expectation is a contradiction."""
    kept: dict[str, Question] = {}
    for question in questions:
        first = kept.setdefault(question.text, question)
        if question.kind is Kind.NEGATIVE and first.kind is not Kind.NEGATIVE:
            if {*first.accept} & {*question.reject}:
                raise BadFact(
                    f"{question.text!r} is listed as {first.kind} and as {question.kind}: the new object cannot be "
                    "both right and wrong there. Remove one of the two."
                )
            continue
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


def _answers(key: str, value: object) -> tuple[str, ...]:
    if value is None:
        return ()
    values = cast("list[object]", value) if isinstance(value, list) else [value]
    return _unique(tuple(clean(key, v) for v in values))


def _fill(text: str, subject: str) -> str:
    # A subject that itself holds "{}" is always written out.
    return text if _PLACE in subject else text.replace(_PLACE, subject)


def _subject_missing(subject: str, prompt: str) -> str:
    message = f"The subject {subject!r} is not in the prompt {prompt[:200]!r}. "
    at = prompt.casefold().find(subject.casefold())
    if at >= 0 and len(prompt.casefold()) == len(prompt):
        return message + f"The prompt spells it {prompt[at : at + len(subject)]!r}; spell both the same way."
    scripts = script_of(subject), script_of(prompt)
    if all(scripts) and scripts[0] != scripts[1]:
        return message + f"One is in {scripts[0]} letters, the other in {scripts[1]}; spell both in one script."
    return message + "Spell it there exactly as in 'subject', or write {} in its place."


def _dump_asked(question: Question) -> JSON:
    if not question.accept:
        return question.text
    answer: JSON = question.accept[0] if len(question.accept) == 1 else list(question.accept)
    return {"prompt": question.text, "answer": answer}


def _dump_study(question: Question) -> JSON:
    if question.kind is Kind.PARAPHRASE:
        return question.text
    asked = _dump_asked(question)
    return {**(asked if isinstance(asked, dict) else {"prompt": asked}), "kind": question.kind.value}


def _of_feed(catechism: Catechism) -> Catechism:
    """The catechism as it would be if all its questions came from a feed."""
    exam, study = (
        tuple(replace(q, origin=ORIGIN) for q in questions) for questions in (catechism.questions, catechism.study)
    )
    return replace(catechism, questions=exam, study=study)


def _alias(fact: Fact, text: str) -> str:
    """The name that stands in `text` where the fact's prompt has its subject."""
    pieces = fact.prompt.split(fact.subject)
    length = (len(text) - sum(map(len, pieces))) // max(len(pieces) - 1, 1)
    return text[len(pieces[0]) : len(pieces[0]) + length]


def _unique(texts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
