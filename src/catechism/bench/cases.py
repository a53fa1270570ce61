"""Facts to edit, drawn from the Almanac, with everything that has to be asked about them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

from catechism.reference.world import Relation, World, WorldFact, prompt_of
from catechism.types import Catechism, Fact, Kind, Question

NEIGHBOURS = 8  # of each sort: with the same object, and any other
UNRELATED = 10
STUDIED = 3  # phrasings to study; the others are in the exam
LEARNT_FROM = 1200  # facts for methods that learn how to edit, at the most


def draw_catechisms(world: World, n: int, *, seed: int) -> list[Catechism]:
    """`n` facts, spread evenly over the relations, each to be changed to another object of its relation."""
    rng = random.Random(f"cases-{seed}")
    names = sorted(world.by_relation)
    rng.shuffle(names)  # few facts are then of any relations, not of the first ones by name
    pools = [rng.sample(world.by_relation[name], len(world.by_relation[name])) for name in names]
    drawn: list[WorldFact] = []
    while len(drawn) < n and any(pools):
        for pool in pools:
            if pool and len(drawn) < n:
                drawn.append(pool.pop())
    return [catechism_of(world, fact, _another_object(world, rng, fact), rng) for fact in drawn]


def other_catechisms(world: World, taught: Sequence[Catechism], *, seed: int) -> list[Catechism]:
    """Facts about subjects that none of `taught` is about, to learn how to edit from.

    Nothing that `taught` is examined with is among what they study.
    """
    subjects = {catechism.fact.subject for catechism in taught}
    asked = {question.text for catechism in taught for question in catechism.questions}
    drawn = draw_catechisms(world, len(world.facts), seed=seed)
    others = [catechism for catechism in drawn if catechism.fact.subject not in subjects][:LEARNT_FROM]
    return [replace(one, study=tuple(q for q in one.study if q.text not in asked)) for one in others]


def catechism_of(world: World, fact: WorldFact, new_object: str, rng: random.Random) -> Catechism:
    """The questions for changing one fact of the Almanac to `new_object`, and what to study for them.

    Studied are `STUDIED` phrasings, a statement and a question among them, and neighbours. Neither these phrasings nor
    these neighbours are in the exam; where few subjects share the old object, half of them are studied.
    """
    relation = world.relations[fact.relation]
    prompt, *others = (prompt_of(template, fact.subject) for template in relation.phrasings)
    accept, reject = (new_object,), (fact.object,)
    studied = [prompt_of(template, fact.subject) for template in _studied(rng, relation)]
    questions = [Question(prompt, Kind.REWRITE, accept, reject)]
    questions += [Question(other, Kind.PARAPHRASE, accept, reject) for other in others if other not in studied]
    questions += [
        Question(
            template.split("{subject}")[0].replace("{object}", new_object).rstrip(), Kind.REVERSED, (fact.subject,)
        )
        for template in relation.reversed
    ]
    kin = [other for other in world.by_relation[fact.relation] if other.subject != fact.subject]
    asked_near, studied_near = _split(rng, [other for other in kin if other.object == fact.object])
    asked_kin, studied_kin = _split(rng, [other for other in kin if other.object != fact.object])
    about = [other for other in world.by_subject[fact.subject] if other.relation != fact.relation]
    far = [other for other in world.facts if other.relation != fact.relation and other.subject != fact.subject]
    questions += _unmoved(world, rng, [*asked_near, *asked_kin], Kind.NEIGHBOUR)
    questions += _unmoved(world, rng, about, Kind.SUBJECT)
    questions += _unmoved(world, rng, rng.sample(far, min(UNRELATED, len(far))), Kind.UNRELATED)
    study = [Question(text, Kind.PARAPHRASE, accept, reject) for text in studied]
    study += _unmoved(world, rng, [*studied_near, *studied_kin], Kind.NEIGHBOUR)
    stated = Fact(prompt, fact.subject, new_object, fact.object, fact.relation, f"{fact.relation}/{fact.subject}")
    return Catechism(stated, tuple(dict.fromkeys(questions)), tuple(study))


def _another_object(world: World, rng: random.Random, fact: WorldFact) -> str:
    return rng.choice([o for o in world.relations[fact.relation].objects if o != fact.object])


def _studied(rng: random.Random, relation: Relation) -> list[str]:
    """Templates to study: a statement and a question, then any; never the canonical one."""
    chosen = [rng.choice(relation.statements[1:]), rng.choice(relation.questions)]
    rest = [template for template in relation.phrasings[1:] if template not in chosen]
    return chosen + rng.sample(rest, STUDIED - len(chosen))


def _split(rng: random.Random, facts: Sequence[WorldFact]) -> tuple[list[WorldFact], list[WorldFact]]:
    """Facts to ask and facts to study, as many of each; one more to ask where they are odd."""
    drawn = rng.sample(facts, min(2 * NEIGHBOURS, len(facts)))
    return drawn[: (len(drawn) + 1) // 2], drawn[(len(drawn) + 1) // 2 :]


def _unmoved(world: World, rng: random.Random, facts: Sequence[WorldFact], kind: Kind) -> list[Question]:
    return [
        Question(prompt_of(rng.choice(world.relations[f.relation].phrasings), f.subject), kind, (f.object,))
        for f in facts
    ]
