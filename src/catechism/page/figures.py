"""Figures as a page: tables and pictures in one HTML file that needs no network and runs no code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from catechism.delta.file import write_atomically
from catechism.page.page import Picture
from catechism.types import JSON


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of cells under their columns, with a line about them."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Everything that stands on the page.

    Attributes:
        title: its heading.
        facts: short lines of name and value: model, machine, command.
        words: paragraphs before the pictures.
        pictures: before the tables.
        tables: the figures.
    """

    title: str
    facts: Mapping[str, str]
    words: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()


def write_figures(page: Figures, path: Path) -> Path:
    """Write the page, all or nothing. Whatever a file or a model said stands there as text, never as markup."""
    template = (resources.files("catechism.page") / "figures.html").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return write_atomically(path, environment.from_string(template).render(page=page).encode())


def table_of(title: str, rows: Sequence[Mapping[str, JSON]], columns: Sequence[str], note: str = "") -> Table:
    """A table of some columns of rows; a rate is shown with its interval."""
    return Table(title, columns, [[cell_of(row.get(column)) for column in columns] for row in rows], note)


def cell_of(value: JSON) -> str:
    """A value as a person reads it."""
    match value:
        case None:
            return "-"
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.4g}"
        case {"value": float() | int() as rate, "low": float() | int() as low, "high": float() | int() as high}:
            return f"{rate:.3f} [{low:.3f}, {high:.3f}]"
        case _:
            return str(value)
