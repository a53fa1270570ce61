"""How commands answer, for people and for programs."""

from __future__ import annotations

import json
import sys

import pytest
import typer

from catechism.cli import main as command_line
from catechism.cli.output import Result, table, verb, write_json
from catechism.cli.spool import Spool
from catechism.errors import BadFeed, CatechismError, ModelNotFound


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    """A command line of two verbs that behave as a test tells them to."""
    app = typer.Typer()
    monkeypatch.setattr(command_line, "app", app)

    def good(number: int = 1) -> Result:
        sys.stdout.write("a library that prints\n")
        return Result({"number": number, "word": "Öl"}, f"the number is {number}", exit_code=5)

    def bad(kind: str) -> Result:
        raise {"feed": BadFeed, "model": ModelNotFound, "bug": RuntimeError}[kind]("Got 3. Give 4.")

    verb(app, "good")(good)
    verb(app, "bad")(bad)
    return app


def leave(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        command_line.main(words)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_json_is_the_only_thing_on_standard_output(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("good", "--number", "7", "--json") == 5
    out, err = capsys.readouterr()
    assert json.loads(out) == {"number": 7, "word": "Öl"}
    assert "Öl" in out
    assert err == "a library that prints\n"


def test_text_is_for_people(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("good") == 5
    assert capsys.readouterr().out == "a library that prints\nthe number is 1\n"


@pytest.mark.parametrize(("kind", "code", "exit_code"), [("feed", "E102", 2), ("model", "E203", 1)])
def test_an_error_names_its_page(
    app: typer.Typer, capsys: pytest.CaptureFixture[str], kind: str, code: str, exit_code: int
) -> None:
    assert leave("bad", kind) == exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err == f"error {code}: Got 3. Give 4.\nMore about it: catechism help {code}\n"


def test_an_error_under_json_is_an_object(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    assert leave("bad", "model", "--json") == 1
    assert json.loads(capsys.readouterr().out) == {"error": {"code": "E203", "message": "Got 3. Give 4."}}


def test_an_unforeseen_failure_under_json_is_an_object_and_a_traceback(
    app: typer.Typer, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RuntimeError):
        command_line.main(["bad", "bug", "--json"])
    message = "RuntimeError: Got 3. Give 4."
    assert json.loads(capsys.readouterr().out) == {"error": {"code": CatechismError.code, "message": message}}


@pytest.mark.parametrize("words", [("good", "--nmber", "7"), ("good", "--number", "seven"), ("bad",), ("ugly",)])
def test_a_usage_error_leaves_with_two(
    app: typer.Typer, capsys: pytest.CaptureFixture[str], words: tuple[str, ...]
) -> None:
    assert leave(*words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "Usage:" in err

    assert leave(*words, "--json") == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert error["code"] == "E100"
    assert error["message"]


def test_a_figure_that_is_not_a_number_is_no_json(app: typer.Typer, capsys: pytest.CaptureFixture[str]) -> None:
    verb(app, "nan")(lambda: Result({"rate": float("nan")}))
    with pytest.raises(ValueError, match="JSON compliant"):
        command_line.main(["nan", "--json"])
    assert capsys.readouterr().out == ""


def test_a_table_shows_rates_with_their_interval(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.console import Console

    rate = {"value": 0.98, "low": 0.93, "high": 0.995, "n": 100, "before": 0.0}
    Console(width=120).print(
        table([{"method": "rome", "efficacy": rate}, {"method": "none", "seconds": 0.25, "ok": True}])
    )
    shown = capsys.readouterr().out
    for cell in ("0.980 [0.930, 0.995]", "0.25", "yes", "-"):
        assert cell in shown


def test_rows_that_wait_on_the_disk_are_written_like_a_list() -> None:
    rows = Spool()
    written: list[str] = []
    write_json({"rows": rows}, written.append)
    assert json.loads("".join(written)) == {"rows": []}
    for number in range(3):
        rows.append({"number": number, "word": "Öl"})
    assert len(rows) == 3 and list(rows) == list(rows) == [{"number": n, "word": "Öl"} for n in range(3)]
    rows.append(None)
    written.clear()
    write_json({"rows": rows, "n": 4}, written.append)
    assert json.loads("".join(written)) == {"rows": list(rows), "n": 4}


def test_nothing_is_written_of_what_json_cannot_hold() -> None:
    written: list[str] = []
    with pytest.raises(ValueError, match="JSON"):
        write_json({"good": 1, "figure": float("nan")}, written.append)
    assert written == []
    with pytest.raises(ValueError, match="JSON"):
        Spool().append({"figure": float("inf")})
