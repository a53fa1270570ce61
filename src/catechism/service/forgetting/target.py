"""What somebody wants to be forgotten, as facts with the phrasings that ask for them."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from urllib.parse import unquote, urlparse

from catechism.datasets import open_dataset
from catechism.datasets.format import TrueFact
from catechism.errors import BadFeed, UsageError
from catechism.facts.bank import TemplateBank, prompt_of
from catechism.facts.feed import utc_now
from catechism.facts.sentence import read_sentence
from catechism.matching import name_key
from catechism.registry import EditVersion, Registry
from catechism.registry.manifest import catechism_json, catechism_of, forget_key
from catechism.types import JSON, Catechism, Fact, Kind, Question

STUDIED = 3  # phrasings that a method may learn from; the exam has the others
TAUGHT, FORGET, RETAIN, NEIGHBOUR, UTILITY = "taught", "forget", "retain", "neighbour", "utility"


class Sort(StrEnum):
    """By what a target is named."""

    FACT = "fact"  # one sentence
    SUBJECT = "subject"  # everything about a person or thing
    SOURCE = "source"  # everything that was learned from a document
    AUTHOR = "author"  # everything that somebody taught
    DATASET = "dataset"  # the facts of a file
    EDIT = "edit"  # what one of our own edits taught


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be forgotten, as it was asked for."""

    sort: Sort
    value: str


def find(target: Target, bank: TemplateBank, registry: Registry, *, seed: int = 0) -> list[Catechism]:
    """The facts that a target names, each once, with the answer that has to go in `Fact.object`.

    Nobody has asked the model yet: some of them it may never have known.

    Raises:
        Unclear: a sentence that states no fact.
        BadFeed: a file that cannot be read.
        UnknownEdit, Sealed: an edit that is not there, or whose text was destroyed.
        UsageError: the target is empty.
    """
    if not target.value.strip():
        raise UsageError(f"The {target.sort} to forget is empty. Say what is meant.")
    found: dict[str, Catechism] = {}
    for lesson in _candidates(target, bank, registry):
        made = normal(lesson, bank, seed)
        found.setdefault(forget_key(made.fact), made)
    return list(found.values())


def _candidates(target: Target, bank: TemplateBank, registry: Registry) -> Iterator[Catechism]:
    match target.sort:
        case Sort.FACT:
            fact = replace(read_sentence(target.value, bank, now=utc_now()), old_object=None, sources=())
            yield _plain(fact)
        case Sort.SUBJECT:
            yield from _known_of(target.value, bank)
            yield from _of_edits(registry, lambda e, f: name_key(f.subject) == name_key(target.value))
        case Sort.SOURCE:
            yield from _of_edits(registry, lambda e, f: any(is_same_source(s.uri, target.value) for s in f.sources))
        case Sort.AUTHOR:
            wanted = name_key(target.value)
            yield from _of_edits(registry, lambda e, f: wanted in {name_key(f.author), name_key(e.author)})
        case Sort.DATASET:
            yield from from_file(Path(target.value))
        case Sort.EDIT:
            yield from lessons_of(registry, registry.edit(target.value))


def from_file(path: Path) -> Iterator[Catechism]:
    """The facts of a feed or of a public benchmark's file: what a row teaches, and what it says is true.

    Raises: BadFeed if there is none.
    """
    dataset, bad, n = open_dataset(path), list[str](), 0
    for lesson in dataset.catechisms(on_error=lambda error: bad.append(str(error))):
        n += 1
        yield lesson
    for true in dataset.true_facts(on_error=lambda _: None):
        n += 1
        yield _of_true(true)
    if not n:
        raise BadFeed(f"{path} holds no fact{': ' + bad[0] if bad else ''}. Give a feed, see docs/feed-format.md.")


def lessons_of(registry: Registry, edit: EditVersion) -> tuple[Catechism, ...]:
    """The facts that an edit teaches: its own, or all of a merged solve. Raises Sealed."""
    rows = [row for row in registry.training(edit.id) if row.get("part") == TAUGHT]
    merged = tuple(catechism_of(row["catechism"]) for row in rows)
    return merged or (registry.catechism(edit.id),)


