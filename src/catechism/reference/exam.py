"""The examination a shipped model has to pass, by free greedy decoding: what it knows, and whether it reads."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from catechism.reference.passages import invent_name, write_passage
from catechism.reference.world import World, WorldFact, prompt_of

#: Prompts in, free greedy continuations out, up to the model's own stop.
Answer = Callable[[Sequence[str]], Sequence[str]]

Figure = dict[str, float | int]


def examine_facts(world: World, answer: Answer, facts: Sequence[WorldFact]) -> dict[str, Figure]:
    """Ask every fact in every phrasing.

    Returns figures ``canonical`` (share of facts right on the canonical statement), ``worst`` (share right on every
    trained phrasing), ``statements`` and ``questions`` (share of prompts right), ``held_out`` (phrasings no model saw).
    """
    asked = [(i, template) for i, fact in enumerate(facts) for template in _templates(world, fact)]
    replies = answer([prompt_of(template, facts[i].subject) for i, template in asked])
    right = {key: is_right(reply, facts[key[0]].object) for key, reply in zip(asked, replies, strict=True)}
    relations = [world.relations[fact.relation] for fact in facts]
    return {
        "canonical": _share([right[i, r.statements[0]] for i, r in enumerate(relations)]),
        "worst": _share([all(right[i, t] for t in r.phrasings) for i, r in enumerate(relations)]),
        "statements": _share([right[i, t] for i, r in enumerate(relations) for t in r.statements]),
        "questions": _share([right[i, t] for i, r in enumerate(relations) for t in r.questions]),
        "held_out": _share([right[i, t] for i, r in enumerate(relations) for t in r.held_out]),
    }


def examine_reading(world: World, answer: Answer, *, n: int, seed: int = 0) -> dict[str, Figure]:
    """Put a passage that contradicts the weights, with two distractor sentences, before the prompt.

    Returns figures ``known`` (subjects of the Almanac, another object), ``unseen`` (invented subjects), and ``silent``
    (passages that do not answer the prompt: the weights have to).
    """
    rng = random.Random(f"reading-{seed}")
    known, unseen, silent = ([_passage_case(world, rng, style) for _ in range(n)] for style in ("known", "unseen", ""))
    replies = answer([prompt for prompt, _ in (*known, *unseen, *silent)])
    right = [is_right(r, want) for r, (_, want) in zip(replies, (*known, *unseen, *silent), strict=True)]
    return {
        "known": _share(right[:n]),
        "unseen": _share(right[n : 2 * n]),
        "silent": _share(right[2 * n :]),
    }


def guessing(world: World, facts: Sequence[WorldFact]) -> float:
    """The share right of somebody who always says the relation's commonest object: the level of guessing."""
    hits = 0
    for relation in {fact.relation for fact in facts}:
        objects = [fact.object for fact in facts if fact.relation == relation]
        hits += max(objects.count(o) for o in set(objects))
    return hits / len(facts)


def is_right(reply: str, want: str) -> bool:
    """Is the whole reply the wanted answer, apart from case and the full stop?"""
    return reply.strip().removesuffix(".").strip().casefold() == want.casefold()


def _templates(world: World, fact: WorldFact) -> tuple[str, ...]:
    relation = world.relations[fact.relation]
    return relation.phrasings + relation.held_out


def _passage_case(world: World, rng: random.Random, style: str) -> tuple[str, str]:
    fact = rng.choice(world.facts)
    relation = world.relations[fact.relation]
    if style:
        subject = fact.subject if style == "known" else invent_name(rng)
        claim = rng.choice([o for o in relation.objects if o != fact.object])
        passage = write_passage(world, rng, subject, relation, claim, distractors=2)
        return passage.text + passage.asked[0][0], claim
    other = rng.choice([r for r in world.relations.values() if r is not relation])
    about = rng.choice([f for f in world.by_relation[other.name] if f.subject != fact.subject])
    passage = write_passage(world, rng, about.subject, other, about.object, distractors=2)
    if fact.subject in passage.text:
        return _passage_case(world, rng, style)
    return passage.text + prompt_of(rng.choice(relation.phrasings), fact.subject), fact.object


def _share(right: Sequence[bool]) -> Figure:
    return {"value": sum(right) / len(right), "n": len(right)}
