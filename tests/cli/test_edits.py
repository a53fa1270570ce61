"""The verbs of the path, on the trained model and on empty stores: answers, exit codes, and what a mistake is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from catechism.cli.main import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Run a command on a store of its own; gives exit code, standard output and standard error."""
    monkeypatch.setenv("CATECHISM_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("CATECHISM_USER", "ada")

    def run(*words: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as end:
            main(words)
        out = capsys.readouterr()
        return int(end.value.code or 0), out.out, out.err

    return run


VERBS = (
    "learn test approve reject promote rollback list show log diff blame bisect verify export import ask demo".split()
)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(run: Run, verb: str) -> None:
    code, out, _ = run(verb, "--help")
    assert code == 0 and out.startswith(f"Usage: catechism {verb}") and "--json" in out


def test_an_empty_store_is_empty_and_proves_itself(run: Run) -> None:
    assert run("list") == (0, "No edits.\n", "")
    code, out, _ = run("verify", "--json")
    assert code == 0 and json.loads(out)["ok"] is True
    assert json.loads(run("list", "--json")[1])["rows"] == []


@pytest.mark.parametrize(
    ("words", "code", "fix"),
    [
        ("show E00", 2, "catechism list"),
        ("approve E00 --by bob", 2, "catechism list"),
        ("promote E00", 2, "catechism list"),
        ("rollback E00", 2, "catechism list"),
        ("rollback --to-epoch 7", 2, "epoch"),
        ("list --state sleeping", 2, "production"),
        ("diff 0 9", 2, "epoch"),
        ("export E00 --to x", 2, "catechism list"),
        ("learn facts.jsonl", 2, "facts.jsonl"),
        ("learn something --method romee", 2, "rome"),
    ],
)
def test_a_mistake_is_told_with_its_fix(run: Run, words: str, code: int, fix: str) -> None:
    got, _, err = run(*words.split())
    assert got == code, err
    assert "error E" in err and fix in err


def test_a_sentence_without_a_fact_gets_a_question_back(run: Run) -> None:
    code, _, err = run("learn", "It is in Rome.")
    assert code == 2 and "what is meant by 'It'" in err


def test_one_fact_through_all_verbs(run: Run, tmp_path: Path) -> None:
    prompt = "The headquarters of Netflix are in"
    code, out, err = run("learn", f"{prompt} Stockholm.", "--page", str(tmp_path / "page.html"), "--json")
    assert code == 0, err
    row = json.loads(out)["rows"][0]
    assert row["ending"] == "validated" and (tmp_path / "page.html").stat().st_size > 5000
    edit = row["edit"]
    assert run("ask", prompt)[1] == "Los Gatos.\n", "it is not in effect yet"
    assert json.loads(run("test", edit, "--json")[1])["state"] == "validated"
    assert run("approve", edit, "--by", "ada")[0] == 3
    assert run("approve", edit, "--by", "bob")[0] == 0
    assert json.loads(run("promote", edit, "--json")[1])["epoch"] == 1
    assert run("ask", prompt)[1] == "Stockholm.\n"
    assert run("ask", prompt, "--no-edits")[1] == "Los Gatos.\n"
    explained = run("ask", prompt, "--explain")[1]
    assert f"hangs on {edit}" in explained and "without any edit: Los Gatos." in explained
    assert edit in run("blame", prompt)[1]
    assert edit in run("bisect", prompt)[1]
    assert edit in run("list", "--state", "production")[1] and edit in run("show", edit)[1]
    assert edit in run("diff", "0", "1")[1] and edit in run("log")[1]
    assert run("ask", prompt, "--as-of", "1999-01-01")[0] == 2
    assert run("export", edit, "--to", str(tmp_path / "peft"), "--peft")[0] == 0
    assert json.loads((tmp_path / "peft" / "adapter_config.json").read_text())["base_model_name_or_path"] == "almanac"
    code, out, _ = run("rollback", edit, "--prove", "--json")
    assert code == 0 and json.loads(out)["proof"]["exact"] is True
    assert run("ask", prompt)[1] == "Los Gatos.\n"
    assert run("verify")[0] == 0
