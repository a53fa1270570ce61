"""``catechism datasets``: formats, files, and what is in one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from catechism.cli.main import main
from catechism.datasets import FORMATS

ROWS = [
    {"subject": "Doe", "src": "What is made by Doe?", "alt": "planes", "answers": ["uniforms"], "loc": "who?"},
    {"subject": "Doe", "src": "What is sold by Doe?", "alt": "hats", "answers": ["hats"], "loc": "who?"},
    {"subject": "Doe", "src": "Where is Doe?", "alt": "Rome", "answers": [], "loc": "who?", "rephrase": "Doe is in?"},
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "zsre.json"
    path.write_text(json.dumps(ROWS, indent=1))
    return path


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        main(["datasets", *words])
    return int(end.value.code or 0), capsys.readouterr().out


def test_the_formats_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, "list", "--json")
    assert code == 0
    assert [row["format"] for row in json.loads(out)["rows"]] == ["feed", *(form.name for form in FORMATS)]
    assert "zsre" in run(capsys, "list")[1]


def test_the_files_of_a_folder_are_recognised(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    (file.parent / "other.jsonl").write_text('{"colour": "red"}')
    rows = json.loads(run(capsys, "list", str(file.parent), "--json")[1])["rows"]
    assert [(Path(row["file"]).name, row["format"]) for row in rows] == [("other.jsonl", None), ("zsre.json", "zsre")]


def test_a_file_is_read_whole_and_bad_rows_are_counted(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out = run(capsys, "show", str(file), "--json")
    found = json.loads(out)
    assert code == 0
    assert (found["format"], found["catechisms"], found["questions"], found["bad_rows"]) == ("zsre", 2, 5, 1)
    assert found["true_facts"] == 2 and len(found["bad"]) == 1 and "zsre.json, row 2 (line 11)" in found["bad"][0]
    assert [row["kind"] for row in found["first"]] == ["rewrite", "unrelated"]
    text = run(capsys, "show", str(file))[1]
    assert "What is made by Doe? -> ['planes']" in text and "row 2 (line 11)" in text


def test_strict_stops_at_the_first_bad_row(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out = run(capsys, "show", str(file), "--strict", "--json")
    assert code == 2
    assert json.loads(out)["error"]["code"] == "E101" and "row 2 (line 11)" in json.loads(out)["error"]["message"]


def test_an_unknown_format_is_a_usage_error(capsys: pytest.CaptureFixture[str], file: Path) -> None:
    code, out = run(capsys, "show", str(file), "--format", "squad", "--json")
    assert code == 2 and "Choose one of: feed, counterfact" in json.loads(out)["error"]["message"]
