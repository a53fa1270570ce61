"""The single-edit benchmark on a tiny random model and a feed of three rows."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import pytest
from rich.console import Console
from torch import Tensor

from catechism.bench import ablation
from catechism.bench.single import Request, run
from catechism.cli.main import main
from catechism.delta import Delta
from catechism.errors import BadFact, BadFeed, CatechismError, ModelNotFound, UnknownName, UsageError
from catechism.evaluate import METRICS
from catechism.methods.edit.rome import Rome, Spec
from catechism.methods.train.distill import Spec as DistillSpec
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.settings import Settings
from catechism.types import Catechism
from tests.tiny import tiny_model, tiny_tokenizer

NAMED = (
    "method", "n", "efficacy", "paraphrase_mean", "paraphrase_worst", "locality_neighbour", "locality_unrelated",
    "reversion_exact", "seconds_per_edit", "peak_rss_mb", "delta_bytes",
)  # fmt: skip
ROWS: list[dict[str, object]] = [
    {
        "prompt": f"The capital of {country} is",
        "subject": country,
        "new_object": new,
        "old_object": old,
        "paraphrases": [f"Which city is the capital of {country}?"],
        "neighbours": [{"prompt": "The capital of Spain is", "answer": "Madrid"}],
        "unrelated": ["Who wrote the book?"],
        "id": country,
    }
    for country, old, new in (
        ("France", "Paris", "Rome"),
        ("Italy", "Rome", "Tokyo"),
        ("Japan", "Tokyo", "Vienna"),
    )
]
PARAGRAPH = "The river that flows through London is the Thames. The language of the country is French. "


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def feed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("feed") / "facts.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return file


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifteen paragraphs for statistics and fifteen for perplexity."""
    file = tmp_path_factory.mktemp("text") / "plain.txt"
    file.write_text("\n\n".join(f"{PARAGRAPH}In {1900 + i} it was the largest." for i in range(30)))
    return file


