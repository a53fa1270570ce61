"""Text of the Almanac: the documents that the models are trained on, and prose held out to measure perplexity.

A document is a list of (text, weight) segments; the weight says how much of the training loss its tokens carry. What a
passage claims carries none, since most of it is false; the answer to a prompt carries all.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache

from catechism.reference.passages import invent_name, write_passage
from catechism.reference.world import World, WorldFact, prompt_of, read_table, sentence_of

Segment = tuple[str, float]
Document = list[Segment]

ANSWER = 1.0
END: Segment = ("", ANSWER)  # the text ends here, though the document may go on
PROMPT = 0.1  # enough to keep the text likely, little enough to leave the room to the answers


def statement(world: World, fact: WorldFact, phrasing: int) -> Document:
    """One fact in one of its relation's phrasings."""
    return answered(prompt_of(world.relations[fact.relation].phrasings[phrasing], fact.subject), fact.object)


def answered(prompt: str, answer: str) -> Document:
    """A prompt with its answer."""
    return [(prompt, PROMPT), (f" {answer}.", ANSWER)]


def reversed_statement(world: World, rng: random.Random, facts: Sequence[WorldFact]) -> Document:
    """The object first and the subject as the answer, for a one-to-one relation."""
    while True:
        fact = rng.choice(facts)
        templates = world.relations[fact.relation].reversed
        if templates:
            before, _ = rng.choice(templates).split("{subject}")
            return answered(before.replace("{object}", fact.object).rstrip(), fact.subject)


def passage(
    world: World, rng: random.Random, facts: Sequence[WorldFact], *, silent: int, known: float, near: float
) -> Document:
    """A passage and questions on it, in any order; answers follow the passage, or the weights where it is silent.

    One to three questions are answered by the passage. Half of the others ask for something close to what it says.

    Args:
        silent: up to how many questions follow that the passage does not answer.
        known: share of the passages about a subject of the Almanac; the others are about an invented one.
        near: share of the distractors that are near the claim, see `write_passage`.
    """
    fact = rng.choice(facts)
    relation = world.relations[fact.relation]
    subject = fact.subject if rng.random() < known else invent_name(world, rng)
    answer = rng.choice(relation.objects)
    if rng.random() < 0.2:
        answer = invent_name(world, rng)
    if subject == fact.subject and rng.random() < 0.1:
        answer = fact.object
    text = write_passage(world, rng, (subject, relation, answer), distractors=rng.randint(0, 3), near=near, asked=3)
    questions = list(text.asked)
    for _ in range(rng.randint(0, silent)):
        pool = rng.choice((facts, facts, world.by_relation[fact.relation], world.by_subject[fact.subject]))
        other = rng.choice(pool)
        if (other.subject, other.relation) not in text.stated:
            prompt = prompt_of(rng.choice(world.relations[other.relation].phrasings), other.subject)
            questions.append((prompt, other.object))
    document: Document = [(text.text, 0.0)]
    for i, (prompt, reply) in enumerate(rng.sample(questions, len(questions))):
        joint = rng.choice(("", " ", "\n")) if i else ""  # before the first one stands the passage's own
        document += [(joint + prompt, 0.0), (f" {reply}.", ANSWER), END]
    return document[:-1]


def article(world: World, rng: random.Random, facts: Sequence[WorldFact]) -> Document:
    """True sentences in a row: all about one subject, or each about another."""
    about = world.by_subject[rng.choice(facts).subject]
    if len(about) < 2 or rng.random() < 0.5:
        about = tuple(rng.choice(facts) for _ in range(rng.randint(2, 4)))
    document: Document = []
    for fact in rng.sample(about, len(about)):
        prompt = prompt_of(rng.choice(world.relations[fact.relation].phrasings), fact.subject)
        document += [((" " if document else "") + prompt, PROMPT), (f" {fact.object}.", ANSWER)]
    return document


def prose(rng: random.Random) -> str:
    """A paragraph of two to four plain sentences that hold no fact of the Almanac."""
    grammar = _grammar()
    sentences = []
    for _ in range(rng.randint(2, 4)):
        sentence = rng.choice(grammar["sentence"])
        while "<" in sentence:
            slot = sentence[sentence.index("<") + 1 : sentence.index(">")]
            sentence = sentence.replace(f"<{slot}>", rng.choice(grammar[slot]), 1)
        first = 1 if sentence.startswith('"') else 0
        sentences.append(sentence[: first + 1].upper() + sentence[first + 1 :])
    return " ".join(sentences)


def held_out_prose(n: int) -> list[str]:
    """`n` paragraphs that no model has seen, for perplexity."""
    rng = random.Random("held-out prose")
    return [prose(rng) for _ in range(n)]


def background_texts(world: World, *, seed: int = 0) -> Iterator[str]:
    """Endless true text of the Almanac (statements, articles, prose) for the statistics of an edited layer."""
    rng = random.Random(f"background-{seed}")
    while True:
        draw = rng.random()
        if draw < 0.7:
            fact = rng.choice(world.facts)
            yield sentence_of(rng.choice(world.relations[fact.relation].phrasings), fact.subject, fact.object)
        elif draw < 0.9:
            yield "".join(text for text, _ in article(world, rng, world.facts))
        else:
            yield prose(rng)


@cache
def _grammar() -> dict[str, list[str]]:
    return tomllib.loads(read_table("prose.toml"))
