"""Rows of a CSV feed: a header with the keys of ``docs/feed-format.md``, then one fact on each row.

A list stands in its cell as JSON, an empty cell counts as left out. `csv_rows` gives the same mappings that a JSON
line would; a row that cannot be read comes as its error, so that the caller may go on with the next.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from difflib import get_close_matches

from catechism.errors import BadFeed
from catechism.facts.checks import line_text
from catechism.facts.row import KEYS, REQUIRED

#: Keys whose cell is a text as it stands; the cells of lists hold JSON.
_TEXTS = frozenset(
    {*REQUIRED, "old_object", "relation", "id", "statement", "valid_from", "valid_to", "author", "domain", "risk"}
)
_NUMBERS = frozenset({"confidence"})
_FLAGS = {"true": True, "false": False}


def csv_rows(lines: Iterator[tuple[int, bytes]], name: str) -> Iterator[tuple[int, dict[str, object] | BadFeed]]:
    """Line number and row, or the error that stands in its place.

    Args:
        lines: number and bytes of every line, blank ones too.
        name: the file's name, for the message about its header.

    Raises: BadFeed if the header is none; without it no row can be read.
    """
    text = _Decoded(lines)
    reader = csv.reader(text, strict=True)
    header: list[str] | None = None
    while True:
        number = text.number + 1
        try:
            cells = next(reader, None)
            if cells is None:
                return
            if not cells:  # a blank line
                continue
            if header is None:
                header = _header(cells)
                continue
            row: dict[str, object] | BadFeed = _row(header, cells)
        except csv.Error as error:
            row = BadFeed(
                f"Not CSV: {error}. Put a cell with a comma, a quote or a line break in double quotes, and write a "
                "quote inside it twice."
            )
        except BadFeed as error:
            row = error
        if header is None:
            raise BadFeed(f"{name}, line {number}: {row}")
        yield number, row


class _Decoded:
    """Lines as text for the CSV reader, with the number of the last line handed over."""

    def __init__(self, lines: Iterator[tuple[int, bytes]]) -> None:
        self.number = 0
        self._lines = lines

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.number, raw = next(self._lines)
        return line_text(raw)


def _header(cells: list[str]) -> list[str]:
    names = [cell.strip() for cell in cells]
    missing = [key for key in REQUIRED if key not in names]
    if len(names) == 1 and missing:
        other = next((mark for mark in ";\t|" if mark in names[0]), None)
        if other:
            raise BadFeed(f"The header has {other!r} between its names. Save the file with commas between the cells.")
    for name in names:
        if name not in KEYS:
            close = get_close_matches(name, KEYS, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Use some of: {', '.join(KEYS)}."
            raise BadFeed(f"The header has the unknown column {name!r}. {hint}")
        if names.count(name) > 1:
            raise BadFeed(f"The header has the column {name!r} twice. Remove one of the two.")
    if missing:
        raise BadFeed(f"The header lacks {', '.join(map(repr, missing))}. Every feed needs {', '.join(REQUIRED)}.")
    return names


def _row(header: list[str], cells: list[str]) -> dict[str, object]:
    if len(cells) != len(header):
        raise BadFeed(
            f"The row has {len(cells)} cells, the header {len(header)}. Write one cell for each column; an empty one "
            "counts as left out, and a cell with a comma goes in double quotes."
        )
    return {key: _cell(key, cell) for key, cell in zip(header, cells, strict=True) if cell.strip()}


def _cell(key: str, cell: str) -> object:
    if key in _TEXTS:
        return cell
    if key in _NUMBERS:
        try:
            return float(cell)
        except ValueError:
            raise BadFeed(f"{key!r} is {cell[:40]!r}, which is no number. Write it as in 0.9.") from None
    if key == "volatile":
        if cell.strip().lower() not in _FLAGS:
            raise BadFeed(f"{key!r} is {cell[:40]!r}. Write true or false, or leave the cell empty.")
        return _FLAGS[cell.strip().lower()]
    try:
        return json.loads(cell)
    except (ValueError, RecursionError) as error:
        raise BadFeed(f'{key!r} is not JSON: {error}. Write the list as JSON in its cell: ["one", "two"].') from None
