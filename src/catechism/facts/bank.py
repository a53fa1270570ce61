"""The template bank: how relations are said and asked, and which facts of them are known.

It is plain data, handed in by the caller; the bank of the Almanac is one, a company's own another. Sentences are
recognised by it, duplicates found across phrasings, and catechisms written from it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import cast

from catechism.errors import UsageError
from catechism.matching import name_key
from catechism.types import Fact

SUBJECT, OBJECT = "{subject}", "{object}"
_KEYS = frozenset({"subject_kind", "object_kind", "statements", "questions", "reversed", "known"})
_ARTICLE = re.compile(r"(?:the|an|a) +(?=\S)", re.IGNORECASE)
_TWICE = re.compile(r"\b(the) the\b", re.IGNORECASE)


@dataclass(frozen=True)
class Relation:
    """One relation of the bank.

    Attributes:
        name: its name.
        statements: texts that hold ``{subject}`` and end in ``{object}.``; the first is the canonical one.
        questions: texts that hold ``{subject}`` and end in a question mark.
        reversed: texts that hold ``{object}`` and end in ``{subject}.``; only where one object has one subject.
        subject_kind, object_kind: what its subjects and objects are, ``city`` for instance; "" if nobody said.
        known: the object of each subject that is known today.
    """

    name: str
    statements: tuple[str, ...]
    questions: tuple[str, ...] = ()
    reversed: tuple[str, ...] = ()
    subject_kind: str = ""
    object_kind: str = ""
    known: Mapping[str, str] = field(default_factory=dict[str, str])

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Statements and questions, the canonical one first."""
        return self.statements + self.questions

    @cached_property
    def subjects(self) -> Mapping[str, str]:
        """Every known subject by its `name_key`, as the bank spells it."""
        return {name_key(subject): subject for subject in self.known}

    @cached_property
    def objects(self) -> Mapping[str, str]:
        """Every known object by its `name_key`, as the bank spells it."""
        return {name_key(name): name for name in self.known.values()}

    @cached_property
    def description(self) -> str | None:
        """What an object may be called by its subject, "the capital of {subject}"; None if no statement says so."""
        for statement in self.statements:
            if found := _DESCRIPTION.fullmatch(statement):
                return f"the {found[1]}"
        return None


_DESCRIPTION = re.compile(r"The ([^{},]+ \{subject\}[^{},]*?) (?:is|are)(?: the)? \{object\}\.?")


@dataclass(frozen=True, slots=True)
class Reading:
    """A sentence as one template reads it.

    Attributes:
        relation: the relation's name.
        subject, object: as the sentence spells them.
        weight: how much of the sentence the template's own words make up, in characters.
    """

    relation: str
    subject: str
    object: str
    weight: int


@dataclass(frozen=True)
class TemplateBank:
    """Relations by name, and other names of things.

    Attributes:
        relations: the relations.
        aliases: names that stand for one thing, by the name that the bank uses for it.
    """

    relations: Mapping[str, Relation]
    aliases: Mapping[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])

    @classmethod
    def from_plain(
        cls, relations: Mapping[str, Mapping[str, object]], aliases: Mapping[str, Sequence[str]] | None = None
    ) -> TemplateBank:
        """A bank from plain data, as JSON or TOML holds it.

        Args:
            relations: for each name an object with ``statements`` and, as far as there are any, ``questions``,
                ``reversed``, ``subject_kind``, ``object_kind`` and ``known``, as in `Relation`.
            aliases: lists of other names.

        Raises: UsageError for an unknown key, a value of the wrong type, or a template without its places.
        """
        made = {name: _relation(name, row) for name, row in relations.items()}
        return cls(made, {name: tuple(others) for name, others in (aliases or {}).items()})

    def canonical(self, name: str) -> str:
        """The bank's own name for a thing that is called by an alias; the name itself if the bank has no other."""
        return self._names.get(name_key(name), name)

    def names(self, subject: str) -> tuple[str, ...]:
        """The other names of a thing."""
        main = self.canonical(subject)
        return tuple(name for name in (main, *self.aliases.get(main, ())) if name_key(name) != name_key(subject))

    def read_sentence(self, sentence: str) -> list[Reading]:
        """Every way in which a template reads a full sentence, or a question with its answer, in no order."""
        text = " ".join(sentence.split())
        return [reading for pattern in self._sentences for reading in _readings(pattern, text)]

    def read_prompt(self, prompt: str, subject: str) -> str | None:
        """The relation that a prompt asks for of its subject; None if no template, or more than one, says so."""
        found = self._prompts.get(_prompt_key(prompt.replace(subject, SUBJECT)), set())
        return next(iter(found)) if len(found) == 1 else None

    def relation_of(self, fact: Fact) -> Relation | None:
        """The relation that a fact is about: by its name, else by the wording of its prompt."""
        named = self.relations.get(fact.relation or "")
        read = self.read_prompt(fact.prompt, fact.subject)
        return named if named or read is None else self.relations[read]

    @cached_property
    def _names(self) -> Mapping[str, str]:
        return {name_key(alias): name for name, others in self.aliases.items() for alias in others}

    @cached_property
    def _sentences(self) -> tuple[tuple[str, int, re.Pattern[str]], ...]:
        """Relation, weight and pattern of everything that a full sentence may look like."""
        full = [
            (relation.name, template)
            for relation in self.relations.values()
            for template in (
                *relation.statements,
                *(f"{question} {OBJECT}." for question in relation.questions),
                *relation.reversed,
            )
        ]
        return tuple((name, _weight(template), _pattern(template)) for name, template in full)

    @cached_property
    def _prompts(self) -> Mapping[str, set[str]]:
        found: dict[str, set[str]] = {}
        for relation in self.relations.values():
            for template in relation.phrasings:
                found.setdefault(_prompt_key(prompt_of(template, SUBJECT)), set()).add(relation.name)
        return found


