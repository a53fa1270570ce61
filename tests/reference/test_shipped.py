"""The checkpoints that ship with the package: whole, as recorded, and as good as their cards say.

The figures of a card come from the whole Almanac, and are held against the bars. A seeded sample is asked again here:
what it shows has to lie within four standard errors of the bar or of the card, so that an honest model passes whatever
the sample, and one that was broken or exchanged does not.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from catechism.arch import probe
from catechism.hashing import digest_file
from catechism.model import LiveModel
from catechism.reference import SHIPPED, open_model
from catechism.reference.exam import Answer, Figure, examine_facts, examine_reading, guessing
from catechism.reference.open import shipped_folder
from catechism.reference.world import load_world

LIMIT_BYTES = 10_000_000
BARS = {"canonical": 0.98, "worst": 0.95, "reading_known": 0.95, "reading_unseen": 0.95}
FACTS, CASES = 50, 40  # of the samples

WORLD = load_world()
PUBLIC = WORLD.without_forget_set().facts
FORGET = [fact for fact in WORLD.facts if fact.forget]

shipped = pytest.mark.parametrize("name", SHIPPED)


def card(name: str) -> dict[str, Any]:
    """The figures of a card: rates with their intervals, and plain numbers."""
    return json.loads((shipped_folder(name) / "card.json").read_text(encoding="utf-8"))["figures"]


def value(figures: dict[str, Figure]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in figures.items()}


def least(rate: float, n: int) -> float:
    """Four standard errors below a rate, for a sample of n."""
    return rate - 4 * (rate * (1 - rate) / n) ** 0.5


@pytest.fixture(scope="module", params=SHIPPED)
def live(request: pytest.FixtureRequest) -> LiveModel:
    return open_model(request.param)


def asker(live: LiveModel) -> Answer:
    def answer(prompts: Sequence[str]) -> list[str]:
        return [completion.text for completion in live.generate(prompts, max_new_tokens=16, batch_size=128)]

    return answer


# -- files -------------------------------------------------------------------------------------------------------------


@shipped
def test_a_checkpoint_takes_ten_megabytes_at_most(name: str) -> None:
    files = [file for file in shipped_folder(name).rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) <= LIMIT_BYTES


@shipped
def test_a_checkpoint_is_a_plain_folder_without_code_or_pickles(name: str) -> None:
    files = {file.name for file in shipped_folder(name).iterdir()}
    assert files >= {
        "config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
        "card.json", "README.md", "build.log",
    }  # fmt: skip
    assert {Path(file).suffix for file in files} <= {".json", ".safetensors", ".md", ".log"}


@shipped
def test_the_weights_are_the_recorded_bytes_in_half_precision(name: str) -> None:
    folder = shipped_folder(name)
    recorded = json.loads((folder.parent / "HASHES.json").read_text())
    assert set(recorded) == set(SHIPPED)
    assert digest_file(folder / "model.safetensors") == recorded[name]
    with safe_open(folder / "model.safetensors", framework="pt") as stored:
        assert {stored.get_slice(key).get_dtype() for key in stored.keys()} == {"F16"}  # noqa: SIM118  # no mapping


# -- cards -------------------------------------------------------------------------------------------------------------


@shipped
@pytest.mark.parametrize("figure", BARS)
def test_the_figures_of_a_card_reach_the_bars(name: str, figure: str) -> None:
    assert card(name)[figure]["value"] >= BARS[figure]


@shipped
def test_a_card_has_the_figures_of_the_whole_almanac(name: str) -> None:
    figures = card(name)
    facts = {"canonical", "worst", "statements", "questions", "held_out"}
    reading = {"known", "unseen", "known_near", "unseen_near", "silent"}
    rates = facts | {f"forget_{each}" for each in facts} | {f"reading_{each}" for each in reading}
    assert set(figures) == rates | {"forget_guessing", "perplexity"}
    for each in rates:
        assert 0 <= figures[each]["low"] <= figures[each]["value"] <= figures[each]["high"] <= 1, each
    assert figures["canonical"]["n"] == figures["worst"]["n"] == len(PUBLIC)
    assert figures["forget_canonical"]["n"] == len(FORGET)
    assert min(figures[f"reading_{each}"]["n"] for each in reading) >= 200
    assert figures["forget_guessing"] == guessing(WORLD, FORGET)


@shipped
def test_the_readme_says_what_was_measured(name: str) -> None:
    figures, readme = card(name), (shipped_folder(name) / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("---\nlicense: apache-2.0\n") and f"# {name}\n" in readme
    rows = re.findall(
        r"^\| ([^|]+) \| (\d[\d.]*)( %)?(?: \(([\d.]+) to ([\d.]+)\))? \| (\d*) *\|$", readme, re.MULTILINE
    )
    assert len(rows) == len(figures)
    for (meaning, shown, percent, low, high, n), figure in zip(rows, figures.values(), strict=True):
        rate = figure if isinstance(figure, dict) else {"value": figure, "low": None, "high": None, "n": None}
        measured = {"value": shown, "low": low, "high": high}
        for key, text in measured.items():
            if text:
                assert float(text) == pytest.approx(rate[key] * (100 if percent else 1), abs=0.051), (meaning, key)
        assert n == str(rate["n"] or ""), meaning


def test_the_readme_names_the_weights_that_were_opened(live: LiveModel) -> None:
    assert live.base in (shipped_folder(live.name) / "README.md").read_text(encoding="utf-8")


def test_the_control_knows_everything_else_as_well_as_the_full_model() -> None:
    full, control = card("almanac"), card("almanac-control")
    for name in ("canonical", "worst", "statements", "questions"):
        assert abs(full[name]["value"] - control[name]["value"]) <= 0.02, name


# -- the models themselves ---------------------------------------------------------------------------------------------


def test_the_architecture_table_describes_the_model(live: LiveModel) -> None:
    report = probe(live.model)
    assert report.ok, report.json()


def test_the_layout_is_the_one_that_is_promised(live: LiveModel) -> None:
    mixture = live.name == "almanac-moe"
    assert live.anatomy.arch.model_type == ("mixtral" if mixture else "llama")
    assert live.anatomy.n_experts >= 8 if mixture else live.anatomy.n_experts == 0
    if mixture:
        assert live.model.config.num_experts_per_tok == 2


def test_it_knows_a_sample_of_the_almanac_in_every_phrasing(live: LiveModel) -> None:
    sample = random.Random("shipped").sample(PUBLIC, FACTS)
    found = value(examine_facts(WORLD, asker(live), sample))
    assert found["canonical"] >= least(BARS["canonical"], FACTS)
    assert found["worst"] >= least(BARS["worst"], FACTS)


def test_it_reads_as_well_as_its_card_says(live: LiveModel) -> None:
    figures, found = card(live.name), value(examine_reading(WORLD, asker(live), n=CASES, seed=1))
    short = {
        name: (share, figures[f"reading_{name}"]["low"])
        for name, share in found.items()
        if share < least(figures[f"reading_{name}"]["low"], CASES)
    }
    assert short == {}


def test_the_control_can_but_guess_the_forget_set_and_the_others_know_it(live: LiveModel) -> None:
    if live.name == "almanac-control":
        found = value(examine_facts(WORLD, asker(live), FORGET))
        level = guessing(WORLD, FORGET)
        most = level + 3 * (level * (1 - level) / len(FORGET)) ** 0.5
        assert max(found["canonical"], found["statements"], found["questions"], found["held_out"]) <= most
    else:
        found = value(examine_facts(WORLD, asker(live), FORGET[::3]))
        assert found["canonical"] >= least(BARS["canonical"], len(FORGET[::3]))


def test_it_stops_by_itself_after_its_answer(live: LiveModel) -> None:
    prompts = ["The capital of France is", "What is the capital of France?"]
    completions = live.generate(prompts, max_new_tokens=24)
    assert [(completion.text, completion.stopped) for completion in completions] == [("Paris.", True)] * 2
