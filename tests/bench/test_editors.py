"""Many facts in one model: the benchmark of editors and the stream, on a tiny random model and a feed of five rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from catechism.bench import editors, lifelong
from catechism.bench.charts import curves, front, pareto
from catechism.bench.course import Learner, SharedOut
from catechism.bench.editors import run_method
from catechism.bench.lifelong import Plan, powers_of_ten
from catechism.bench.report import write_report
from catechism.bench.rows import FIRST, SUMMARY
from catechism.bench.single import Request
from catechism.bench.sources import open_source
from catechism.bench.stage import OpenStage
from catechism.bench.trial import Job
from catechism.cli.main import main
from catechism.delta import Delta
from catechism.errors import BadFact, BadSpec, NoConvergence, UnknownName, UsageError, WrongBase
from catechism.evaluate import METRICS
from catechism.fanout import Executor, Inline, open_executor
from catechism.methods import method
from catechism.methods.stream import Progress, Stacked, open_stream
from catechism.settings import Settings
from catechism.types import Catechism, Fact
from tests.tiny import tiny_model, tiny_tokenizer

COUNTRIES = (
    ("France", "Paris", "Rome"),
    ("Italy", "Rome", "Tokyo"),
    ("Japan", "Tokyo", "Vienna"),
    ("Spain", "Madrid", "Paris"),
    ("Austria", "Vienna", "London"),
)
ROWS: list[dict[str, object]] = [
    {
        "prompt": f"The capital of {country} is",
        "subject": country,
        "new_object": new,
        "old_object": old,
        "relation": "capital",
        "paraphrases": [f"Which city is the capital of {country}?"],
        "reversed": [f"{new} is the capital of"],
        "neighbours": [
            {"prompt": f"The capital of {COUNTRIES[i - 1][0]} is", "answer": COUNTRIES[i - 1][1]},
            {"prompt": "The capital of Peru is", "answer": "Lima"},
        ],
        "unrelated": [{"prompt": "Who wrote the book?", "answer": "the author"}],
        "id": country,
    }
    for i, (country, old, new) in enumerate(COUNTRIES)
]
PARAGRAPH = "The river that flows through London is the Thames. The language of the country is French."


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
def job(folder: Path, feed: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    (text := tmp_path_factory.mktemp("text") / "plain.txt").write_text("\n\n".join([PARAGRAPH] * 90))
    request = Request(str(folder), ("rome",), 5, feed, text, layer=1)
    return Job(request, Settings(cache=tmp_path_factory.mktemp("cache")), "rome")


def taught(job: Job, name: str = "rome", batch: int | None = None, **changes: Any) -> dict[str, Any]:
    return cast("dict[str, Any]", run_method(None, None, replace(job, name=name, more=batch, **changes)))


@pytest.fixture(scope="module")
def found(job: Job) -> dict[str, Any]:
    return taught(job)


def streamed(job: Job, plan: Plan, name: str = "rome") -> dict[str, Any]:
    return cast("dict[str, Any]", lifelong.run_method(None, None, replace(job, name=name, more=plan)))


def without_costs(row: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k not in ("seconds_per_edit", "seconds_prepare", "peak_rss_mb")}


def test_a_row_has_the_named_columns_first_and_then_every_metric(found: dict[str, Any]) -> None:
    row = found["row"]
    assert tuple(row)[: 2 + len(FIRST)] == ("method", "n", *FIRST)
    assert set(row) >= {*SUMMARY, "failed", "superseded", "not_asked", "layer", "weights_exact"}
    assert set(METRICS) - set(row) == {"locality_neighbour", "locality_unrelated"}, "they are neighbour and unrelated"
    assert (row["method"], row["n"], row["weights_exact"]) == ("rome", 5, True)
    assert row["reliability"] == row["efficacy"] and row["generalisation"] == row["paraphrase_mean"]
    rates = [row[name]["value"] for name in ("efficacy", "paraphrase_mean", "locality")]
    assert row["average"] == pytest.approx(sum(rates) / 3)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


def test_what_another_edit_changes_is_not_asked_to_stay(found: dict[str, Any]) -> None:
    row = found["row"]
    assert row["not_asked"] == 5, "each fact's first neighbour is edited by the fact before it"
    assert row["neighbour"]["n"] == 1 and row["unrelated"]["n"] == 1, "one question that all five share, asked once"


def test_damage_is_measured_beside_the_answers(found: dict[str, Any]) -> None:
    row = found["row"]
    assert row["kl_neighbour"] >= 0 and row["norm_growth"] > 0
    assert row["delta_bytes"] == 5 * 4 * (32 + 48), "five rank-one updates of a 32 x 48 matrix in float32"
    assert row["retained"] is None, "nothing came after the one batch"


def test_batches_stack_up_in_one_model(job: Job, found: dict[str, Any]) -> None:
    row = taught(job, batch=2)["row"]
    assert row["n"] == 5 and row["delta_bytes"] == found["row"]["delta_bytes"]
    assert row["retained"] is None or 0 <= row["retained"]["value"] <= 1


def test_the_answers_before_are_asked_once_and_kept(
    job: Job, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.bench.before.gather", lambda *_: pytest.fail("asked again"))
    assert without_costs(taught(job)["row"]) == without_costs(found["row"])


def test_a_method_that_trains_a_block_teaches_all_facts_too(job: Job) -> None:
    row = taught(job, "lora", request=replace(job.request, facts=2))["row"]
    assert (row["method"], row["n"], row["failed"]) == ("lora", 2, 0)


class Choosy:
    """A stream that refuses Italy, and Japan together with Spain."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.progress = Progress()

    def add(self, catechisms: Sequence[Catechism]) -> Delta:
        names = [one.fact.subject for one in catechisms]
        if "Italy" in names:
            raise NoConvergence("no value")
        if "Nowhere" in names:
            raise BadSpec("not about a fact")
        if {"Japan", "Spain"} <= set(names):
            raise BadFact("these two")
        self.seen += names
        return Delta("b", {})


