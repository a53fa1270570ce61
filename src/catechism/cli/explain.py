"""``catechism help`` and ``catechism version``."""

from __future__ import annotations

import difflib
import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

import catechism
from catechism import errors
from catechism.cli.output import Result, table, verb
from catechism.errors import CatechismError, UnknownName


def register(app: typer.Typer) -> None:
    """Add the commands to the command line."""
    verb(app, "help")(help_)
    verb(app, "version")(version)


def help_(
    code: Annotated[str | None, typer.Argument(help="An error's code or name, E201 for instance.")] = None,
) -> Result:
    """Explain an error.

    What it looks like, why it happens, what to do. Without a code, all errors are listed.
    """
    known = {kind.code: kind for kind in vars(errors).values() if _is_error(kind)}
    if code is None:
        rows = [
            {
                "code": kind.code,
                "name": kind.__name__,
                "meaning": (kind.__doc__ or "").split("\n")[0].replace("``", "`"),
            }
            for kind in sorted(known.values(), key=lambda kind: kind.code)
        ]
        return Result({"rows": rows}, table(rows))
    by_name = {kind.__name__.casefold(): kind for kind in known.values()} | {c.casefold(): k for c, k in known.items()}
    kind = by_name.get(code.casefold())
    if kind is None:
        near = difflib.get_close_matches(code.upper(), known, n=3)
        hint = f"Did you mean {' or '.join(near)}? " if near else ""
        raise UnknownName(f"No error has the code or name {code!r}. {hint}`catechism help` lists them all.")
    page = error_page(kind.code)
    return Result({"code": kind.code, "name": kind.__name__, "page": page}, page)


def version() -> Result:
    """Print the version.

    Those of the libraries that figures depend on stand below it.
    """
    payload: dict[str, str | None] = {"catechism": catechism.__version__, "python": platform.python_version()}
    for name in ("torch", "transformers", "tokenizers", "safetensors"):
        try:
            payload[name] = installed_version(name)
        except PackageNotFoundError:
            payload[name] = None
    return Result(payload, "\n".join(f"{name} {number or 'not installed'}" for name, number in payload.items()))


def error_page(code: str) -> str:
    """The text of an error's page in Markdown.

    Raises:
        CatechismError: if the installation carries no pages.
    """
    package = Path(__file__).parents[1]
    # An installed package carries the pages; a checkout has them in docs/.
    for folder in (package / "_errors", package.parents[1] / "docs" / "errors"):
        page = folder / f"{code}.md"
        if page.is_file():
            return page.read_text(encoding="utf-8")
    raise CatechismError(f"The page of {code} is not installed. Install the package again: pip install catechism")


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, CatechismError)