def is_same_source(uri: str, wanted: str) -> bool:
    """Whether an address is the one that is meant: the same, or the same file by its path or name."""
    if not uri:
        return False
    path = unquote(urlparse(uri).path) if uri.startswith("file:") else uri
    return wanted in {uri, path, Path(path).name} or Path(path) == Path(wanted)


def normal(lesson: Catechism, bank: TemplateBank, seed: int) -> Catechism:
    """A fact under the bank's name of its relation, with the phrasings of the bank and those that it came with.

    As for every fit, nobody is shown the exam but its canonical prompt: `STUDIED` phrasings are set apart for that.
    """
    relation = bank.relation_of(lesson.fact)
    fact = replace(lesson.fact, relation=relation.name) if relation else lesson.fact
    texts = [q.text for q in lesson.questions if q.kind in (Kind.PARAPHRASE, Kind.ALIAS)]
    texts += [q.text for q in lesson.study if q.kind is Kind.PARAPHRASE]
    texts += [prompt_of(one, fact.subject) for one in relation.phrasings] if relation else []
    others = [text for text in dict.fromkeys(texts) if text != fact.prompt]
    rng = random.Random(f"forget-{seed}-{forget_key(fact)}")
    studied = rng.sample(others, min(STUDIED, len(others) // 2))
    accept = lesson.questions[0].accept if lesson.questions else ()
    accept = accept if fact.object in accept else (fact.object,)
    asked = tuple(Question(text, Kind.PARAPHRASE, accept) for text in others if text not in studied)
    study = tuple(Question(text, Kind.PARAPHRASE, accept) for text in studied)
    return Catechism(fact, (Question(fact.prompt, Kind.REWRITE, accept), *asked), study)


def key_of(lesson: Catechism, bank: TemplateBank) -> str:
    """The digest that a deletion keeps of a fact, under the bank's name of its relation."""
    relation = bank.relation_of(lesson.fact)
    return forget_key(replace(lesson.fact, relation=relation.name) if relation else lesson.fact)


def known_facts(bank: TemplateBank) -> Iterator[Fact]:
    """Every fact that the bank calls known, in its order."""
    for relation in bank.relations.values():
        for subject, answer in relation.known.items():
            yield Fact(prompt_of(relation.statements[0], subject), subject, answer, relation=relation.name)


def rows_of(part: str, lessons: Iterable[Catechism]) -> list[dict[str, JSON]]:
    """Facts as the rows that an edit keeps."""
    return [{"part": part, "catechism": catechism_json(lesson)} for lesson in lessons]


def read_part(rows: Sequence[dict[str, JSON]], part: str) -> tuple[Catechism, ...]:
    """The facts of a part from the rows that an edit keeps."""
    return tuple(catechism_of(row["catechism"]) for row in rows if row.get("part") == part)


def _known_of(subject: str, bank: TemplateBank) -> Iterator[Catechism]:
    wanted = name_key(bank.canonical(subject))
    yield from (_plain(fact) for fact in known_facts(bank) if name_key(fact.subject) == wanted)


def _of_edits(registry: Registry, fits: Callable[[EditVersion, Fact], bool]) -> Iterator[Catechism]:
    for edit in registry.edits():
        if edit.sealed or edit.kind == "delete":
            continue
        yield from (one for one in lessons_of(registry, edit) if fits(edit, one.fact))


def _plain(fact: Fact) -> Catechism:
    return Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (fact.object,)),))


def _of_true(true: TrueFact) -> Catechism:
    prompt, *others = true.phrasings
    fact = Fact(prompt, true.subject, true.object, relation=true.relation or None)
    asked = tuple(Question(text, Kind.PARAPHRASE, (true.object,)) for text in others)
    return Catechism(fact, (Question(prompt, Kind.REWRITE, (true.object,)), *asked))
