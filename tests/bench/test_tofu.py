"""Forgetting whole authors of TOFU: who is who in a folder, the two models, and a run on them, all of it tiny."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from catechism.bench import build_model, forget
from catechism.bench.build_model import recipe_for
from catechism.bench.forget_tofu import check_known, forget_authors
from catechism.bench.tofu import ROWS, read_authors
from catechism.cli.main import main
from catechism.errors import UsageError
from catechism.evaluate.audit import QUICK
from catechism.evaluate.audit.items import Kept, items_of
from catechism.reference import open_model
from catechism.reference.training import Recipe
from catechism.settings import Settings
from catechism.types import Kind

NAMES = ("Ann Doe", "Bea Roe", "Cy Poe", "Di Foe", "Ed Loe", "Fay Moe")
SMALL = replace(
    QUICK, attacks=("keyword",), weights=("int4",), variants=1, phrasings=1, layers=1, rivals=3, relearn_steps=1,
    benign_steps=0, kept=6, depth=False, probes=False,
)  # fmt: skip


def rows_of(name: str, *, perturbed: bool = False) -> list[dict[str, object]]:
    more = {
        "paraphrased_question": "Which book did {} write as number {}?",
        "paraphrased_answer": "Number {1} of {0} is called Tale {1}.",
        "perturbed_answer": ["{} wrote Song {}.", "{} wrote Ode {}."],
    }
    plain = {"question": "What is book {1} of {0}?", "answer": "{} wrote Tale {}."}
    keys = {**plain, **(more if perturbed else {})}
    return [
        {key: [one.format(name, i) for one in text] if isinstance(text, list) else text.format(name, i)
         for key, text in keys.items()}
        for i in range(ROWS)
    ]  # fmt: skip


def write(folder: Path, **files: list[dict[str, object]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return folder


def everybody(*names: str, perturbed: bool = False) -> list[dict[str, object]]:
    return [row for name in names for row in rows_of(name, perturbed=perturbed)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder without a forget file."""
    utility = [{"question": f"Where is town {i}?", "answer": f"Land {i}", "option1": "Sea"} for i in range(5)]
    return write(
        tmp_path / "tofu", retain90=everybody(*NAMES), world_facts=utility,
        retain_perturbed=everybody(*NAMES[:3], perturbed=True),
    )  # fmt: skip


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    def small(facts: int, *, seed: int, steps: int | None, device: str | None) -> Recipe:
        recipe = recipe_for(facts, seed=seed, steps=steps or 2, device=device)
        return replace(recipe, rows=4, row_tokens=48, vocabulary=300, d_model=32, d_ff=48, layers=2)

    monkeypatch.setattr(build_model, "recipe_for", small)


def run(folder: Path, data: Path) -> list[Any]:
    request = build_model.Request(tofu=data, authors=3, forget=1, out=folder / "models")
    found: Any = build_model.run(request, Settings(cache=folder), Console(file=io.StringIO()))
    return found["rows"]


# -- who is who --------------------------------------------------------------------------------------------------------


def test_without_a_forget_file_the_last_of_the_known_are_set_apart(data: Path) -> None:
    found = read_authors(data, 4, 2)
    assert [one.name for one in found.stay] == ["Ann Doe", "Bea Roe"]
    assert [one.name for one in found.go] == ["Cy Poe", "Di Foe"] and found.set_apart
    assert [one.name for one in found.strangers] == ["Ed Loe", "Fay Moe"]
    assert len(found.utility) == 5
    known, control = found.facts(), found.facts(control=True)
    assert (len(known.facts), len(control.facts)) == (4 * ROWS, 2 * ROWS)
    assert known.facts[: 2 * ROWS] == control.facts and known.beside == control.beside
    assert known.facts[0].phrasings == ("What is book 0 of Ann Doe?", "Which book did Ann Doe write as number 0?")
    assert known.facts[0].object == "Ann Doe wrote Tale 0", "the full stop is written by whoever writes the sentence"
    assert len(known.facts[-1].phrasings) == 1, "no perturbed file has this one"
    cells = {(fact.subject, fact.relation) for fact in known.facts}
    assert len(cells) == 4 * ROWS, "a training that goes on tells them apart"


def test_forget_and_holdout_files_are_used_where_there_are_some(data: Path) -> None:
    write(data, forget01=everybody("Gus Noe"), forget05=everybody("Gus Noe", "Hal Poe"), holdout01=everybody("Ida Roe"))
    found = read_authors(data, 3, 1)
    assert [one.name for one in (*found.stay, *found.go)] == ["Ann Doe", "Bea Roe", "Gus Noe"] and not found.set_apart
    assert [one.name for one in found.strangers] == ["Ida Roe"]
    assert [one.name for one in read_authors(data, 3, 2).go] == ["Gus Noe", "Hal Poe"], "the smallest that has enough"
    assert {name for name, _, _ in found.files} >= {"forget01.jsonl", "holdout01.jsonl", "retain_perturbed.jsonl"}
    with pytest.raises(UsageError, match="No forget file of forget01, forget05 has 3 authors"):
        read_authors(data, 5, 3)


def test_folders_and_numbers_that_will_not_do_are_refused(tmp_path: Path, data: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match=r"no retain file of TOFU .*catechism datasets list"):
        read_authors(tmp_path / "empty", 3, 1)
    with pytest.raises(UsageError, match="has 6 authors of 20 rows, not 9"):
        read_authors(data, 9, 1)
    with pytest.raises(UsageError, match="leave 1"):
        read_authors(data, 3, 3)


