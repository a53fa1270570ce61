"""How commands answer: text for people, or with ``--json`` one JSON object on standard output and nothing else there.

A command is a function that returns a `Result`; `verb` registers it, adds ``--json`` and turns errors into exit codes:
0 ok, 1 failed gate or error, 2 usage, 3 denied, 4 conflict, 5 inconclusive.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import sys
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from catechism.errors import CatechismError
from catechism.types import JSON

JsonFlag = Annotated[
    bool, typer.Option("--json", help="One JSON object on standard output, all else on standard error.")
]


@dataclass(frozen=True, slots=True)
class Result:
    """What a command found out.

    Attributes:
        payload: the JSON object for ``--json``.
        text: what a person sees, a string or anything that rich can render; None where it has been shown already.
        exit_code: 0, or the code of a verdict that is not a pass.
    """

    payload: Mapping[str, object]
    text: object = None
    exit_code: int = 0


def verb(group: typer.Typer, name: str) -> Callable[[Callable[..., Result]], Callable[..., Result]]:
    """Register a function that returns a `Result` as a command of `group`; the function itself stays as it is."""

    def register(function: Callable[..., Result]) -> Callable[..., Result]:
        @functools.wraps(function)
        def command(*args: Any, **kwargs: Any) -> None:
            as_json = kwargs.pop("json")
            raise typer.Exit(_answer(functools.partial(function, *args, **kwargs), as_json=as_json))

        signature = inspect.signature(function, eval_str=True)
        flag = inspect.Parameter("json", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=JsonFlag)
        parameters = [*signature.parameters.values(), flag]
        command.__signature__ = signature.replace(parameters=parameters)  # pyright: ignore[reportAttributeAccessIssue]
        command.__annotations__ = {**function.__annotations__, "json": JsonFlag}
        group.command(name)(command)
        return function

    return register


def _answer(command: Callable[[], Result], *, as_json: bool) -> int:
    """Run a command, show what it returns or raises, and give the exit code."""
    write = sys.stdout.write
    try:
        # A library that prints, or a console made inside the command, must not end up between the JSON.
        with contextlib.redirect_stdout(sys.stderr) if as_json else contextlib.nullcontext():
            result = command()
    except CatechismError as error:
        report_error(error.code, str(error), write if as_json else None)
        return error.exit_code
    except Exception as error:
        if as_json:
            write_json({"error": {"code": CatechismError.code, "message": f"{type(error).__name__}: {error}"}}, write)
        raise
    if as_json:
        write_json(result.payload, write)
    elif result.text is not None:
        show(result.text)
    return result.exit_code


def report_error(code: str, message: str, write: Callable[[str], object] | None) -> None:
    """Show an error on standard error, and hand it as a JSON object to `write` where there is one."""
    sys.stderr.write(f"error {code}: {message}\nMore about it: catechism help {code}\n")
    if write is not None:
        write_json({"error": {"code": code, "message": message}}, write)


def write_json(payload: Mapping[str, object], write: Callable[[str], object]) -> None:
    """One object, indented, in UTF-8. Raises ValueError on NaN: a missing figure is None."""
    encoder = json.JSONEncoder(indent=2, ensure_ascii=False, allow_nan=False)
    deque(encoder.iterencode(payload), maxlen=0)  # so that nothing is written where something cannot be
    for part in encoder.iterencode(payload):  # part by part: rows may be many, and wait on the disk
        write(part)
    write("\n")


def show(text: object) -> None:
    """A string as it is, anything else through rich."""
    if isinstance(text, str):
        sys.stdout.write(text.rstrip("\n") + "\n")
    else:
        from rich.console import Console

        Console().print(text)


def table(rows: Sequence[Mapping[str, JSON]], *, title: str | None = None) -> object:
    """A rich table of rows that share their keys; a rate is shown with its interval."""
    from rich.table import Table
    from rich.text import Text

    columns = list(dict.fromkeys(key for row in rows for key in row))
    grid = Table(title=title)
    for column in columns:
        grid.add_column(column, overflow="fold")  # a path or a hash is of no use cut short
    for row in rows:
        grid.add_row(*(Text(_cell(row.get(column))) for column in columns))  # Text: brackets are no markup
    return grid


def _cell(value: JSON) -> str:
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case {"value": float() as rate, "low": float() as low, "high": float() as high}:
            return f"{rate:.3f} [{low:.3f}, {high:.3f}]"
        case _:
            return str(value)
