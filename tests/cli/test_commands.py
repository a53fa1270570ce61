"""The commands, run in this process on models that are made on the spot."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console

import catechism
from catechism.cli.main import main
from catechism.settings import Settings
from tests.tiny import tiny_model, tiny_tokenizer


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]):
    """Run a command; gives the exit code and what stood on standard output."""

    def run(*words: str) -> tuple[int, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        return int(end.value.code or 0), capsys.readouterr().out

    return run


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its tokenizer, as a plain folder."""
    folder = tmp_path_factory.mktemp("tiny")
    tiny_model("llama").save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


def test_without_words_the_help_is_shown(run) -> None:
    code, _ = run()
    assert code == 2


@pytest.mark.parametrize("words", ["--help", "ask --help", "bench --help", "bench single --help", "arch --help"])
def test_every_help_works(run, words: str) -> None:
    code, out = run(*words.split())
    assert code == 0
    assert out.startswith("Usage: catechism")


def test_version_names_the_libraries(run) -> None:
    code, out = run("version", "--json")
    assert code == 0
    assert json.loads(out)["catechism"] == catechism.__version__
    assert set(json.loads(out)) >= {"python", "torch", "transformers"}
    assert run("version")[1].startswith(f"catechism {catechism.__version__}\n")


@pytest.mark.parametrize("name", ["E201", "e201", "UnknownArchitecture", "unknownarchitecture"])
def test_help_prints_the_page_of_an_error(run, name: str) -> None:
    code, out = run("help", name)
    assert code == 0
    assert out.startswith("# E201 UnknownArchitecture\n")


def test_help_without_a_code_lists_all_errors(run) -> None:
    rows = json.loads(run("help", "--json")[1])["rows"]
    assert {"code": "E303", "name": "WrongBase", "meaning": "The delta was made for another base model."} in rows


def test_help_for_an_unknown_code_says_what_there_is(run) -> None:
    code, out = run("help", "E210", "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert error["code"] == "E104"
    assert "Did you mean E" in error["message"] and "E20" in error["message"]


def test_arch_list_has_a_row_for_each_architecture(run) -> None:
    code, out = run("arch", "list", "--json")
    assert code == 0
    kinds = {row["model_type"]: row for row in json.loads(out)["rows"]}
    assert kinds["gpt2"]["transposed"] and not kinds["llama"]["transposed"]
    assert kinds["mixtral"]["experts"] and not kinds["llama"]["experts"]


def test_arch_probe_checks_a_folder(run, folder: Path) -> None:
    code, out = run("arch", "probe", str(folder), "--json")
    assert code == 0
    assert json.loads(out)


def test_ask_goes_on_from_the_question(run, folder: Path) -> None:
    code, out = run("ask", str(folder), "The capital of France is", "--max-new-tokens", "3", "--json")
    assert code == 0
    answer = json.loads(out)
    assert answer["question"] == "The capital of France is"
    assert set(answer) == {"model", "question", "answer", "stopped", "edits"}


def test_ask_wants_the_question_in_quotation_marks(run) -> None:
    code, out = run("ask", "The", "capital", "of", "--json")
    assert code == 2
    assert "quotation marks" in json.loads(out)["error"]["message"]


def test_a_model_that_is_not_there_is_named(run, tmp_path: Path) -> None:
    code, out = run("ask", str(tmp_path / "nothing"), "Who?", "--json")
    assert code == 1
    assert json.loads(out)["error"]["code"] == "E203"


def test_models_lists_what_ships(run) -> None:
    code, out = run("models", "--json")
    rows = json.loads(out)["rows"]
    assert code == (0 if all(row["intact"] for row in rows) else 1)
    assert {row["name"] for row in rows} == {"almanac", "almanac-control", "almanac-moe"}


def test_doctor_says_what_it_looked_at(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CATECHISM_CACHE", str(tmp_path / "cache"))
    code, out = run("doctor", "--json")
    report = json.loads(out)
    checks = {row["check"]: row for row in report["rows"]}
    assert checks["torch"]["ok"] and checks["cache"]["ok"]
    assert (tmp_path / "cache").is_dir()
    assert code == (0 if report["ok"] else 1)


def test_doctor_fails_where_the_cache_cannot_be_written(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("CATECHISM_CACHE", str(tmp_path / "file" / "cache"))
    code, out = run("doctor", "--json")
    assert code == 1
    row = next(row for row in json.loads(out)["rows"] if row["check"] == "cache")
    assert row["ok"] is False and "CATECHISM_CACHE" in row["fix"]


def test_bench_single_hands_its_options_on(run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The benchmark itself is tested where it lives; here only what the command adds."""
    from catechism.bench import single

    asked: list[single.Request] = []

    def fake(request: single.Request, settings: Settings, console: Console) -> dict[str, object]:
        asked.append(request)
        console.print("progress")
        return {"rows": [{"method": "rome", "n": 3, "efficacy": 1.0}, {"method": "other", "n": 3}]}

    monkeypatch.setattr(single, "run", fake)
    feed = tmp_path / "feed.jsonl"
    feed.write_text("")
    words = ["bench", "single", "--facts", "3", "--methods", "rome, other", "--seed", "4", "--data", str(feed)]
    code, out = run(*words, "--json")
    assert code == 0
    assert asked == [single.Request(methods=("rome", "other"), facts=3, data=feed, seed=4)]
    found = json.loads(out)
    assert found["rows"][0] == {"method": "rome", "n": 3, "efficacy": 1.0}
    assert found["seed"] == 4 and found["version"] == catechism.__version__
    assert set(found) >= {"machine", "command"}

    shown = run(*words)[1]
    assert all(word in shown for word in ("rome", "other", "efficacy"))
    assert "progress" not in shown
