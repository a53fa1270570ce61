"""Facts of a benchmark: from the Almanac, from a feed, from a public benchmark's file, known ones only."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from catechism.bench.single import Request, prepare, run
from catechism.bench.sources import known_to, open_source
from catechism.errors import BadFact, UsageError
from catechism.model import LiveModel
from catechism.settings import Settings
from catechism.types import Catechism, Fact, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer

ROWS = [
    {"prompt": f"The capital of {country} is", "subject": country, "target_new": "Rome", "ground_truth": old}
    | {"rephrase_prompt": f"It rained. {country} is ruled from", "locality_prompt": "The capital of Spain is"}
    | {"locality_ground_truth": "Madrid", "case_id": i}
    for i, (country, old) in enumerate([("France", "Paris"), ("Italy", "Rome"), ("Japan", "Tokyo")])
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "counterfact.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def test_the_almanac_is_the_source_where_no_file_is_named() -> None:
    source = open_source(None)
    assert source.format == "almanac" and len(list(source.catechisms(3, seed=1))) == 3
    assert source.describe() == {"format": "almanac", "file": None, "read": 3, "bad_rows": 0, "first_bad": []}


def test_bad_rows_of_a_benchmark_are_left_out_and_counted(data: Path) -> None:
    source = open_source(data)
    assert [catechism.fact.id for catechism in source.catechisms(9)] == ["0", "2"]
    found = source.describe()
    assert (found["format"], found["read"], found["bad_rows"]) == ("counterfact-flat", 2, 1)
    assert "row 2 (line 12)" in str(found["first_bad"])


def test_a_bad_row_of_a_feed_stops_the_run(tmp_path: Path) -> None:
    feed = tmp_path / "feed.jsonl"
    feed.write_text('{"prompt": "It is", "subject": "He", "new_object": "so"}')
    with pytest.raises(BadFact, match="line 1"):
        list(open_source(feed).catechisms(1))


def test_known_facts_are_those_whose_old_object_the_model_says() -> None:
    live = LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    prompts = [f"The number {i} is" for i in range(6)]
    said = live.generate(prompts, max_new_tokens=8)

    def catechism(prompt: str, old: str | None) -> Catechism:
        return Catechism(Fact(prompt, "number", "other", old), (Question(prompt, Kind.REWRITE, ("other",)),))

    facts = [
        catechism(prompt, answer.text.split()[0] if i % 2 else "no such word" if i else None)
        for i, (prompt, answer) in enumerate(zip(prompts, said, strict=True))
    ]
    assert known_to(live, facts, 9) == facts[1::2]
    assert known_to(live, facts, 2) == facts[1:4:2]


def test_a_run_says_where_its_facts_come_from_and_how_many_were_known(folder: Path, data: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"In {i} the city was the largest of the country." for i in range(60)))
    request = Request(model=str(folder), methods=("lora",), facts=1, data=data, text=text, layer=0)
    found = run(request, Settings(cache=tmp_path), Console(file=io.StringIO()))
    assert found["data"] == {
        **{"format": "counterfact-flat", "file": data.as_posix(), "read": 1, "bad_rows": 0, "first_bad": []},
        "known_before": 0,
    }


def test_a_model_that_knows_none_of_the_facts_is_told_so(folder: Path, data: Path, tmp_path: Path) -> None:
    request = Request(model=str(folder), facts=1, data=data, known_only=True)
    with pytest.raises(UsageError, match=r"2 were read, 1 rows were bad, and .* says the old object of none"):
        prepare(request, Settings(cache=tmp_path))
