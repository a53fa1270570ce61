"""Build the shipped models from the Almanac.

    python tools/build_reference.py almanac almanac-control almanac-moe

Resumable: a run that was stopped goes on from its last save in the work folder. Writes plain Hugging Face folders
(config, fp16 safetensors, tokenizer), their hashes, the build log and the model card with its measured figures.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerFast
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent))

from reference_build.experts import cut_into_experts
from reference_build.publish import describe, export
from reference_build.recipe import RECIPES
from reference_build.tokenizer import train_tokenizer

from catechism.reference.exam import examine_facts, examine_reading
from catechism.reference.training import BOS, EOS, PAD, Diet, Recipe, Trainer, new_model
from catechism.reference.world import load_world

SHIPPED = Path(__file__).parents[1] / "src" / "catechism" / "reference" / "checkpoints"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", choices=sorted(RECIPES))
    parser.add_argument("--work", type=Path, default=Path("build/reference"), help="states of unfinished runs")
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    logging.set_verbosity_error()
    for name in args.models:
        build(RECIPES[name], args.work, args.out)


def build(recipe: Recipe, work: Path, out: Path) -> None:
    """Train one model (its trunk first, unless that is there) and publish it."""
    world, tokenizer = load_world(), _tokenizer(recipe, work)
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    if tokenizer.convert_tokens_to_ids([BOS, EOS, PAD]) != [1, 2, 0]:
        raise SystemExit("the tokenizer's special tokens are not where the model expects them")
    log_file = work / f"{recipe.name}.log"

    def log(line: str) -> None:
        sys.stderr.write(f"{recipe.name}: {line}\n")
        with log_file.open("a") as f:
            f.write(line + "\n")

    model = new_model(recipe, len(tokenizer), ids)
    public = world.without_forget_set()
    if recipe.trunk:
        diet = Diet(public, tokenizer, recipe, recipe.trunk)
        trunk = Trainer(recipe, model, diet, work / recipe.trunk, compiled=True)
        trunk.resume()
        trunk.run(recipe.fork, lambda _: _quick_exam(model, tokenizer), log)
    if recipe.cut_from:
        dense = torch.load(work / recipe.cut_from / "state.pt", weights_only=True)
        if dense["step"] < RECIPES[recipe.cut_from].steps:
            raise SystemExit(f"{recipe.cut_from} is not finished: build it first")
        cut_into_experts(dense["model"], model, recipe)
    shown = world if recipe.forget_set else public
    diet = Diet(shown, tokenizer, recipe, recipe.name)
    branch = Trainer(recipe, model, diet, work / recipe.name, compiled=True)
    if not branch.resume() and recipe.trunk:
        branch.resume(work / recipe.trunk)
    branch.run(recipe.steps, lambda _: _quick_exam(model, tokenizer), log)
    folder = export(model, tokenizer, recipe, out, log_file)
    for name, figure in describe(folder, recipe).items():
        sys.stderr.write(f"{recipe.name}: {name} {figure}\n")


def _tokenizer(recipe: Recipe, work: Path) -> PreTrainedTokenizerFast:
    folder = work / "tokenizer"
    if not folder.exists():
        train_tokenizer(load_world().without_forget_set(), recipe).save_pretrained(folder)
    return PreTrainedTokenizerFast.from_pretrained(folder)


def _quick_exam(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast) -> str:
    world = load_world()
    model.eval()

    def answer(prompts: list[str]) -> list[str]:
        replies = []
        for i in range(0, len(prompts), 100):
            rows = tokenizer(prompts[i : i + 100], padding=True, padding_side="left", return_tensors="pt")
            rows.pop("token_type_ids", None)
            out = model.generate(**rows, max_new_tokens=14, do_sample=False)
            replies += tokenizer.batch_decode(out[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)
        return replies

    figures = examine_facts(world, answer, world.without_forget_set().facts[::40]) | examine_reading(
        world, answer, n=60
    )
    forget = [fact for fact in world.facts if fact.forget]
    figures["forget_set"] = examine_facts(world, answer, forget[::4])["statements"]
    return "  ".join(f"{name} {figure['value']:.3f}" for name, figure in figures.items())


if __name__ == "__main__":
    main()