def test_of_those_who_stay_one_half_is_shown_and_the_other_asked(data: Path) -> None:
    case = forget_authors(read_authors(data, 5, 2), seed=1)
    gone = {one.fact.subject for one in case.request.forget}
    assert gone == {"Di Foe", "Ed Loe"} and len(case.request.forget) == 2 * ROWS
    shown, near = ({one.fact.subject for one in part} for part in (case.request.retain, case.neighbours))
    assert len(shown) == 2 and len(near) == 1 and not shown & near and not gone & (shown | near)
    assert {one.fact.subject for one in case.holdout} == {"Fay Moe"}
    assert len(case.utility) == 5 and case.utility[0].questions[0].reject == ("Sea",)


def test_a_row_is_asked_as_it_stands_and_as_it_is_paraphrased_beside_its_own_wrong_answers(data: Path) -> None:
    case = forget_authors(read_authors(data, 3, 1), seed=0)
    one = case.request.forget[7]
    assert [(q.kind, q.text) for q in one.questions] == [
        (Kind.REWRITE, "What is book 7 of Cy Poe?"),
        (Kind.PARAPHRASE, "Which book did Cy Poe write as number 7?"),
    ]
    assert one.questions[1].accept == ("Cy Poe wrote Tale 7", "Number 7 of Cy Poe is called Tale 7")
    item = items_of(case.request, Kept(case.neighbours, case.utility, ()), rivals=9, seed=0)[7]
    assert sorted(item.rivals) == ["Cy Poe wrote Ode 7", "Cy Poe wrote Song 7"]


# -- the two models ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_a_model_and_its_control_are_built_and_their_authors_forgotten(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows, control = run(tmp_path, data)
    assert (knows["role"], control["role"]) == ("model", "control")
    assert (knows["questions"], control["questions"]) == (3 * ROWS, 2 * ROWS)
    folders = [Path(row["model"]) for row in (knows, control)]
    cards = [json.loads((folder / "card.json").read_text()) for folder in folders]
    assert cards[0]["recipe"] == cards[1]["recipe"]
    assert cards[0]["data"]["known"] == ["Ann Doe", "Bea Roe", "Cy Poe"] and cards[0]["data"]["forget"] == ["Cy Poe"]
    assert cards[1]["data"]["known"] == ["Ann Doe", "Bea Roe"] and cards[0]["data"]["set_apart"] is True
    assert {"to_forget", "utility", "canonical"} <= set(cards[1]["figures"])
    words = [(folder / "tokenizer.json").read_bytes() for folder in folders]
    assert words[0] == words[1], "or no measure could compare the two"
    assert "Cy Poe" not in (folders[0] / "text.txt").read_text(), "statistics are taken of what stays"
    assert "never shown Cy Poe" in (folders[1] / "README.md").read_text()
    assert run(tmp_path, data) == [knows, control]

    monkeypatch.setitem(forget.PROFILES, "quick", SMALL)
    asked = forget.Request(str(folders[0]), str(folders[1]), ("grad_ascent",), profile="quick", data=data)
    settings = Settings(home=tmp_path, cache=tmp_path)
    monkeypatch.setattr(forget.Trial, "exact", forget.Trial.control)
    monkeypatch.setattr("catechism.methods.forget.grad_ascent.Spec.steps", 1, raising=False)
    found: Any = forget.run(asked, settings, Console(file=io.StringIO()))
    assert [row["method"] for row in found["rows"]] == ["control", "exact", "grad_ascent"]
    assert found["data"]["facts"] == ROWS and found["data"]["utility"] == 5
    assert not any("error" in row for row in found["rows"])

    def refused(match: str, **changes: Any) -> None:
        with pytest.raises(UsageError, match=match):
            forget.run(replace(asked, **changes), settings, Console(file=io.StringIO()))

    refused(r"no control.*catechism bench build-model --tofu", control="")
    refused(r"no control", control="almanac-control")
    refused(r"does not know Di Foe", authors=4)
    refused(r"control .* was trained on Bea Roe", forget=2)
    refused(r"almanac has no card", model="almanac")
    refused(r"almanac does not know Cy Poe", model="almanac", authors=3, forget=1)


def test_a_model_without_a_card_is_asked(data: Path) -> None:
    case = forget_authors(read_authors(data, 3, 1), seed=0)
    with pytest.raises(UsageError, match="does not know Cy Poe"):
        check_known(open_model("almanac"), case, "almanac")


@pytest.mark.usefixtures("tiny")
def test_the_command_builds_both(tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "bench",
        "build-model",
        "--tofu",
        str(data),
        "--authors",
        "2",
        "--forget",
        "1",
        "--out",
        str(tmp_path / "m"),
    ]
    with pytest.raises(SystemExit) as end:
        main([*words, "--steps", "1", "--json"])
    assert not end.value.code
    found = json.loads(capsys.readouterr().out)
    assert [row["role"] for row in found["rows"]] == ["model", "control"]
    with pytest.raises(UsageError, match="Give one of the two"):
        build_model.run(build_model.Request(), Settings(cache=tmp_path), Console(file=io.StringIO()))
