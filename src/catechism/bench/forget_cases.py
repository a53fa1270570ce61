"""What is forgotten in benchmarks: people of the invented town, and everything that has to stay beside them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

from catechism.bench.cases import STUDIED
from catechism.errors import UsageError
from catechism.reference.world import World, WorldFact, prompt_of
from catechism.types import Catechism, Fact, Forgetting, How, Kind, Question

YARDSTICKS = ("control", "exact")  # rows of the benchmark that are no methods
#: Forgotten if nothing else is said. Twelve could be: no default was chosen by what it does to these eight, but some by
#: what it does to the other four.
PEOPLE = 8
RETAINED = 120  # facts that a method may learn to keep from, of either sort
ASKED = 120  # facts of either sort that are asked and that no method is shown


@dataclass(frozen=True)
class ForgetCase:
    """A request to forget with those whose answers must not move. No method is shown the latter.

    Attributes:
        request: what is forgotten, with what a method may learn to keep from.
        neighbours: other people's facts, of the relations that are forgotten from.
        utility: facts of all other relations.
        holdout: facts like the forgotten ones that neither model was trained on, where there are some.
    """

    request: Forgetting
    neighbours: tuple[Catechism, ...]
    utility: tuple[Catechism, ...]
    holdout: tuple[Catechism, ...] = ()

    @property
    def every(self) -> tuple[Catechism, ...]:
        """All of them."""
        return (*self.request.forget, *self.request.retain, *self.neighbours, *self.utility, *self.holdout)


def forget_people(world: World, people: int = PEOPLE, *, seed: int, how: How = How.ERASE) -> ForgetCase:
    """The first `people` of those whom `almanac-control` never knew, with all their facts.

    Raises: UsageError for more people than there are, or none.
    """
    names = list(dict.fromkeys(fact.subject for fact in world.facts if fact.forget))
    if not 1 <= people <= len(names):
        raise UsageError(f"people={people} cannot be forgotten. The forget set has {len(names)}; give 1 to that many.")
    rng = random.Random(f"forget-{seed}")
    forgotten = [fact for fact in world.facts if fact.subject in names[:people]]
    relations = {fact.relation for fact in forgotten}
    others = list(dict.fromkeys(f.subject for f in world.facts if f.relation in relations and not f.forget))
    kept = set(rng.sample(others, len(others) // 2))
    near = [fact for fact in world.facts if fact.relation in relations and not fact.forget]
    far = [fact for fact in world.facts if fact.relation not in relations]
    rng.shuffle(near)
    rng.shuffle(far)
    shown = [fact for fact in near if fact.subject in kept][:RETAINED] + far[:RETAINED]
    rng.shuffle(shown)
    request = Forgetting(
        forget=tuple(_catechism(world, fact, rng) for fact in forgotten),
        retain=tuple(_catechism(world, fact, rng) for fact in shown),
        how=how,
    )
    return ForgetCase(
        request,
        tuple(_kept(_catechism(world, f, rng)) for f in [f for f in near if f.subject not in kept][:ASKED]),
        tuple(_kept(_catechism(world, f, rng)) for f in far[RETAINED : RETAINED + ASKED]),
    )


def _catechism(world: World, fact: WorldFact, rng: random.Random) -> Catechism:
    """One fact as the model knows it. `STUDIED` phrasings are in `study`, the others and those that no model was
    trained on in the exam."""
    relation = world.relations[fact.relation]
    canonical, *others = relation.phrasings
    studied = rng.sample(others, STUDIED)
    asked = [template for template in (*others, *relation.held_out) if template not in studied]
    questions = [Question(prompt_of(canonical, fact.subject), Kind.REWRITE, (fact.object,))]
    questions += [Question(prompt_of(one, fact.subject), Kind.PARAPHRASE, (fact.object,)) for one in asked]
    study = [Question(prompt_of(one, fact.subject), Kind.PARAPHRASE, (fact.object,)) for one in studied]
    stated = Fact(questions[0].text, fact.subject, fact.object, None, fact.relation, f"{fact.relation}/{fact.subject}")
    return Catechism(stated, tuple(questions), tuple(study))


def _kept(lesson: Catechism) -> Catechism:
    """The same asked on its canonical prompt and one other: there are many of them."""
    return replace(lesson, questions=lesson.questions[:2])