def bench(tmp_path: Path, **wanted: object) -> dict[str, Any]:
    console = Console(file=io.StringIO())
    return cast("dict[str, Any]", run(Request(**wanted), Settings(cache=tmp_path / "cache"), console))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def found(folder: Path, feed: Path, text: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One run with everything in it, shared by the tests that only look at the result."""
    return bench(tmp_path_factory.mktemp("run"), model=str(folder), data=feed, text=text)


def test_a_row_has_the_named_columns_first_and_then_the_other_metrics(found: dict[str, Any]) -> None:
    (row,) = found["rows"]
    assert tuple(row)[: len(NAMED)] == NAMED
    assert set(row) == {*NAMED, *METRICS, "seconds_prepare", "layer"}
    assert (row["method"], row["n"]) == ("rome", 3)


def test_a_rate_has_its_interval_its_number_and_its_value_before(found: dict[str, Any]) -> None:
    (row,) = found["rows"]
    for name in NAMED[2:8]:
        rate = row[name]
        assert set(rate) == {"value", "low", "high", "n", "before"}, name
        assert 0 <= rate["low"] <= rate["value"] <= rate["high"] <= 1, name
    assert row["efficacy"]["n"] == row["paraphrase_worst"]["n"] == row["reversion_exact"]["n"] == 3
    assert row["locality_neighbour"]["n"] == row["locality_unrelated"]["n"] == 3, "an edit each, so a round each"
    assert row["locality_neighbour"]["before"] == 1.0
    assert row["alias"] is None and row["one_hop"] is None, "what was not asked is no pass"


def test_every_edit_comes_off_again_to_the_byte(found: dict[str, Any]) -> None:
    assert found["rows"][0]["reversion_exact"]["value"] == 1.0


def test_the_costs_are_measured(found: dict[str, Any]) -> None:
    (row,) = found["rows"]
    assert row["seconds_per_edit"] > 0 and row["seconds_prepare"] > 0
    assert 100 < row["peak_rss_mb"] < 100_000
    assert row["delta_bytes"] == 4 * (32 + 48), "a rank-one update of a 32 x 48 matrix in float32"


def test_the_model_and_what_the_layer_rests_on_are_named(found: dict[str, Any], folder: Path) -> None:
    assert found["model"]["name"] == str(folder) and found["model"]["type"] == "llama"
    assert found["model"]["base"].startswith("sha256:")
    ranked = found["layers"]["rome"]
    assert sorted(locus["layer"] for locus in ranked) == [0, 1]
    assert found["rows"][0]["layer"] == max(ranked, key=lambda locus: locus["score"])["layer"]
    assert all(set(locus) >= {"layer", "score", "same_subject", "other_subject"} for locus in ranked)


def test_misses_are_listed_and_agree_with_the_rates(found: dict[str, Any]) -> None:
    (row,), misses = found["rows"], found["misses"]
    assert all(set(miss) == {"method", "fact", "kind", "prompt", "before", "after", "accept"} for miss in misses)
    assert {miss["fact"] for miss in misses} <= {"France", "Italy", "Japan"}
    for kind, metric in (
        ("rewrite", "efficacy"),
        ("paraphrase", "paraphrase_worst"),
        ("neighbour", "locality_neighbour"),
        ("unrelated", "locality_unrelated"),
    ):
        missed = [miss for miss in misses if miss["kind"] == kind]
        assert len(missed) == round((1 - row[metric]["value"]) * row[metric]["n"]), kind
    assert all(miss["before"] != miss["after"] for miss in misses if miss["kind"] in ("neighbour", "unrelated"))


def test_perplexity_is_that_of_the_second_half_of_the_text(found: dict[str, Any]) -> None:
    (row,) = found["rows"]
    assert row["perplexity_before"] > 1 and row["perplexity_after"] > 1
    assert row["perplexity_ratio"] == pytest.approx(row["perplexity_after"] / row["perplexity_before"])


def test_the_result_is_plain_json(found: dict[str, Any]) -> None:
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_without_a_text_the_model_writes_its_own_and_no_perplexity_is_claimed(
    folder: Path, feed: Path, tmp_path: Path
) -> None:
    first, again = (bench(tmp_path, model=str(folder), data=feed, facts=1, layer=1)["rows"][0] for _ in range(2))
    assert first["n"] == 1
    assert first["perplexity_before"] is first["perplexity_after"] is first["perplexity_ratio"] is None
    costs = {"seconds_per_edit", "seconds_prepare", "peak_rss_mb"}
    assert {k: v for k, v in first.items() if k not in costs} == {k: v for k, v in again.items() if k not in costs}


def test_a_layer_that_is_given_is_taken_and_none_is_measured(
    folder: Path, feed: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.bench.single.choose_layer", lambda *_: pytest.fail("measured"))
    for layer in (0, 1):
        found = bench(tmp_path, model=str(folder), data=feed, text=text, facts=1, layer=layer)
        assert found["rows"][0]["layer"] == layer and found["layers"] == {}


def test_two_methods_give_two_rows_on_the_same_exam(folder: Path, feed: Path, text: Path, tmp_path: Path) -> None:
    found = bench(tmp_path, model=str(folder), data=feed, text=text, facts=1, methods=("rome", "distill"))
    rome, distill = found["rows"]
    assert [rome["method"], distill["method"]] == ["rome", "distill"]
    assert set(found["layers"]) == {"rome", "distill"}
    assert {name: rome[name]["n"] for name in NAMED[2:8]} == {name: distill[name]["n"] for name in NAMED[2:8]}
    assert rome["efficacy"]["before"] == distill["efficacy"]["before"]
    assert distill["reversion_exact"]["value"] == 1.0 and distill["delta_bytes"] > rome["delta_bytes"]


def test_the_first_fit_warms_up_and_does_not_count(
    folder: Path, feed: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fitted: list[str] = []
    real = Rome.fit

    def fit(self: Rome, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        fitted.append(catechisms[0].fact.subject)
        return real(self, live, catechisms, spec)

    monkeypatch.setattr(Rome, "fit", fit)
    bench(tmp_path, model=str(folder), data=feed, text=text, layer=0)
    assert fitted == ["France", "France", "Italy", "Japan"]


def test_a_bad_feed_or_method_is_refused_before_the_model_is_opened(
    feed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.bench.stage.open_model", lambda *_, **__: pytest.fail("opened"))
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{")
    with pytest.raises(BadFeed):
        bench(tmp_path, data=bad)
    with pytest.raises(UnknownName):
        bench(tmp_path, data=feed, methods=("rome", "rom"))


def test_the_ablation_has_four_arms_with_one_budget(
    folder: Path, feed: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[int] = []
    real = Adapters.descend

    def descend(self: Adapters, losses: Callable[[], Iterable[Tensor]], *, steps: int, lr: float) -> None:
        taken.append(steps)
        real(self, losses, steps=1, lr=lr)

    monkeypatch.setattr(Adapters, "descend", descend)
    request = Request(model=str(folder), data=feed, text=text, facts=1, layer=0)
    found = cast(
        "dict[str, Any]", ablation.run(request, Settings(cache=tmp_path / "cache"), Console(file=io.StringIO()))
    )
    assert [row["method"] for row in found["rows"]] == ["both phases", "A only", "B only", "plain LoRA"]
    a, b = DistillSpec(layer=0).steps_a, DistillSpec(layer=0).steps_b
    assert taken == [a, b, a, b, a + b, a + b, a + b, a + b, a + b, a + b], "each arm once to warm up"
    assert all(row["reversion_exact"]["value"] == 1.0 for row in found["rows"])
    assert {miss["method"] for miss in found["misses"]} <= {row["method"] for row in found["rows"]}


@pytest.mark.parametrize(
    ("wanted", "error", "words"),
    [
        pytest.param({"methods": ("rom",)}, UnknownName, "Did you mean 'rome'", id="an unknown method"),
        pytest.param({"methods": ()}, UsageError, "No method", id="no method"),
        pytest.param({"facts": 0}, UsageError, "facts=0", id="no facts"),
        pytest.param({"model": "./nowhere"}, ModelNotFound, "nowhere", id="a model that is not there"),
        pytest.param({"layer": 9}, UnknownName, "from 0 to 1", id="a layer that is not there"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(
    wanted: dict[str, object], error: type[CatechismError], words: str, folder: Path, feed: Path, tmp_path: Path
) -> None:
    with pytest.raises(error, match=words):
        bench(tmp_path, **{"model": str(folder), "data": feed, "facts": 1, **wanted})


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        pytest.param('{"prompt": ', BadFeed, "line 1", id="broken JSON"),
        pytest.param("", BadFeed, "no rows", id="an empty file"),
        pytest.param(json.dumps({**ROWS[0], "subject": "Spain"}), BadFact, "Spain", id="a subject that is not there"),
        pytest.param(json.dumps({**ROWS[0], "neighbors": []}), BadFeed, "neighbours", id="a key that is misspelt"),
    ],
)
def test_a_bad_feed_is_refused_with_its_line(
    content: str, error: type[CatechismError], words: str, folder: Path, tmp_path: Path
) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text(content)
    with pytest.raises(error, match=words):
        bench(tmp_path, model=str(folder), data=file)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        pytest.param(PARAGRAPH.encode(), "1 paragraphs", id="one paragraph"),
        pytest.param(b"", "0 paragraphs", id="nothing"),
        pytest.param("Größe über alles\n\nfür immer und ewig\n".encode("latin-1"), "UTF-8", id="another encoding"),
        pytest.param(None, "cannot be read", id="no such file"),
    ],
)
def test_a_bad_text_is_refused_with_what_to_give(
    content: bytes | None, words: str, folder: Path, feed: Path, tmp_path: Path
) -> None:
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=words):
        bench(tmp_path, model=str(folder), data=feed, text=file)


def test_the_command_prints_one_json_object(
    folder: Path, feed: Path, text: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(folder), "--data", str(feed), "--text", str(text), "--facts", "1", "--layer", "0"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "single", *words, "--json"])
    assert not end.value.code
    printed = capsys.readouterr().out
    result = json.loads(printed)
    assert printed.startswith("{") and printed.endswith("}\n")
    assert tuple(result["rows"][0])[: len(NAMED)] == NAMED
    assert result["rows"][0]["n"] == 1 and result["rows"][0]["layer"] == 0
    assert set(result) >= {"model", "layers", "misses", "machine", "seed", "command", "version"}


def test_the_command_reports_a_bad_feed_as_json(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.jsonl").write_text("[]")
    with pytest.raises(SystemExit) as end:
        main(["bench", "single", "--model", str(folder), "--data", str(tmp_path / "bad.jsonl"), "--json"])
    assert end.value.code == 2
    assert json.loads(capsys.readouterr().out)["error"]["code"] == "E102"
