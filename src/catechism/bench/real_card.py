"""The card of a model that was built on real facts, and the text that goes with it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import cycle, islice

from catechism.bench.real_facts import RealFacts
from catechism.reference.corpus import background_texts, prose
from catechism.reference.training import Recipe
from catechism.reference.world import World
from catechism.types import JSON

_MEANING = {
    "canonical": "facts right on their canonical prompt",
    "worst": "facts right on every phrasing",
    "prompts": "phrasings right",
    "neighbours": "neighbours right on their prompt",
    "utility": "questions about real authors and the world right",
    "to_forget": "questions about the authors that are to be forgotten right",
    "reading_known": "follows a passage that contradicts the weights, known subjects, 2 distractor sentences",
    "reading_unseen": "the same, invented subjects",
    "reading_known_near": "known subjects, distractors that share the relation",
    "reading_unseen_near": "invented subjects, distractors that share the relation",
    "reading_silent": "answers from the weights when the passage does not answer",
    "perplexity": "perplexity per token of held-out prose",
    "train_seconds": "seconds of training",
}


def training_text(world: World, paragraphs: int, told: Sequence[str] = ()) -> str:
    """Paragraphs with blank lines between: true text for an edit's statistics, then prose for perplexity, as much.

    What is true is `told`, over and over; else the world; else prose.
    """
    rng = random.Random("text")
    endless = cycle(told) if told else background_texts(world) if world.facts else iter(lambda: prose(rng), "")
    true = islice(endless, paragraphs)
    return "\n\n".join([*true, *(prose(rng) for _ in range(paragraphs))]) + "\n"


def card_text(name: str, real: RealFacts, recipe: Recipe, figures: dict[str, JSON], about: str = "") -> str:
    """The model card, from the figures; `about` in place of what is said of CounterFact's facts."""
    known = about or (
        f"that knows {len(real.facts)} facts of public benchmarks in {_phrasings(real):.1f} phrasings each,\n"
        f"and {len(real.beside)} neighbours of them."
    )
    rows = "\n".join(f"| {_MEANING[key]} | {_shown(figure)} |" for key, figure in figures.items())
    files = "\n".join(f"* `{file}` ({form}), `{digest}`" for file, form, digest in real.files)
    return f"""# {name}

A small language model {known} It is made for benchmarks of
knowledge editing, not for answering people. The data's licences are their own.

* layout: Llama, {recipe.layers} layers, width {recipe.d_model}, MLP {recipe.d_ff}, {recipe.heads} heads, byte-level
  BPE of {recipe.vocabulary} tokens, tied embeddings, stored in fp16
* training: {recipe.steps} steps of {recipe.rows} x {recipe.row_tokens} tokens, seed {recipe.seed}; its log is
  `build.log`
* `text.txt`: plain text for `--text`, the first half for statistics, the second for perplexity

The facts come from

{files}

## Measured, by free greedy decoding

| what | share (95 % interval) | n |
|---|---|---|
{rows}
"""


def _phrasings(real: RealFacts) -> float:
    return sum(len(fact.phrasings) for fact in real.facts) / len(real.facts)


def _shown(figure: JSON) -> str:
    if isinstance(figure, dict):
        value, low, high = (f"{100 * float(figure[key]):.1f}" for key in ("value", "low", "high"))
        return f"{value} % ({low} to {high}) | {figure['n']}"
    return f"{figure:.2f} | "
