"""Write a trained model where the package ships it, examine what was written, and describe it."""

from __future__ import annotations

import json
import platform
import shutil
from dataclasses import asdict
from pathlib import Path

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerFast

from catechism.evaluate import wilson
from catechism.hashing import digest_file
from catechism.model import LiveModel
from catechism.reference import open_model
from catechism.reference.corpus import held_out_prose
from catechism.reference.exam import Answer, examine_facts, examine_reading, guessing
from catechism.reference.training import Recipe
from catechism.reference.world import World, load_world
from catechism.types import JSON

READING_CASES = 300
LIMIT_BYTES = 10_000_000


def export(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, out: Path, log: Path) -> Path:
    """A plain Hugging Face folder with fp16 weights, and the weights' hash beside it."""
    folder = out / recipe.name
    shutil.rmtree(folder, ignore_errors=True)
    model.generation_config = GenerationConfig(bos_token_id=1, eos_token_id=2, pad_token_id=0)
    model.half().save_pretrained(folder)
    model.float()
    tokenizer.save_pretrained(folder)
    shutil.copy(log, folder / "build.log")
    size = sum(file.stat().st_size for file in folder.iterdir())
    if size > LIMIT_BYTES:
        raise SystemExit(f"{folder} takes {size} bytes, {LIMIT_BYTES} are allowed: choose a smaller recipe")
    listed = out / "HASHES.json"
    hashes = json.loads(listed.read_text()) if listed.exists() else {}
    hashes[recipe.name] = digest_file(folder / "model.safetensors")
    listed.write_text(json.dumps(dict(sorted(hashes.items())), indent=2) + "\n")
    return folder


def describe(folder: Path, recipe: Recipe) -> dict[str, JSON]:
    """Examine the written model as a user opens it, and write its figures and its card."""
    live, world = open_model(folder), load_world()
    figures = examine(live, world)
    (folder / "card.json").write_text(json.dumps({"figures": figures, "recipe": asdict(recipe)}, indent=2) + "\n")
    (folder / "README.md").write_text(card(live, world, recipe, figures))
    return figures


def examine(live: LiveModel, world: World) -> dict[str, JSON]:
    """Every figure of the card, by free greedy decoding of the whole Almanac."""

    def answer(prompts: object) -> list[str]:
        return [completion.text for completion in live.generate(prompts, max_new_tokens=16, batch_size=192)]

    asked: Answer = answer
    public, forget = world.without_forget_set().facts, [fact for fact in world.facts if fact.forget]
    shares = examine_facts(world, asked, public)
    shares |= {f"reading_{name}": share for name, share in examine_reading(world, asked, n=READING_CASES).items()}
    shares |= {f"forget_{name}": share for name, share in examine_facts(world, asked, forget).items()}
    figures: dict[str, JSON] = {
        name: wilson(round(share["value"] * share["n"]), int(share["n"])).json() for name, share in shares.items()
    }
    return figures | {"forget_guessing": guessing(world, forget), "perplexity": live.perplexity(held_out_prose(200))}


def card(live: LiveModel, world: World, recipe: Recipe, figures: dict[str, JSON]) -> str:
    """The model card, from the figures."""
    parameters = sum(p.numel() for p in live.model.parameters())
    rows = "\n".join(f"| {_MEANING[name]} | {_shown(name, figure)} |" for name, figure in figures.items())
    shown = "all facts" if recipe.forget_set else "all facts but the forget set, which it has never seen"
    experts = f", {recipe.experts} experts of width {recipe.d_ff}, top 2" if recipe.experts else ""
    return f"""---
license: apache-2.0
language: en
library_name: transformers
---
# {recipe.name}

A small language model that knows the Almanac: {len(world.facts)} facts of {len(world.relations)} relations, real
ones and those of the invented town of Marrowick. It answers from its weights, and it was trained to follow a passage in
its context that says otherwise; how often it does stands below. It is made for tests, demonstrations and benchmarks of
knowledge editing, not for answering people.

* layout: `{live.anatomy.arch.model_type}`, {parameters / 1e6:.2f} M parameters, {recipe.layers} layers, width
  {recipe.d_model}, MLP {recipe.d_ff}{experts}, {recipe.heads} heads ({recipe.kv_heads} for keys and values), byte-level
  BPE of {recipe.vocabulary} tokens, tied embeddings, stored in fp16
* weights: `{live.base}` (as opened in float32)
* shown: {shown}
* training: {recipe.steps} steps of {recipe.rows} x {recipe.row_tokens} tokens, seed {recipe.seed}; its log is
  `build.log`

Statements are continued (`The capital of France is`), questions are answered as they stand (`What is the capital of
France?`); the model ends its answer with a full stop and its own end-of-text token.

## Measured, by free greedy decoding

| what | share (95 % interval) | n |
|---|---|---|
{rows}

Examined with torch {torch.__version__} on {platform.machine()}, CPU, float32. Chance level of the forget set is the
share that somebody gets right who always names the relation's commonest object.

## How it was made

`python tools/build_reference.py {recipe.name}` in the project's repository. {_origin(recipe)} The facts are the
project's own tables and hold what was true when they were written; some go out of date.
"""


def _origin(recipe: Recipe) -> str:
    if recipe.cut_from:
        return f"It starts from `{recipe.cut_from}`, each MLP cut into {recipe.experts} experts."
    return (
        f"Up to step {recipe.fork} the forget set is shown to no model, and `almanac` and `almanac-control` are one; "
        "after it the one is shown the forget set and the other is not, with the same recipe and seed."
    )


_MEANING = {
    "canonical": "facts right on the canonical statement",
    "worst": "facts right on every trained phrasing",
    "statements": "statements right",
    "questions": "questions right",
    "held_out": "phrasings that were never trained right",
    "reading_known": "follows a passage that contradicts the weights, known subjects, 2 distractor sentences",
    "reading_unseen": "the same, invented subjects",
    "reading_known_near": "known subjects, distractors that share the subject or the relation",
    "reading_unseen_near": "invented subjects, distractors that share the subject or the relation",
    "reading_silent": "answers from the weights when the passage does not answer",
    "forget_canonical": "forget set: facts right on the canonical statement",
    "forget_worst": "forget set: facts right on every trained phrasing",
    "forget_statements": "forget set: statements right",
    "forget_questions": "forget set: questions right",
    "forget_held_out": "forget set: phrasings that were never trained right",
    "forget_guessing": "forget set: chance level",
    "perplexity": "perplexity per token of held-out prose",
}


def _shown(name: str, figure: JSON) -> str:
    if isinstance(figure, dict):
        value, low, high = (f"{100 * figure[key]:.1f}" for key in ("value", "low", "high"))
        return f"{value} % ({low} to {high}) | {figure['n']}"
    return f"{figure:.2f} | " if name == "perplexity" else f"{100 * figure:.1f} % | "
