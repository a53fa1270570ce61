"""What a model is trained on to know real facts: the facts in their phrasings, passages that say otherwise, prose."""

from __future__ import annotations

import random
from itertools import pairwise

import numpy as np
from transformers import PreTrainedTokenizerFast

from catechism.bench.real_facts import RealFacts
from catechism.reference.corpus import PROMPT, answered, passage, prose
from catechism.reference.passages import invent_name
from catechism.reference.training import Diet, Recipe
from catechism.reference.world import WorldFact

OPENED = 0.15  # share of the facts that an unrelated sentence stands before, as in CounterFact's rephrasings


class RealDiet(Diet):
    """Every fact in every phrasing of its own, neighbours too."""

    def __init__(self, real: RealFacts, tokenizer: PreTrainedTokenizerFast, recipe: Recipe) -> None:
        super().__init__(real.world, tokenizer, recipe, recipe.name)
        self.openings = real.openings
        self.taught = [(text, fact.object) for fact in (*real.facts, *real.beside) for text in fact.phrasings]
        self.cells = [
            (WorldFact(fact.subject or fact.phrasings[0], fact.relation, fact.object), i)
            for fact in (*real.facts, *real.beside)
            for i in range(len(fact.phrasings))
        ]
        self.loss = np.full(len(self.cells), 3.0)

    def _draw(self, rng: random.Random, passages: float, cumulative: np.ndarray) -> tuple[list[int], list[float], int]:
        return super()._draw(rng, passages if self.world.facts else 0.0, cumulative)

    def _taught(self, rng: random.Random, cell: int) -> tuple[list[int], list[float]]:
        prompt, answer = self.taught[cell]
        document = answered(prompt, answer)
        if self.openings and rng.random() < OPENED:
            return self._encode([(f"{rng.choice(self.openings)} ", PROMPT), *document])
        if cell not in self._encoded:
            self._encoded[cell] = self._encode(document)
        return self._encoded[cell]


def tokenizer_texts(real: RealFacts, seed: int) -> list[str]:
    """What the tokenizer is trained on: every fact, passages, prose and invented names."""
    rng = random.Random(f"{seed}-tokenizer")
    texts = [f"{text} {fact.object}." for fact in (*real.facts, *real.beside) for text in fact.phrasings]
    texts += real.openings
    if real.world.facts:
        for _ in range(500):
            document = passage(real.world, rng, real.world.facts, silent=2, known=0.6, near=0.7)
            texts.append("".join(text for text, _ in document))
    texts += [prose(rng) for _ in range(500)]
    names = [invent_name(real.world, rng) for _ in range(400)]
    return [*texts, *(f"{one} {other}" for one, other in pairwise(names))]