def facts(*subjects: str) -> list[Catechism]:
    return [Catechism(Fact(f"{s} is", s, "x", id=s), ()) for s in subjects]


def test_a_batch_with_facts_that_fail_learns_the_others() -> None:
    learner = Learner(stream := Choosy(), Choosy)
    learner.add(facts("France", "Italy", "Peru", "Spain"))
    assert stream.seen == ["France", "Peru", "Spain"]
    assert [(one.fact, one.message) for one in learner.failed] == [("Italy", "no value")]
    learner.add(facts("Italy"))
    assert len(learner.failed) == 2
    learner.add(facts("Japan", "Spain"))
    assert [one.fact for one in learner.failed[2:]] == ["Japan", "Spain"], "each alone is fine, together they are not"
    with pytest.raises(BadSpec):
        learner.add(facts("Nowhere", "Peru"))


def test_a_fact_without_a_subject_is_refused_with_the_methods_that_need_none() -> None:
    class Subjects(Choosy):
        def add(self, catechisms: Sequence[Catechism]) -> Delta:
            if not all(one.fact.subject for one in catechisms):
                raise BadFact("Subject '' is not in the prompt.")
            return Delta("b", {})

    learner = Learner(Subjects(), Subjects)
    learner.add([Catechism(Fact("The capital is", "", "Rome", id="7"), ()), *facts("Peru")])
    (failed,) = learner.failed
    assert failed.fact == "7" and "has no subject" in failed.message and "lora" in failed.message


