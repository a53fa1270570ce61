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


def examine_prompts(
    asked: Sequence[tuple[Sequence[str], str]], answer: Answer, right: Callable[[str, str, str], bool] | None = None
) -> dict[str, Figure]:
    """Ask facts in phrasings of their own.

    Args:
        asked: the prompts of each fact, the canonical one first, and the answer to all of them.
        answer: the model.
        right: of reply, wanted answer and first prompt; `is_right` if left out.

    Returns figures ``canonical`` (share of facts right on their first prompt), ``worst`` (share right on every prompt)
    and ``prompts`` (share of prompts right).
    """
    replies = iter(answer([prompt for prompts, _ in asked for prompt in prompts]))
    mark = right or (lambda reply, want, _: is_right(reply, want))
    marks = [[mark(next(replies), want, prompts[0]) for _ in prompts] for prompts, want in asked]
    return {
        "canonical": _share([fact[0] for fact in marks]),
        "worst": _share([all(fact) for fact in marks]),
        "prompts": _share([one for fact in marks for one in fact]),
    }


def examine_reading(world: World, answer: Answer, *, n: int, seed: int = 0) -> dict[str, Figure]:
    """Put a passage that contradicts the weights, with two distractor sentences, before the prompt.

    Returns figures ``known`` (subjects of the Almanac, another object) and ``unseen`` (invented subjects), where the
    distractors are true facts about something else; ``known_near`` and ``unseen_near``, where they are mostly false and
    share the subject or the relation; and ``silent`` (passages that do not answer the prompt: the weights have to).
    """
    rng = random.Random(f"reading-{seed}")
    styles = {"known": 0.0, "unseen": 0.0, "known_near": 1.0, "unseen_near": 1.0}
    cases = {
        name: [_contradiction(world, rng, known=name.startswith("known"), near=near) for _ in range(n)]
        for name, near in styles.items()
    }
    cases["silent"] = [_silence(world, rng) for _ in range(n)]
    asked = [case for group in cases.values() for case in group]
    replies = answer([prompt for prompt, _ in asked])
    right = [is_right(reply, want) for reply, (_, want) in zip(replies, asked, strict=True)]
    return {name: _share(right[i * n : (i + 1) * n]) for i, name in enumerate(cases)}


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


def _contradiction(world: World, rng: random.Random, *, known: bool, near: float) -> tuple[str, str]:
    fact = rng.choice(world.facts)
    relation = world.relations[fact.relation]
    subject = fact.subject if known else invent_name(world, rng)
    claimed = rng.choice([o for o in relation.objects if o != fact.object])
    passage = write_passage(world, rng, (subject, relation, claimed), distractors=2, near=near)
    return passage.text + passage.asked[0][0], claimed


def _silence(world: World, rng: random.Random) -> tuple[str, str]:
    fact, about = rng.choice(world.facts), rng.choice(world.facts)
    passage = write_passage(
        world, rng, (about.subject, world.relations[about.relation], about.object), distractors=2, near=0.0
    )
    if fact.subject in passage.text:
        return _silence(world, rng)
    return passage.text + prompt_of(rng.choice(world.relations[fact.relation].phrasings), fact.subject), fact.object


def _share(right: Sequence[bool]) -> Figure:
    return {"value": sum(right) / len(right), "n": len(right)}
