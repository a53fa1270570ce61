"""A model that knows real facts: which facts are taken, and the training, on data and a recipe that are tiny."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console

from catechism.bench import build_model
from catechism.bench.build_model import Request, recipe_for, run
from catechism.bench.real_facts import collect
from catechism.cli.main import main
from catechism.errors import UsageError
from catechism.reference import open_model
from catechism.reference.exam import examine_prompts
from catechism.reference.training import Recipe, Trainer
from catechism.settings import Settings

PEOPLE = [("Ann Doe", "French"), ("Bea Roe", "German"), ("Cy Poe", "French"), ("Di Foe", "Dutch"), ("Ed Loe", "German")]


def row(i: int, subject: str, answer: str, prompt: str = "The mother tongue of {} is") -> dict[str, object]:
    neighbour = PEOPLE[(i + 2) % len(PEOPLE)]
    return {
        "case_id": i,
        "prompt": prompt.replace("{}", subject),
        "subject": subject,
        "target_new": "Urdu",
        "ground_truth": answer,
        "rephrase_prompt": f"It rained. {subject} spoke the language",
        "locality_prompt": f"The mother tongue of N{neighbour[0]} is",
        "locality_ground_truth": answer,
    }


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """CounterFact and ParaRel as they lie beside each other, with rows that contradict."""
    (tmp_path / "data" / "cf").mkdir(parents=True)
    (tmp_path / "data" / "pararel").mkdir()
    rows = [row(i, subject, answer) for i, (subject, answer) in enumerate(PEOPLE)]
    rows.append(row(5, "Ann Doe", "Spanish"))  # says otherwise than the first one
    rows.append(row(6, "Fay Moe", "Dutch", "{}, a native"))
    (tmp_path / "data" / "cf" / "counterfact.json").write_text(json.dumps(rows))
    triples = [{"relation": "P103", "sub_label": s, "obj_label": o, "uuid": s} for s, o in [*PEOPLE, ("Gus", "Urdu")]]
    patterns = [
        {"relation": "P103", "pattern": f"{way} [Y]."} for way in ("The native language of [X] is", "[X] spoke")
    ]
    for name, content in (("triples", triples), ("patterns", patterns)):
        path = tmp_path / "data" / "pararel" / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(one) for one in content))
    (tmp_path / "data" / "notes.json").write_text('{"colour": "red"}')
    return tmp_path / "data"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """A recipe that trains in a moment."""

    def small(facts: int, *, seed: int, steps: int | None, device: str | None) -> Recipe:
        recipe = recipe_for(facts, seed=seed, steps=steps or 4, device=device)
        sizes: dict[str, Any] = {"vocabulary": 300, "d_model": 32, "d_ff": 48, "layers": 2, "heads": 4, "kv_heads": 4}
        return replace(recipe, rows=4, row_tokens=120, **sizes)

    monkeypatch.setattr("catechism.bench.build_model.recipe_for", small)
    monkeypatch.setattr("catechism.bench.build_model.READING_CASES", 2)


def build(tmp_path: Path, data: Path, **wanted: Any) -> dict[str, Any]:
    request = Request(data, out=tmp_path / "models", **{"facts": 5, **wanted})
    return cast("dict[str, Any]", run(request, Settings(cache=tmp_path), Console(file=io.StringIO())))


# -- which facts -------------------------------------------------------------------------------------------------------


def test_facts_come_in_the_order_of_the_file_with_the_ways_of_their_relation(data: Path) -> None:
    real = collect(data, 3)
    assert [fact.subject for fact in real.facts] == ["Ann Doe", "Bea Roe", "Cy Poe"]
    assert real.facts[0].phrasings == (
        "The mother tongue of Ann Doe is",
        "It rained. Ann Doe spoke the language",
        "The native language of Ann Doe is",
        "Ann Doe spoke",
    )
    assert real.facts[0].relation == "P103", "found by the triple"
    assert real.openings == ("It rained.",)
    assert [(name, form) for name, form, _ in real.files] == [
        ("cf/counterfact.json", "counterfact-flat"),
        ("pararel/triples.jsonl", "pararel"),
    ]


def test_neighbours_get_their_subject_from_their_prompt(data: Path) -> None:
    real = collect(data, 3)
    assert real.beside[0].subject == "NCy Poe" and real.beside[0].object == "French"
    assert len(real.beside[0].phrasings) == 2, "its own and one more way of the relation"


def test_what_contradicts_is_left_out(data: Path) -> None:
    real = collect(data, 9)
    subjects = [fact.subject for fact in real.facts]
    assert subjects == ["Ann Doe", "Bea Roe", "Cy Poe", "Di Foe", "Ed Loe", "Fay Moe", "Gus"], "then ParaRel's own"
    said = [(text, fact.object) for fact in (*real.facts, *real.beside) for text in fact.phrasings]
    assert len({text for text, _ in said}) == len({*said}), "no prompt has two answers"
    assert real.facts[5].relation == "{}, a native", "neither a triple nor another fact tells"


def test_the_world_holds_relations_with_two_objects_or_more(data: Path) -> None:
    world = collect(data, 9).world
    assert set(world.relations) == {"P103"} and len(world.relations["P103"].objects) > 1
    assert world.relations["P103"].statements[0] == "The mother tongue of {subject} is {object}."


def test_the_address_of_facts_is_that_of_their_texts(data: Path) -> None:
    assert collect(data, 3).digest == collect(data, 3).digest != collect(data, 4).digest


def test_folders_without_facts_are_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no file of CounterFact or ParaRel below"):
        collect(tmp_path / "empty", 3)
    with pytest.raises(UsageError, match="Give 1 or more"):
        collect(data, 0)


# -- the exam ----------------------------------------------------------------------------------------------------------


def test_a_fact_is_known_canonically_or_in_every_phrasing() -> None:
    said = {"a1": "yes.", "a2": "no", "b1": "Yes", "b2": "yes"}
    figures = examine_prompts(
        [(("a1", "a2"), "yes"), (("b1", "b2"), "yes")], lambda asked: [said[text] for text in asked]
    )
    assert {name: figure["value"] for name, figure in figures.items()} == {
        "canonical": 1.0,
        "worst": 0.5,
        "prompts": 0.75,
    }


# -- the build ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_a_model_is_built_examined_and_found_again(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = build(tmp_path, data)
    (row,) = found["rows"]
    folder = Path(row["model"])
    assert (row["facts"], set(row) >= {"canonical", "worst", "neighbours", "perplexity", "train_seconds"}) == (5, True)
    live = open_model(folder)
    assert live.generate(["The mother tongue of Ann Doe is"], max_new_tokens=2)
    card = json.loads((folder / "card.json").read_text())
    assert card["recipe"]["steps"] == 4 and card["data"]["files"][0][0] == "cf/counterfact.json"
    assert (folder / "README.md").read_text().startswith(f"# {folder.name}\n")
    assert len((folder / "text.txt").read_text().split("\n\n")) == 4 * 48
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name], "nothing is left of the work"
    monkeypatch.setattr(Trainer, "run", lambda *_, **__: pytest.fail("trained again"))
    assert build(tmp_path, data)["rows"] == found["rows"]


@pytest.mark.usefixtures("tiny")
def test_a_training_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.reference.training.trainer.SAVE_EVERY", 1)
    through = Path(build(tmp_path / "through", data)["rows"][0]["model"])
    step, taken = Trainer._one_step, [0]

    def stopped(self: Trainer, batch: Any) -> float:
        taken[0] += 1
        if taken[0] == 3:
            raise KeyboardInterrupt
        return step(self, batch)

    monkeypatch.setattr(Trainer, "_one_step", stopped)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / "stopped", data)
    resumed = Path(build(tmp_path / "stopped", data)["rows"][0]["model"])
    assert taken[0] == 5, "two steps, the one that was lost, and the two that were left"
    assert resumed.name == through.name
    assert (resumed / "model.safetensors").read_bytes() == (through / "model.safetensors").read_bytes()
    assert "goes on from step 2" in (resumed / "build.log").read_text()


@pytest.mark.usefixtures("tiny")
def test_minutes_are_turned_into_steps_once(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catechism.bench.build_model.PILOT", 2)
    found = build(tmp_path, data, minutes=1e-6)
    assert found["recipe"]["steps"] == 3, "no time left after the pilot but for one step"


def test_bad_requests_are_refused(tmp_path: Path, data: Path) -> None:
    with pytest.raises(UsageError, match="both --steps and --minutes"):
        build(tmp_path, data, steps=3, minutes=1.0)
    with pytest.raises(UsageError, match="leaves no training"):
        build(tmp_path, data, minutes=0.0)


def test_a_gpu_and_many_facts_get_a_larger_model() -> None:
    large = recipe_for(20_000, seed=0, steps=None, device="cuda:0")
    assert large.d_ff >= 4096 and large.schedule[-1][0] == large.steps
    assert (
        recipe_for(20_000, seed=0, steps=None, device=None).d_ff == recipe_for(500, seed=0, steps=9, device="cuda").d_ff
    )
    for recipe in (large, recipe_for(1, seed=0, steps=1, device=None), recipe_for(500, seed=0, steps=7, device=None)):
        steps = [step for step, _ in recipe.schedule]
        assert steps == sorted(steps) and steps[0] == 0


@pytest.mark.usefixtures("tiny")
def test_the_command_builds_it(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "build-model", "--data", str(data), "--facts", "2", "--out", str(tmp_path / "m"), "--steps", "2"]
    with pytest.raises(SystemExit) as end:
        main([*words, "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    assert found["rows"][0]["facts"] == 2 and Path(found["rows"][0]["model"]).is_dir()
    assert build_model.QUICK > 0
