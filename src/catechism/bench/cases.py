"""Facts to edit, drawn from the Almanac, with everything that has to be asked about them."""

from __future__ import annotations

import random
from collections.abc import Sequence

from catechism.reference.world import World, WorldFact, prompt_of
from catechism.types import Catechism, Fact, Kind, Question

NEIGHBOURS = 8  # of each sort: with the same object, and any other
UNRELATED = 10


def draw_catechisms(world: World, n: int, *, seed: int) -> list[Catechism]:
    """`n` facts, spread evenly over the relations, each to be changed to another object of its relation."""
    rng = random.Random(f"cases-{seed}")
    pools = {name: rng.sample(facts, len(facts)) for name, facts in sorted(world.by_relation.items())}
    drawn: list[WorldFact] = []
    while len(drawn) < n and any(pools.values()):
        for pool in pools.values():
            if pool and len(drawn) < n:
                drawn.append(pool.pop())
    return [catechism_of(world, fact, _another_object(world, rng, fact), rng) for fact in drawn]


def catechism_of(world: World, fact: WorldFact, new_object: str, rng: random.Random) -> Catechism:
    """The questions for changing one fact of the Almanac to `new_object`."""
    relation = world.relations[fact.relation]
    prompt, *others = (prompt_of(template, fact.subject) for template in relation.phrasings)
    accept, reject = (new_object,), (fact.object,)
    questions = [Question(prompt, Kind.REWRITE, accept, reject)]
    questions += [Question(other, Kind.PARAPHRASE, accept, reject) for other in others]
    questions += [
        Question(
            template.split("{subject}")[0].replace("{object}", new_object).rstrip(), Kind.REVERSED, (fact.subject,)
        )
        for template in relation.reversed
    ]
    kin = [other for other in world.by_relation[fact.relation] if other.subject != fact.subject]
    near = [other for other in kin if other.object == fact.object]
    about = [other for other in world.by_subject[fact.subject] if other.relation != fact.relation]
    far = [other for other in world.facts if other.relation != fact.relation and other.subject != fact.subject]
    questions += _unmoved(world, rng, _sample(rng, near, NEIGHBOURS), Kind.NEIGHBOUR)
    questions += _unmoved(world, rng, _sample(rng, [k for k in kin if k not in near], NEIGHBOURS), Kind.NEIGHBOUR)
    questions += _unmoved(world, rng, about, Kind.SUBJECT)
    questions += _unmoved(world, rng, _sample(rng, far, UNRELATED), Kind.UNRELATED)
    stated = Fact(prompt, fact.subject, new_object, fact.object, fact.relation, f"{fact.relation}/{fact.subject}")
    return Catechism(stated, tuple(dict.fromkeys(questions)))


def _another_object(world: World, rng: random.Random, fact: WorldFact) -> str:
    return rng.choice([o for o in world.relations[fact.relation].objects if o != fact.object])


def _unmoved(world: World, rng: random.Random, facts: Sequence[WorldFact], kind: Kind) -> list[Question]:
    return [
        Question(prompt_of(rng.choice(world.relations[f.relation].phrasings), f.subject), kind, (f.object,))
        for f in facts
    ]


def _sample(rng: random.Random, facts: Sequence[WorldFact], n: int) -> list[WorldFact]:
    return rng.sample(facts, min(n, len(facts)))
