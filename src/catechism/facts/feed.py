"""Feeds: files of facts, one JSON object on each line, or CSV with a header.

A feed is read line by line with bounded memory, whatever its size. A bad row is refused by name: the message starts
with the file and the line and ends with what to do. The format is described in ``docs/feed-format.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from io import BufferedReader
from pathlib import Path

from catechism.errors import BadFact, BadFeed
from catechism.facts.cells import csv_rows
from catechism.facts.lines import json_object, numbered_lines
from catechism.facts.risk import raise_risk
from catechism.facts.row import dump_row, parse_row
from catechism.hashing import PREFIX
from catechism.types import Catechism, Source


def utc_now() -> datetime:
    """The time now, in UTC."""
    return datetime.now(UTC)


def read_feed(
    path: str | Path,
    *,
    on_error: Callable[[BadFeed | BadFact], None] | None = None,
    now: Callable[[], datetime] = utc_now,
) -> Iterator[Catechism]:
    """The catechisms of a feed, one by one, in the order of the file.

    A fact that names no source gets the file as its source, with the hash of its bytes and the time of reading. The
    risk class of each fact is raised by rule.

    Args:
        path: a file in UTF-8: CSV if its name ends in ``.csv``, else JSON lines. Empty lines are skipped.
        on_error: called with the error of each bad row, which is then left out; without it the first bad row raises.
        now: the clock.

    Raises:
        BadFeed: the file cannot be read at all, holds no row (both also with `on_error`), or a row is not readable.
        BadFact: a row is readable but its fact cannot be used.
    """
    return _good_rows(read_rows(path, now=now), on_error)


def read_rows(path: str | Path, *, now: Callable[[], datetime] = utc_now) -> Iterator[Catechism | BadFeed | BadFact]:
    """The rows of a feed in the order of the file, a bad one as its error. See `read_feed`.

    Raises: BadFeed for a file that cannot be read at all, or that holds no row.
    """
    path = Path(path)
    if path.is_dir():
        raise BadFeed(f"{path} is a folder. Give the feed file in it.")
    if not path.exists():
        raise BadFeed(f"There is no file {path}. Check the path; a feed is a file with one JSON object on each line.")
    return _rows(path, now)


def write_feed(path: str | Path, catechisms: Iterable[Catechism]) -> int:
    """Write a feed that `read_feed` reads back as the same catechisms; the number of its rows.

    The file appears whole or not at all. A fact without an id gets its line number when it is read back.

    Raises:
        BadFact: a catechism that a feed row cannot hold.
        BadFeed: there is nothing to write, or the file's name asks for CSV.
    """
    path = Path(path)
    if _is_csv(path):
        raise BadFeed(f"A feed is written as JSON lines, and {path.name} asks for CSV. Name the file .jsonl.")
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    rows = 0
    try:
        with partial.open("wb") as file:
            for catechism in catechisms:
                file.write(json.dumps(dump_row(catechism), ensure_ascii=False).encode() + b"\n")
                rows += 1
        if not rows:
            raise BadFeed(f"There is no catechism to write to {path}. Hand in at least one.")
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return rows


def _good_rows(
    rows: Iterator[Catechism | BadFeed | BadFact], on_error: Callable[[BadFeed | BadFact], None] | None
) -> Iterator[Catechism]:
    for row in rows:
        if isinstance(row, Catechism):
            yield row
        elif on_error is None:
            raise row
        else:
            on_error(row)


def _rows(path: Path, now: Callable[[], datetime]) -> Iterator[Catechism | BadFeed | BadFact]:
    try:
        file = path.open("rb")
    except OSError as error:
        raise BadFeed(f"{path} cannot be opened: {error.strerror}. Check its permissions.") from error
    rows = 0
    with file:
        source = _source(path, file, now)
        lines = _lines(path, file)
        for number, row in csv_rows(lines, str(path)) if _is_csv(path) else _json_rows(lines):
            rows += 1
            try:
                if isinstance(row, BadFeed):
                    raise row
                catechism = parse_row(row, default_id=str(number))
            except (BadFeed, BadFact) as error:
                yield type(error)(f"{path}, line {number}: {error}")
                continue
            fact = raise_risk(catechism.fact)
            yield replace(catechism, fact=fact if fact.sources else replace(fact, sources=(source,)))
    if not rows:
        raise BadFeed(f"{path} holds no rows. Write one JSON object on each line; see docs/feed-format.md.")


def _is_csv(path: Path) -> bool:
    return path.suffix.lower() == ".csv"


def _source(path: Path, file: BufferedReader, now: Callable[[], datetime]) -> Source:
    """The open file as a source. What can be read only once, a pipe for instance, has no hash."""
    digest = ""
    if file.seekable():
        digest = PREFIX + hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0)
    time = now().astimezone(UTC).replace(microsecond=0)
    return Source(uri=path.as_posix(), retrieved_at=time.isoformat().replace("+00:00", "Z"), sha256=digest)


def _json_rows(lines: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, dict[str, object] | BadFeed]]:
    for number, raw in lines:
        if raw.strip():
            try:
                row: dict[str, object] | BadFeed = json_object(raw)
            except BadFeed as error:
                row = error
            yield number, row


def _lines(path: Path, file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Numbered lines of a file that is no JSON list."""
    blank = True
    for number, raw in numbered_lines(path, file):
        if blank and raw.strip():
            if raw.lstrip().startswith(b"["):
                raise BadFeed(
                    f"{path} holds one JSON list, not one object on each line. Convert it: jq -c '.[]' IN > OUT"
                )
            blank = False
        yield number, raw