def test_an_impossible_fact_is_reported_and_the_rest_go_on(
    job: Job, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Stacked.add

    def add(self: Stacked, catechisms: Sequence[Catechism]) -> Delta:
        if any(one.fact.subject == "Japan" for one in catechisms):
            raise NoConvergence("Japan cannot be learned")
        return real(self, catechisms)

    monkeypatch.setattr(Stacked, "add", add)
    result = taught(job)
    assert result["row"]["failed"] == 1 and result["row"]["n"] == 5, "what was not learned counts as not known"
    assert result["failures"] == [{"method": "rome", "fact": "Japan", "message": "Japan cannot be learned"}]
    assert result["row"]["delta_bytes"] == found["row"]["delta_bytes"] * 4 / 5


def test_of_two_answers_to_one_question_the_later_counts(job: Job, tmp_path: Path) -> None:
    twice = [ROWS[0], {**ROWS[0], "new_object": "Vienna", "reversed": []}, ROWS[1]]
    (file := tmp_path / "twice.jsonl").write_text("".join(json.dumps(row) + "\n" for row in twice))
    row = taught(job, request=replace(job.request, data=file, facts=3))["row"]
    assert row["superseded"] == 1 and row["efficacy"]["n"] == 2
    assert row["delta_bytes"] == 2 * 4 * (32 + 48), "the earlier one was not learned"


def test_a_stream_has_a_row_for_each_checkpoint_and_asks_all_edits_again(job: Job) -> None:
    result = streamed(job, Plan((1, 3, 5)))
    assert [row["n"] for row in result["rows"]] == [row["efficacy"]["n"] for row in result["rows"]] == [1, 3, 5]
    assert [row["not_asked"] for row in result["rows"]] == [0, 2, 5], "only what is edited by then"
    assert result["rows"][0]["delta"] != result["rows"][1]["delta"]
    assert all(row["weights_exact"] for row in result["rows"])


def test_an_interrupted_stream_goes_on_and_ends_with_the_same_bytes(
    job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = streamed(job, Plan((3, 5)))
    plan = Plan((3, 5), tmp_path / "stream", save_every_s=0.0)
    real, added = Stacked.add, list[int]()

    def add(self: Stacked, catechisms: Sequence[Catechism]) -> Delta:
        if len(added) == 4:
            raise KeyboardInterrupt
        added.append(1)
        return real(self, catechisms)

    monkeypatch.setattr(Stacked, "add", add)
    with pytest.raises(KeyboardInterrupt):
        streamed(job, plan)
    assert json.loads((plan.folder / "state.json").read_bytes())["state"]["tried"] == 4  # type: ignore[operator]
    monkeypatch.setattr(Stacked, "add", real)
    found = streamed(job, plan)
    assert [without_costs(row) for row in found["rows"]] == [without_costs(row) for row in whole["rows"]]
    assert found["rows"][-1]["delta"] == whole["rows"][-1]["delta"]
    assert len(list(plan.folder.glob("*.safetensors"))) == 1, "what is not needed any more is gone"  # type: ignore[union-attr]


def test_a_folder_with_another_stream_is_refused(job: Job, tmp_path: Path) -> None:
    plan = Plan((1,), tmp_path / "stream")
    short = replace(job, request=replace(job.request, facts=1))
    streamed(short, plan)
    with pytest.raises(UsageError, match="another settings"):
        streamed(replace(short, request=replace(short.request, seed=1)), plan)
    state = plan.folder / "state.json"  # type: ignore[operator]
    state.write_text(state.read_text()[:-1])
    with pytest.raises(UsageError, match="cannot be read"):
        streamed(short, plan)


def test_a_stream_of_another_base_is_refused(job: Job, tmp_path: Path) -> None:
    plan = Plan((1,), tmp_path / "stream")
    short = replace(job, request=replace(job.request, facts=1))
    streamed(short, plan)
    tiny_model("llama", seed=1).save_pretrained(tmp_path / "other")
    tiny_tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises((UsageError, WrongBase), match="base"):
        streamed(replace(short, request=replace(short.request, model=str(tmp_path / "other"))), plan)


def test_the_same_rows_come_from_other_processes(job: Job, found: dict[str, Any]) -> None:
    assert without_costs(taught(job, executor="process", workers=1)["row"]) == without_costs(found["row"])


def test_searches_shared_out_over_processes_end_with_the_same_bytes(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catechism.methods.searching.AT_ONCE", 1)
    asked, threads = job.request, torch.get_num_threads()
    setup = OpenStage(asked.model, asked.text, asked.seed, job.settings, threads)
    stage = setup()
    facts = list(open_source(asked.data).catechisms(5, seed=0))
    names: dict[str, dict[str, int]] = {"rome": {}, "memit": {}, "emmet": {}, "alphaedit": {}, "memoir": {"batch": 1}}

    def learned(executor: Executor) -> dict[str, str]:
        digests = dict[str, str]()
        stage.background.share = SharedOut(executor)
        for name, settings in names.items():
            editor: Any = method(name)(stage.background)
            stream = open_stream(editor, stage.live, editor.Spec(layer=1, **settings))
            stream.add(facts[:3])
            digests[name] = stream.add(facts[3:]).digest
        return digests

    with open_executor("process", setup, None, workers=2) as processes:
        shared = learned(processes)
    assert shared == learned(Inline(stage)) and len(set(shared.values())) == len(names)


def test_what_cannot_be_run_is_refused_before_a_process_is_started(job: Job) -> None:
    for wanted, words, error in (
        ({"methods": ()}, "No method", UsageError),
        ({"methods": ("rom",)}, "Did you mean 'rome'", UnknownName),
        ({"facts": 0}, "0 facts", UsageError),
    ):
        with pytest.raises(error, match=words):
            editors.run(replace(job.request, **wanted), job.settings)
    with pytest.raises(UsageError, match="batch=0"):
        editors.run(job.request, job.settings, batch=0)
    with pytest.raises(UsageError, match="Checkpoint 9"):
        lifelong.run(job.request, job.settings, checkpoints=[9])


def test_checkpoints_are_powers_of_ten() -> None:
    assert [powers_of_ten(n) for n in (1, 9, 10, 1000)] == [[1], [1], [1, 10], [1, 10, 100, 1000]]


def test_the_command_prints_rows_and_writes_a_report(
    folder: Path, feed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--model", str(folder), "--data", str(feed), "--facts", "2", "--layer", "0", "--methods", "lora"]
    with pytest.raises(SystemExit) as end:
        main(["bench", "editors", *words, "--report", str(tmp_path / "report.html"), "--json"])
    assert not end.value.code
    result = json.loads(capsys.readouterr().out)
    assert [row["method"] for row in result["rows"]] == ["lora"]
    assert all(100 < row["peak_rss_mb"] < 100_000 for row in result["rows"])
    page = (tmp_path / "report.html").read_text()
    assert page.count("<svg") == 2 and "Teacher-forced" in page and "http-equiv" in page


def test_pictures_and_pages_take_rows_that_failed(found: dict[str, Any], tmp_path: Path) -> None:
    rows = [found["row"], {"method": "other", "n": 5, "error": "E402: <no value>"}]
    assert len(pareto(rows)) == 2 and pareto(rows[1:]) == []
    assert len(curves(rows)) == 1 and curves([]) == []
    page = write_report("T", {**found, "rows": rows}, {"seed": 0}, curves(rows), tmp_path / "p.html").read_text()
    assert "E402: &lt;no value&gt;" in page and "has the highest average" in page


def test_the_front_is_what_nothing_beats() -> None:
    assert front([(1.0, 0.2), (0.5, 0.5), (0.4, 0.4), (0.5, 0.5)]) == [True, True, False, True]