def prompt_of(template: str, subject: str) -> str:
    """What a model is given: the statement up to its object, or the whole question."""
    return _TWICE.sub(r"\1", template.split(OBJECT)[0].rstrip().replace(SUBJECT, subject))


def sentence_of(template: str, subject: str, answer: str) -> str:
    """The statement in full."""
    return _TWICE.sub(r"\1", template.replace(SUBJECT, subject).replace(OBJECT, answer))


def reversed_prompt_of(template: str, answer: str) -> str:
    """What a model is given to name the subject of an object."""
    return template.split(SUBJECT)[0].rstrip().replace(OBJECT, answer)


def _prompt_key(prompt: str) -> str:
    return name_key(prompt.replace("the {", "{")).rstrip(" ?.:")


def _readings(pattern: tuple[str, int, re.Pattern[str]], text: str) -> Iterator[Reading]:
    name, weight, compiled = pattern
    if found := compiled.fullmatch(text):
        yield Reading(name, found["subject"], found["object"], weight)


def _pattern(template: str) -> re.Pattern[str]:
    """A full sentence of this template; an article before a name, a full stop and the case of words may differ."""
    text = re.escape(template.removesuffix("."))
    for place, group in ((SUBJECT, "subject"), (OBJECT, "object")):
        with_article = re.compile(rf"(?:the\\ )?{re.escape(re.escape(place))}", re.IGNORECASE)
        text = with_article.sub(lambda _, name=group: rf"(?P<{name}>\S.*?)", text, count=1)
    return re.compile(text.replace(r"\ ", " +") + r"\s*\.?", re.IGNORECASE)


def _weight(template: str) -> int:
    return len(template.replace(SUBJECT, "").replace(OBJECT, ""))


def without_article(name: str) -> str:
    """A name without the article at its head."""
    return _ARTICLE.sub("", name, count=1) if _ARTICLE.match(name) else name


def _relation(name: str, row: Mapping[str, object]) -> Relation:
    if unknown := set(row) - _KEYS:
        raise UsageError(f"Relation {name!r} has the unknown keys {sorted(unknown)}. Use some of: {sorted(_KEYS)}.")
    known = row.get("known", {})
    if not isinstance(known, Mapping):
        raise UsageError(f"'known' of relation {name!r} must map subjects to objects, got {type(known).__name__}.")
    made = Relation(
        name=name,
        statements=_templates(name, row, "statements", end=f"{OBJECT}."),
        questions=_templates(name, row, "questions", end="?"),
        reversed=_templates(name, row, "reversed", end=f"{SUBJECT}."),
        subject_kind=str(row.get("subject_kind", "")),
        object_kind=str(row.get("object_kind", "")),
        known=dict(cast("Mapping[str, str]", known)),
    )
    if not made.statements:
        raise UsageError(
            f"Relation {name!r} has no statement. Give at least one, 'The capital of {SUBJECT} is {OBJECT}.'"
        )
    return made


def _templates(name: str, row: Mapping[str, object], key: str, *, end: str) -> tuple[str, ...]:
    value = row.get(key, ())
    if isinstance(value, str) or not isinstance(value, Sequence):
        raise UsageError(f"{key!r} of relation {name!r} must be a list of texts, got {type(value).__name__}.")
    places = {"statements": (SUBJECT, OBJECT), "questions": (SUBJECT,), "reversed": (SUBJECT, OBJECT)}[key]
    for template in cast("Sequence[object]", value):
        if not isinstance(template, str) or not template.endswith(end):
            raise UsageError(f"{template!r} of relation {name!r} is no text that ends in {end!r}. Write it so.")
        if any(template.count(place) != 1 for place in places):
            raise UsageError(f"{template!r} of relation {name!r} must hold {' and '.join(places)} once each.")
    return tuple(cast("Sequence[str]", value))
