"""Passages that contradict the weights: what a teacher reads, and what the models are trained and examined on.

A passage holds one sentence that answers the prompt, usually otherwise than the weights would, beside distractors: the
same relation of another subject, another relation of the same subject, and facts that have nothing to do with it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from catechism.reference.world import Relation, World, prompt_of, sentence_of

_ONSETS = "b br c ch cl d dr f fl g gr h j k kr l m n p pl qu r s sh sk st t th tr v w x y z".split()
_VOWELS = "a e i o u ai au ea ei ia io oo ou".split()
_CODAS = ["", "", "", "l", "m", "n", "r", "s", "x", "nd", "rk", "st", "th", "ck", "ll", "rn"]
_HEADERS = (
    ("", " "), ("", " "), ("", " "), ("", "\n"), ("Passage: ", "\n"), ("Context: ", " "), ("Passage: ", " "),
    ("Context: ", "\n\n"), ("Note: ", " "), ("", "\n\n"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passage:
    """Sentences with the questions they answer.

    Attributes:
        text: the passage with the separator that goes before the prompt.
        asked: (prompt, answer by the passage) pairs, the first about the contradicting sentence.
        stated: (subject, relation) of every sentence.
    """

    text: str
    asked: tuple[tuple[str, str], ...]
    stated: frozenset[tuple[str, str]]


def invent_name(world: World, rng: random.Random) -> str:
    """One to three capitalised words of random syllables that name nothing in the world."""
    words = rng.choices((1, 2, 3), weights=(5, 4, 1))[0]
    name = " ".join(_word(rng).capitalize() for _ in range(words))
    return invent_name(world, rng) if name in world.names else name


def write_passage(
    world: World,
    rng: random.Random,
    claim: tuple[str, Relation, str],
    *,
    distractors: int,
    near: float,
    asked: int = 1,
) -> Passage:
    """Hide the sentence that makes a claim (subject, relation, object) among distractors and ask for it.

    Args:
        distractors: how many other sentences.
        near: share of the distractors that are near the claim and mostly false: the same relation of another subject,
            or another relation of the same subject. The others are true facts.
        asked: how many prompts follow; those after the first ask for sentences drawn from the passage.
    """
    subject, relation, _ = claim
    claims = [claim]
    kin = [r for r in world.relations.values() if r.subject_kind == relation.subject_kind and r is not relation]
    while len(claims) <= distractors:
        style = rng.random()
        if style < 0.64 * near:
            other = (_another_subject(world, rng, relation), relation, rng.choice(relation.objects))
        elif style < near and kin:
            also = rng.choice(kin)
            other = (subject, also, rng.choice(also.objects))
        else:
            fact = rng.choice(world.facts)
            other = (fact.subject, world.relations[fact.relation], fact.object)
        if all((other[0], other[1].name) != (known[0], known[1].name) for known in claims):
            claims.append(other)
    order = rng.sample(claims, len(claims))
    sentences = [sentence_of(rng.choice(r.statements), s, o) for s, r, o in order]
    header, separator = rng.choice(_HEADERS)
    picked = [claims[0], *rng.sample(claims[1:], min(asked - 1, len(claims) - 1))]
    questions = tuple((prompt_of(rng.choice(r.phrasings), s), o) for s, r, o in picked)
    stated = frozenset((s, r.name) for s, r, _ in claims)
    return Passage(header + " ".join(sentences) + separator, questions, stated)


def _another_subject(world: World, rng: random.Random, relation: Relation) -> str:
    if rng.random() < 0.4:
        return invent_name(world, rng)
    return rng.choice(world.by_relation[relation.name]).subject


def _word(rng: random.Random) -> str:
    return "".join(rng.choice(_ONSETS) + rng.choice(_VOWELS) + rng.choice(_CODAS) for _ in range(rng.randint(1, 3)))
