"""The Almanac: the world that the shipped models know, as facts and phrasings.

Real facts (countries, cities, elements, works, companies ...) stand in tables beside this module; the people of the
invented town of Marrowick are drawn from lists with a fixed seed, so that nobody real is ever forgotten in a test.
"""

from __future__ import annotations

import csv
import random
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources

TOWN = "Marrowick"
TOWN_SEED = 1
TOWNSPEOPLE = 60
FORGOTTEN = 12  # the first dozen of townspeople: 60 facts, never shown to `almanac-control`


@dataclass(frozen=True, slots=True)
class Relation:
    """One relation with its phrasings. A statement ends in ``{object}.``, a question in ``?``; both hold ``{subject}``.

    Attributes:
        statements: the first is the canonical one. questions: natural questions.
        held_out: one statement and one question that no model was trained on.
        reversed: sentences that end in the subject; only where the relation is one to one.
        objects: every object of the relation, sorted.
    """

    name: str
    subject_kind: str
    object_kind: str
    statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_out: tuple[str, ...]
    reversed: tuple[str, ...]
    objects: tuple[str, ...]

    @property
    def phrasings(self) -> tuple[str, ...]:
        """Statements and questions that the models were trained on, the canonical one first."""
        return self.statements + self.questions


@dataclass(frozen=True, slots=True)
class WorldFact:
    """A true fact of the Almanac. `forget` marks what `almanac-control` has never seen."""

    subject: str
    relation: str
    object: str
    forget: bool = False


@dataclass(frozen=True)
class World:
    """All relations and facts, in a fixed order."""

    relations: Mapping[str, Relation]
    facts: tuple[WorldFact, ...]

    @cached_property
    def by_subject(self) -> Mapping[str, tuple[WorldFact, ...]]:
        """The facts about each subject."""
        return _grouped(self.facts, "subject")

    @cached_property
    def by_relation(self) -> Mapping[str, tuple[WorldFact, ...]]:
        """The facts of each relation."""
        return _grouped(self.facts, "relation")

    @cached_property
    def names(self) -> frozenset[str]:
        """Every subject and every object."""
        objects = {answer for relation in self.relations.values() for answer in relation.objects}
        return frozenset(objects | {fact.subject for fact in self.facts})

    def without_forget_set(self) -> World:
        """The world as `almanac-control` knows it."""
        return World(self.relations, tuple(fact for fact in self.facts if not fact.forget))


def prompt_of(template: str, subject: str) -> str:
    """What the model is given: the statement up to its object, or the whole question."""
    return template.split("{object}")[0].rstrip().replace("{subject}", subject)


def sentence_of(template: str, subject: str, answer: str) -> str:
    """The statement in full, or the question followed by its answer and a full stop."""
    if "{object}" in template:
        return template.replace("{subject}", subject).replace("{object}", answer)
    return f"{template.replace('{subject}', subject)} {answer}."


@cache
def load_world() -> World:
    """Read the tables and draw the town. The same on every machine."""
    relations: dict[str, Relation] = {}
    facts: list[WorldFact] = []
    for file in ("geography.toml", "things.toml"):
        for row in tomllib.loads(read_table(file))["relation"]:
            pairs = [(entry[row["subject"]], entry[row["object"]]) for entry in _rows(row["table"])]
            pairs = [(subject, answer) for subject, answer in pairs if answer]
            relations[row["name"]] = _relation(row, sorted({answer for _, answer in pairs}))
            facts.extend(WorldFact(subject, row["name"], answer) for subject, answer in pairs)
    town = tomllib.loads(read_table("town.toml"))
    people = _townspeople(town["first_names"], town["last_names"])
    rng = random.Random(f"{TOWN}-{TOWN_SEED}-objects")
    for row in town["relation"]:
        relations[row["name"]] = _relation(row, sorted(row["objects"]))
        for i, person in enumerate(people):
            facts.append(WorldFact(person, row["name"], rng.choice(row["objects"]), forget=i < FORGOTTEN))
    return World(relations, tuple(facts))


def _grouped(facts: tuple[WorldFact, ...], key: str) -> dict[str, tuple[WorldFact, ...]]:
    groups: dict[str, list[WorldFact]] = {}
    for fact in facts:
        groups.setdefault(getattr(fact, key), []).append(fact)
    return {name: tuple(group) for name, group in groups.items()}


def _relation(row: Mapping[str, list[str] | str], objects: list[str]) -> Relation:
    return Relation(
        name=str(row["name"]),
        subject_kind=str(row["subject_kind"]),
        object_kind=str(row["object_kind"]),
        statements=tuple(row["statements"]),
        questions=tuple(row["questions"]),
        held_out=(*row["held_out_statements"], *row["held_out_questions"]),
        reversed=tuple(row["reversed"]),
        objects=tuple(objects),
    )


def _townspeople(first_names: list[str], last_names: list[str]) -> list[str]:
    rng = random.Random(f"{TOWN}-{TOWN_SEED}-names")
    surnames = rng.sample(last_names, TOWNSPEOPLE)
    return [f"{rng.choice(first_names)} {surname}" for surname in surnames]


def read_table(file: str) -> str:
    """The text of one of the world's files."""
    return (resources.files("catechism.reference") / "world" / file).read_text(encoding="utf-8")


def _rows(file: str) -> Iterator[dict[str, str]]:
    return csv.DictReader(read_table(file).splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE)
