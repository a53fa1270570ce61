"""The ``catechism`` command: its groups, and the one place where a usage error becomes an exit code."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import NoReturn, cast

import typer

from catechism.cli import arch, ask, bench, datasets, demo, doctor, edits, explain, forget, models, store, study
from catechism.cli.output import report_error
from catechism.errors import Interrupted, UsageError

app = typer.Typer(
    name="catechism",
    help="Keep the knowledge of an open-weight language model right.",
    epilog="An error names its page: catechism help E201.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for room in (demo, edits, forget, ask, store, models, bench, study, datasets, arch, doctor, explain):
    room.register(app)

# typer exports only this one of the parser's errors; its base is what they all have in common.
_ParserError = cast(type[Exception], typer.BadParameter.__mro__[1])


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with the command's exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        code = app(words, prog_name="catechism", standalone_mode=False)
    except _ParserError as error:
        code = _usage(error, as_json="--json" in words)
    except (KeyboardInterrupt, typer.Abort):
        code = Interrupted.exit_code
    if code == Interrupted.exit_code:  # the parser turns Ctrl-C into this code and says nothing
        _interrupted(as_json="--json" in words)
    sys.exit(code or 0)


def _interrupted(*, as_json: bool) -> None:
    report_error(Interrupted.code, str(Interrupted()), sys.stdout.write if as_json else None)


def _usage(error: BaseException, *, as_json: bool) -> int:
    message = str(getattr(error, "message", "") or error)
    if as_json:
        report_error(UsageError.code, message, sys.stdout.write)
    else:
        error.show()  # pyright: ignore[reportAttributeAccessIssue]  # usage and message, on standard error
    return UsageError.exit_code
