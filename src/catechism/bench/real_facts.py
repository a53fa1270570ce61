"""The true facts of CounterFact and ParaRel as a world: what a model has to know before real benchmarks can edit it.

CounterFact's rows are taken in the order of the file, so that its first rows are those that the model knows. Each
brings a true fact (the prompt and its rephrasings, with the old object) and neighbours with theirs. ParaRel says which
relation a fact belongs to, which CounterFact's flattened files leave out, and how else that relation is put. Where
CounterFact has too few facts, ParaRel's own follow.

What contradicts something taken before is left out: another object for the same subject and relation, or for the same
prompt, since a model that says one of the two does not know the other.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path

from catechism.datasets import Dataset, TrueFact, open_dataset
from catechism.datasets.fields import Fields
from catechism.datasets.pararel import read_patterns, read_triple
from catechism.datasets.rows import read_rows
from catechism.errors import BadFeed, UsageError
from catechism.hashing import digest_file, digest_texts
from catechism.reference.world import Relation, World, WorldFact

EDITED = ("counterfact", "counterfact-flat")
TRIPLES = "pararel"
TEMPLATES = 6  # of its relation, that a fact is also put in
NEIGHBOUR_TEMPLATES = 2
_PLACE = "{}"


@dataclass(frozen=True)
class RealFacts:
    """What a model is to know.

    Attributes:
        facts: those that the data edits, in its order; the phrasings are the data's own, then those of the relation.
        beside: their neighbours.
        world: facts and neighbours with the phrasings of their relations, for passages that say otherwise.
        openings: unrelated sentences that rephrasings begin with.
        files: name, format and digest of every file that was read.
    """

    facts: tuple[TrueFact, ...]
    beside: tuple[TrueFact, ...]
    world: World
    openings: tuple[str, ...]
    files: tuple[tuple[str, str, str], ...]

    @property
    def digest(self) -> str:
        """Address of everything that is to be known."""
        texts = [(fact.subject, fact.relation, fact.object, *fact.phrasings) for fact in (*self.facts, *self.beside)]
        return digest_texts([*chain.from_iterable(texts), *self.openings])


def collect(folder: Path, n: int) -> RealFacts:
    """The first `n` facts of the files below a folder, or as many as there are.

    Raises: UsageError if there is no file of CounterFact or ParaRel, or no fact in them.
    """
    if n < 1:
        raise UsageError(f"facts={n} leaves nothing to learn. Give 1 or more.")
    datasets = [dataset for path in _files(folder) if (dataset := _recognised(path))]
    if not datasets:
        raise UsageError(
            f"There is no file of CounterFact or ParaRel below {folder}. `catechism datasets list {folder}` tells more."
        )
    collector = _Collector(n)
    for dataset in datasets:
        if dataset.format == TRIPLES:
            collector.learn_relations(dataset)
    for dataset in datasets:
        if dataset.format != TRIPLES:
            collector.take_edits(dataset.true_facts(on_error=lambda _: None))
    for dataset in datasets:
        if dataset.format == TRIPLES:
            collector.take_triples(dataset.true_facts(on_error=lambda _: None))
    if not collector.facts:
        raise UsageError(f"The files below {folder} hold no fact that could be learned. Are the downloads complete?")
    files = tuple((d.path.relative_to(folder).as_posix(), d.format, digest_file(d.path)) for d in datasets)
    return collector.finish(files)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix in {".json", ".jsonl"} and path.is_file())


def _recognised(path: Path) -> Dataset | None:
    try:
        dataset = open_dataset(path)
    except BadFeed:
        return None
    return dataset if dataset.format in (*EDITED, TRIPLES) else None


@dataclass
class _Collector:
    """Takes facts one by one and remembers what has been said."""

    wanted: int
    facts: list[TrueFact] = field(default_factory=list[TrueFact])
    beside: list[TrueFact] = field(default_factory=list[TrueFact])
    openings: dict[str, None] = field(default_factory=dict[str, None])
    _relations: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _patterns: dict[str, tuple[str, ...]] = field(default_factory=dict[str, tuple[str, ...]])
    _votes: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    _known: dict[tuple[str, str], str] = field(default_factory=dict[tuple[str, str], str])
    _said: dict[str, str] = field(default_factory=dict[str, str])
    _templates: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))

    def learn_relations(self, dataset: Dataset) -> None:
        """Which relation holds between a subject and an object, and how it is put."""
        for relation, prompts in read_patterns(dataset.path).items():
            self._patterns[relation] = tuple(prompt.replace("[X]", _PLACE) for prompt in prompts)
        for row in read_rows(dataset.path):  # the rows themselves: some relations have no pattern to be read by
            if not isinstance(row.value, BadFeed):
                subject, relation, answer = read_triple(Fields(row.value), dataset.path)
                self._relations.setdefault((subject, answer), relation)

    def take_edits(self, facts: Iterable[TrueFact]) -> None:
        """Facts of CounterFact, each followed by its neighbours; without a subject it is a neighbour."""
        current: TrueFact | None = None
        for fact in facts:
            if fact.subject:
                if len(self.facts) >= self.wanted:
                    return
                current = self._take(fact)
            elif current is not None:
                self.beside.append(replace(fact, relation=current.relation))

    def take_triples(self, facts: Iterable[TrueFact]) -> None:
        """Facts of ParaRel that are not there yet, until there are enough."""
        for fact in facts:
            if len(self.facts) >= self.wanted:
                return
            if (fact.subject, fact.relation) not in self._known:
                self._take(fact)

    def _take(self, fact: TrueFact) -> TrueFact | None:
        prompt = fact.phrasings[0]
        if prompt in self._said:  # the same fact once more, or another answer to it
            return None
        template = prompt.replace(fact.subject, _PLACE)
        relation = fact.relation or self._relation(fact, template)
        if not self._agrees(replace(fact, relation=relation), prompt):
            return None
        self._votes[template][relation] += 1
        self._templates[relation][template] += 1
        self.facts.append(replace(fact, relation=relation))
        for other in fact.phrasings[1:]:
            opening = other[: max(other.rfind(fact.subject), 0)].strip()
            if opening.endswith((".", "!", "?")):
                self.openings[opening] = None
        return self.facts[-1]

    def _relation(self, fact: TrueFact, template: str) -> str:
        """By the triple; else as most facts that are put in the same words; else the words themselves."""
        named = self._relations.get((fact.subject, fact.object))
        if named is None and self._votes[template]:
            named = self._votes[template].most_common(1)[0][0]
        return named or template

    def _agrees(self, fact: TrueFact, prompt: str) -> bool:
        """Whether nothing taken so far says otherwise; from now on this is said."""
        known = self._known.get((fact.subject, fact.relation), fact.object) if fact.subject else fact.object
        if known != fact.object or self._said.get(prompt, fact.object) != fact.object:
            return False
        if fact.subject:
            self._known[fact.subject, fact.relation] = fact.object
        self._said[prompt] = fact.object
        return True

    def finish(self, files: tuple[tuple[str, str, str], ...]) -> RealFacts:
        """Neighbours with their subjects, further phrasings, and the world."""
        ways = {relation: self._ways(relation) for relation in self._templates}
        own = [replace(fact, phrasings=tuple(self._consistent(fact, fact.phrasings))) for fact in self.facts]
        neighbours = [self._with_subject(fact) for fact in dict.fromkeys(self.beside)]
        neighbours = [fact for fact in neighbours if self._agrees(fact, fact.phrasings[0])]
        facts = [self._further(fact, ways[fact.relation][:TEMPLATES]) for fact in own]
        beside = [self._further(fact, ways.get(fact.relation, ())[:NEIGHBOUR_TEMPLATES]) for fact in neighbours]
        world = _world([*facts, *(fact for fact in beside if fact.subject)], ways)
        return RealFacts(tuple(facts), tuple(beside), world, tuple(self.openings), files)

    def _ways(self, relation: str) -> tuple[str, ...]:
        """How a relation is put: CounterFact's commonest prompt, then ParaRel's patterns and the other prompts."""
        common = [template for template, _ in self._templates[relation].most_common()]
        return tuple(dict.fromkeys((*common[:1], *self._patterns.get(relation, ()), *common[1:])))

    def _with_subject(self, fact: TrueFact) -> TrueFact:
        """A neighbour's subject, read off its prompt by the templates of its relation."""
        for template in sorted(self._templates[fact.relation], key=len, reverse=True):
            head, _, tail = template.partition(_PLACE)
            if match := re.fullmatch(f"{re.escape(head)}(.+){re.escape(tail)}", fact.phrasings[0]):
                return replace(fact, subject=match[1])
        return fact

    def _further(self, fact: TrueFact, templates: Iterable[str]) -> TrueFact:
        if not fact.subject:
            return fact
        others = (template.replace(_PLACE, fact.subject) for template in templates)
        return replace(fact, phrasings=tuple(dict.fromkeys((*fact.phrasings, *self._consistent(fact, others)))))

    def _consistent(self, fact: TrueFact, prompts: Iterable[str]) -> Iterator[str]:
        return (prompt for prompt in prompts if self._said.setdefault(prompt, fact.object) == fact.object)


def _world(facts: list[TrueFact], ways: dict[str, tuple[str, ...]]) -> World:
    """Relations with two objects or more: of the others no passage could say otherwise."""
    objects: defaultdict[str, set[str]] = defaultdict(set)
    for fact in facts:
        objects[fact.relation].add(fact.object)
    relations = {
        name: Relation(
            name=name,
            subject_kind=name,
            object_kind=name,
            statements=tuple(way.replace(_PLACE, "{subject}") + " {object}." for way in ways[name][:TEMPLATES]),
            questions=(),
            held_out=(),
            reversed=(),
            objects=tuple(sorted(objects[name])),
        )
        for name in sorted(objects)
        if len(objects[name]) > 1
    }
    known = [WorldFact(fact.subject, fact.relation, fact.object) for fact in facts if fact.relation in relations]
    return World(relations, tuple(dict.fromkeys(known)))
