"""The tokenizer of the shipped models."""

from __future__ import annotations

import random

from transformers import PreTrainedTokenizerFast

from catechism.reference import corpus
from catechism.reference.passages import invent_name
from catechism.reference.training import Recipe, byte_pair_tokenizer
from catechism.reference.world import World


def train_tokenizer(world: World, recipe: Recipe) -> PreTrainedTokenizerFast:
    """Byte-level BPE on the Almanac without the forget set, prose and invented names."""
    rng = random.Random(f"{recipe.seed}-tokenizer")
    texts = ["".join(text for text, _ in corpus.statement(world, fact, 0)) for fact in world.facts for _ in range(4)]
    diet = {"silent": 2, "known": 0.6, "near": 0.7}
    texts += ["".join(text for text, _ in corpus.passage(world, rng, world.facts, **diet)) for _ in range(3000)]
    texts += [corpus.prose(rng) for _ in range(2000)]
    texts += [f"{invent_name(world, rng)} {invent_name(world, rng)}" for _ in range(1000)]
    return byte_pair_tokenizer(texts, recipe.vocabulary)
