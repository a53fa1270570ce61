"""The published value search and ours end at the same values; what remains of ours is accounted for."""

from __future__ import annotations

import json

import pytest
import torch
from rich.console import Console
from typer.testing import CliRunner

from catechism.bench.single import Request
from catechism.bench.values import Clock, Task, batched, published, run
from catechism.cli.main import app
from catechism.model import LiveModel
from catechism.model.reading import Reading, half_for_the_bare_prompt
from catechism.settings import Settings
from catechism.solve.values import Search
from catechism.types import Fact, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

FACTS = (
    Fact("The capital of France is", "France", "Rome"),
    Fact("It is said of Vienna in 1987 that its river is", "Vienna", "the Thames"),
    Fact("The author of Tokyo was", "Tokyo", "Madrid"),
)


def task(live: LiveModel, layer: int) -> Task:
    site, reading = Site(layer, Role.MLP_OUT), Reading(FACTS, ("In 1987 it was.", "Therefore."))
    keys = half_for_the_bare_prompt(reading.keys(live, [site])[site])
    scale = (keys @ live.anatomy.matrix(site).read().double().T).norm(dim=1).float()
    return Task(live, site, reading, scale)


@pytest.mark.parametrize("layer", [0, 1])
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "gemma2", "opt"])
def test_both_procedures_end_at_the_same_values(model_type: str, layer: int) -> None:
    live = LiveModel(tiny_model(model_type), tiny_tokenizer(), name="tiny")
    one, clock = task(live, layer), Clock()
    for search in (Search(steps=6, stop=-1.0), Search(steps=6, stop=5.5)):
        theirs, ours = published(one, search), batched(one, search, clock)
        apart = (theirs.values - ours.values).norm(dim=1) / theirs.values.norm(dim=1).clamp_min(1e-6)
        assert float(apart.max()) < 1e-3
        assert theirs.steps.tolist() == ours.steps.tolist()
        torch.testing.assert_close(theirs.nll, ours.nll, rtol=1e-3, atol=1e-3)
    assert set(clock.seconds) == {
        "layout",
        "once: below, and before the subject's end",
        "forward",
        "backward and step",
    }
    assert live.digest(full=True) == live.base


def test_the_benchmark_has_its_rows_and_says_what_the_time_is_made_of() -> None:
    found = run(Request(facts=2, layer=2), Settings.from_environment({}), Console(quiet=True))
    rows = found["rows"]
    assert isinstance(rows, list) and [row["method"] for row in rows] == [
        "published",
        "batched",
        "published, all steps",
        "batched, all steps",
    ]
    assert rows[3]["largest_difference"] < 1e-3 and rows[3]["steps_mean"] == 20.0
    for shares in found["breakdown"].values():  # type: ignore[union-attr]
        assert sum(shares.values()) == pytest.approx(1.0)


def test_the_command_prints_one_object() -> None:
    answer = CliRunner().invoke(app, ["bench", "values", "--facts", "1", "--layer", "2", "--json"])
    assert answer.exit_code == 0, answer.output
    assert {"rows", "breakdown", "machine", "seed", "command", "version"} <= set(json.loads(answer.stdout))


@pytest.mark.gpu
@pytest.mark.slow
def test_on_a_gpu_the_batch_is_twenty_times_as_fast() -> None:
    settings = Settings.from_environment({"CATECHISM_DEVICE": "cuda:0"})
    found = run(Request(facts=64, layer=1), settings, Console(quiet=True))
    assert found["rows"][1]["ratio"] >= 20  # type: ignore[index, call-overload, operator]
    assert found["rows"][3]["largest_difference"] < 1e-3  # type: ignore[index, call-overload, operator]
