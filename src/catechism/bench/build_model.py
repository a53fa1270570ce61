"""``catechism bench build-model``: train a small model that knows the facts of real benchmarks, and examine it.

From TOFU two models are made, of one recipe, seed and tokenizer: one that knows some authors, and its control, which is
never shown those of them that are to be forgotten.

The model is an ordinary Hugging Face folder outside the repository, addressed by what it was trained on and how: the
same request finds it again. An interrupted training goes on from its last save. Beside the weights stand the card (what
data, what recipe, what it knows) and `text.txt`, plain text for the statistics and the perplexity of an edit.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import cast

import torch
from rich.console import Console
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from catechism.bench.real_card import card_text, training_text
from catechism.bench.real_diet import RealDiet, tokenizer_texts
from catechism.bench.real_facts import RealFacts, collect
from catechism.bench.tofu import Authors, read_authors
from catechism.datasets import TrueFact
from catechism.errors import UsageError
from catechism.evaluate import wilson
from catechism.hashing import digest_file, digest_json
from catechism.matching import conveys
from catechism.model import LiveModel
from catechism.reference import open_model
from catechism.reference.corpus import held_out_prose
from catechism.reference.exam import Figure, examine_prompts, examine_reading, is_right
from catechism.reference.training import BOS, EOS, PAD, Recipe, Trainer, byte_pair_tokenizer, new_model
from catechism.settings import Settings
from catechism.types import JSON

LARGE = 5_000  # facts from which a GPU gets the larger recipe
READING_CASES = 100
QUICK = 120  # facts that are asked while the training runs
PILOT = 20  # steps by which the pace is measured
CARD = "card.json"
_ANSWER_TOKENS = 24
_SPARE_TOKENS = 6  # beside those of the longest answer


@dataclass(frozen=True, slots=True)
class Request:
    """What to build.

    Attributes:
        data: a folder with files of CounterFact and ParaRel; None for TOFU.
        facts: how many facts the model is to know; their neighbours come on top.
        tofu: a folder with files of TOFU, in place of `data`.
        authors: of TOFU, that the model is to know.
        forget: how many of them its control is never shown.
        out: where models are put; None is a folder in the cache.
        seed: of weights and batches.
        steps: of training; None is what the recipe says.
        minutes: of training, in place of `steps`: the pace is measured first.
    """

    data: Path | None = None
    facts: int = 500
    tofu: Path | None = None
    authors: int = 12
    forget: int = 3
    out: Path | None = None
    seed: int = 0
    steps: int | None = None
    minutes: float | None = None


def recipe_for(facts: int, *, seed: int, steps: int | None, device: str | None) -> Recipe:
    """The size, schedule and diet for so many facts: a small model, or on a GPU for many facts a larger one."""
    small = Recipe("counterfact", False, seed=seed)
    if (device or "cpu").startswith("cuda") and facts >= LARGE:
        large = replace(small, vocabulary=16_384, d_model=1024, layers=6, heads=16, kv_heads=16, d_ff=4096)
        return _planned(replace(large, rows=256, lr=1e-3), steps or 3000)
    return _planned(replace(small, vocabulary=4096 if facts > 100 else 1024), steps or 300 + facts)


def _planned(recipe: Recipe, steps: int) -> Recipe:
    """With a schedule for so many steps: a short climb, level for a half, then straight down."""
    warm = min(60, steps // 5)
    schedule = ((0, 0.0), (warm, 1.0), (max(warm + 1, steps // 2), 1.0), (steps, 0.01))
    return replace(recipe, steps=steps, fork=0, schedule=schedule, passages=((0, 0.3),), known=0.8, near=0.5, silent=2)


@dataclass(frozen=True)
class Job:
    """One model to be made.

    Attributes:
        name: its folder's begins with it.
        real: what it is to know.
        words: what its tokenizer is trained on: that of all models which are to be compared.
        told: what is true, for `text.txt`; () takes it from the world.
        beside: what `real.beside` is called.
        also: further facts that it is asked about, by the name of the figure.
        note: goes into the card, beside the data.
        about: the card's first paragraph; "" for the one of CounterFact.
    """

    name: str
    real: RealFacts
    words: RealFacts
    told: tuple[str, ...] = ()
    beside: str = "neighbours"
    also: Mapping[str, tuple[TrueFact, ...]] = field(default_factory=dict[str, tuple[TrueFact, ...]])
    note: Mapping[str, JSON] = field(default_factory=dict[str, JSON])
    about: str = ""


def _for_sentences(recipe: Recipe) -> Recipe:
    """Half as wide, and fewer rows: a sentence teaches more at a time than a name, and no passages are to be read."""
    rows, d_ff, d_model = min(recipe.rows, 16), min(recipe.d_ff, 512), min(recipe.d_model, 128)
    return replace(recipe, name="tofu", rows=rows, d_ff=d_ff, d_model=d_model, heads=4, kv_heads=4)


def run(request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """Build the model, unless it is there already; of TOFU the model and its control.

    Returns: ``rows``, for each model its folder and what it knows; ``recipe`` and ``data``, of the first.
    Raises: UsageError for a folder without facts, both or neither of the folders, or both steps and minutes.
    """
    if request.steps is not None and request.minutes is not None:
        raise UsageError("Got both --steps and --minutes. Give one of them: the one sets the other.")
    if any(given is not None and given <= 0 for given in (request.steps, request.minutes)):
        raise UsageError(f"steps={request.steps}, minutes={request.minutes} leaves no training. Give more.")
    if (request.data is None) is (request.tofu is None):
        raise UsageError(
            "Give one of the two: --data, a folder with CounterFact and ParaRel, or --tofu, one with TOFU."
        )
    if request.tofu is not None:
        return _tofu(read_authors(request.tofu, request.authors, request.forget), request, settings, console)
    real = collect(cast("Path", request.data), request.facts)
    folder, card = _made(Job(f"counterfact-{len(real.facts)}", real, real), request, settings, console)
    row: dict[str, JSON] = {"model": str(folder), "facts": len(real.facts), "neighbours": len(real.beside)}
    return {"rows": [row | cast("dict[str, JSON]", card["figures"])], "recipe": card["recipe"], "data": card["data"]}


def _tofu(authors: Authors, request: Request, settings: Settings, console: Console) -> dict[str, JSON]:
    """The model that knows the authors, then its control with as many steps."""
    if authors.set_apart:
        console.print(f"There is no forget file: the last {len(authors.go)} authors are set apart to be forgotten")
    whole = authors.facts()
    known = [*authors.facts(control=True).facts, *whole.beside]
    told = tuple(f"{fact.phrasings[0]} {fact.object}." for fact in known)
    rows, cards = list[JSON](), list[dict[str, JSON]]()
    for control in (False, True):
        tofu = authors.note | {"control": control}
        note = tofu | {"known": authors.known(control=control)}
        real = authors.facts(control=control)
        about = authors.told(control=control)
        name = f"tofu-{request.authors}-{request.forget}{'-control' if control else ''}"
        also = {"to_forget": whole.facts[-len(authors.go) * len(authors.go[0].items) :]}
        job = Job(name, real, whole, told, "utility", also, note, about)
        folder, card = _made(job, request, settings, console)
        steps = cast("dict[str, int]", card["recipe"])["steps"]
        request = replace(request, steps=steps, minutes=None)
        row: dict[str, JSON] = {"model": str(folder), "role": "control" if control else "model", **tofu}
        rows.append({**row, "questions": len(real.facts), **cast("dict[str, JSON]", card["figures"])})
        cards.append(card)
    return {"rows": rows, "recipe": cards[0]["recipe"], "data": cards[0]["data"]}


def _made(job: Job, request: Request, settings: Settings, console: Console) -> tuple[Path, dict[str, JSON]]:
    """The folder of a model, made now if it is not there, and its card."""
    recipe = recipe_for(len(job.words.facts), seed=request.seed, steps=request.steps, device=settings.device)
    if request.tofu is not None:
        recipe = _for_sentences(recipe)
    asked: dict[str, JSON] = {"facts": job.real.digest, "recipe": _plain(recipe), "minutes": request.minutes}
    if job.words is not job.real:
        asked |= {"words": job.words.digest}
    folder = (request.out or settings.cache / "models") / f"{job.name}-{digest_json(asked)[7:19]}"
    if (folder / CARD).is_file():
        console.print(f"{folder} is there already")
    else:
        _Build(job, recipe, request, settings, console, folder).make()
    return folder, cast("dict[str, JSON]", json.loads((folder / CARD).read_text(encoding="utf-8")))


@dataclass
class _Build:
    """One model in the making: a work folder beside the place where it will be."""

    job: Job
    recipe: Recipe
    request: Request
    settings: Settings
    console: Console
    folder: Path

    @property
    def work(self) -> Path:
        """Where states of an unfinished training are kept."""
        return self.folder.with_name(f".{self.folder.name}.work")

    def make(self) -> None:
        """Train, write, examine, and put in place."""
        self.work.mkdir(parents=True, exist_ok=True)
        tokenizer = self._tokenizer()
        real, longest = self.job.real, _longest(tokenizer, self.job.words)
        self.recipe = replace(self.recipe, row_tokens=max(self.recipe.row_tokens, longest))  # or it is never drawn
        model, seconds = self._trained(tokenizer)
        made = self.work / "model"
        shutil.rmtree(made, ignore_errors=True)
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model.generation_config = GenerationConfig(**ids)
        model.half().save_pretrained(made)
        tokenizer.save_pretrained(made)
        text = training_text(real.world, 2 * self.recipe.d_ff, self.job.told)
        (made / "text.txt").write_text(text, encoding="utf-8")
        figures = examine(open_model(made, device_map=self.settings.device), self.job)
        figures["train_seconds"] = seconds
        card = {
            "figures": figures,
            "recipe": _plain(self.recipe),
            "data": {"facts": real.digest, "files": [list(file) for file in real.files], **self.job.note},
            "weights": digest_file(made / "model.safetensors"),
        }
        read_me = card_text(self.folder.name, real, self.recipe, figures, self.job.about)
        (made / "README.md").write_text(read_me, encoding="utf-8")
        (made / CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
        shutil.copy(self.work / "build.log", made)
        shutil.rmtree(self.folder, ignore_errors=True)
        os.replace(made, self.folder)
        shutil.rmtree(self.work)

    def _trained(self, tokenizer: PreTrainedTokenizerFast) -> tuple[PreTrainedModel, float]:
        ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
        model = new_model(self.recipe, len(tokenizer), ids)
        if self.settings.device:
            model.to(torch.device(self.settings.device))  # pyright: ignore[reportArgumentType]
        real = self.job.real
        trainer = Trainer(self.recipe, model, RealDiet(real, tokenizer, self.recipe), self.work)
        if trainer.resume():
            self._log(f"goes on from step {trainer.step}")
        else:
            self._log(f"{len(real.facts)} facts and {len(real.beside)} {self.job.beside}, {len(tokenizer)} tokens")
        started, spent = time.perf_counter(), self._spent()
        self._settle_steps(trainer)

        def quick(_: int) -> str:
            self._note_time(spent + time.perf_counter() - started)
            return _quick_exam(model, tokenizer, real)

        trainer.run(self.recipe.steps, quick, self._log, every=100)
        return model, spent + time.perf_counter() - started

    def _settle_steps(self, trainer: Trainer) -> None:
        """With a number of minutes: measure the pace once, and keep the number of steps that it allows."""
        if self.request.minutes is None:
            return
        plan = self.work / "plan.json"
        if not plan.is_file():
            started, begun = time.perf_counter(), trainer.step
            trainer.run(begun + PILOT, lambda _: "", self._log)
            pace = (time.perf_counter() - started) / PILOT
            steps = max(trainer.step + 1, int(60 * self.request.minutes / pace))
            plan.write_text(json.dumps({"steps": steps}), encoding="utf-8")
        self.recipe = trainer.recipe = _planned(self.recipe, json.loads(plan.read_text(encoding="utf-8"))["steps"])

    def _tokenizer(self) -> PreTrainedTokenizerFast:
        folder = self.work / "tokenizer"
        if not folder.exists():
            made = byte_pair_tokenizer(tokenizer_texts(self.job.words, self.recipe.seed), self.recipe.vocabulary)
            if made.convert_tokens_to_ids([BOS, EOS, PAD]) != [1, 2, 0]:
                raise UsageError("The tokenizer's special tokens are not where the model expects them.")
            made.save_pretrained(folder)
        return PreTrainedTokenizerFast.from_pretrained(folder)

    def _log(self, line: str) -> None:
        if line:
            self.console.print(line)
            with (self.work / "build.log").open("a", encoding="utf-8") as file:
                file.write(line + "\n")

    def _spent(self) -> float:
        """Seconds of training in earlier runs."""
        file = self.work / "seconds.json"
        return float(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else 0.0

    def _note_time(self, seconds: float) -> None:
        (self.work / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")


def examine(live: LiveModel, job: Job) -> dict[str, JSON]:
    """What a model knows of the facts and whether it reads, by free greedy decoding."""
    real = job.real
    budget = _budget(live.tokenizer, job.words)

    def answer(prompts: Sequence[str]) -> list[str]:
        done = live.generate(prompts, max_new_tokens=budget, batch_size=192)
        return [completion.text for completion in done]

    shares: dict[str, Figure] = examine_prompts([(f.phrasings, f.object) for f in real.facts], answer, _right)
    if real.beside:
        beside = examine_prompts([(f.phrasings[:1], f.object) for f in real.beside], answer, _right)
        shares[job.beside] = beside["canonical"]
    for name, facts in job.also.items():
        shares[name] = examine_prompts([(f.phrasings[:1], f.object) for f in facts], answer, _right)["canonical"]
    if real.world.facts:
        reading = examine_reading(real.world, answer, n=READING_CASES)
        shares |= {f"reading_{name}": share for name, share in reading.items()}
    figures: dict[str, JSON] = {
        name: wilson(round(share["value"] * share["n"]), int(share["n"])).json() for name, share in shares.items()
    }
    return figures | {"perplexity": live.perplexity(held_out_prose(100))}


def _quick_exam(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, real: RealFacts) -> str:
    model.eval()
    budget = _budget(tokenizer, real)

    def answer(prompts: Sequence[str]) -> list[str]:
        rows = tokenizer(list(prompts), padding=True, padding_side="left", return_tensors="pt").to(model.device)
        rows.pop("token_type_ids", None)
        generate = cast("Callable[..., torch.Tensor]", model.generate)
        out = generate(**rows, max_new_tokens=budget, do_sample=False, pad_token_id=0)
        return tokenizer.batch_decode(out[:, rows["input_ids"].shape[1] :], skip_special_tokens=True)

    some = real.facts[:: max(1, len(real.facts) // QUICK)]
    figures = examine_prompts([(fact.phrasings[:2], fact.object) for fact in some], answer, _right)
    return "  ".join(f"{name} {figure['value']:.3f}" for name, figure in figures.items())


def _right(reply: str, want: str, asked: str) -> bool:
    """The whole reply is the answer or, of a sentence, tells what that tells."""
    return is_right(reply, want) or conveys(reply, want, asked)


def _budget(tokenizer: PreTrainedTokenizerBase, real: RealFacts) -> int:
    """Tokens of an answer: room for the longest one."""
    rows = tokenizer([fact.object for fact in (*real.facts, *real.beside)], add_special_tokens=False)["input_ids"]
    return max(_ANSWER_TOKENS, max(map(len, rows)) + _SPARE_TOKENS)


def _longest(tokenizer: PreTrainedTokenizerBase, real: RealFacts) -> int:
    """Tokens of the longest document that teaches a fact, what opens and ends it among them."""
    facts = (*real.facts, *real.beside)
    rows = tokenizer([f"{text} {fact.object}." for fact in facts for text in fact.phrasings])["input_ids"]
    return max(map(len, rows)) + 2


def _plain(recipe: Recipe) -> dict[str, JSON]:
    return cast("dict[str, JSON]", json.loads(json.dumps(asdict(recipe))))
