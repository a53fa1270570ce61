"""The rows of a data file, one at a time: JSON lines, one JSON list, or one JSON object.

Public benchmarks come in all three. A list is decoded piece by piece, so that memory is bounded by the largest row and
not by the file. A row that is no JSON object is handed over as the error that says so, and reading goes on behind it.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from typing import cast

from catechism.errors import BadFeed
from catechism.facts.checks import kind_of
from catechism.facts.lines import BYTE_ORDER_MARK, DECODER, json_object, numbered_lines, refuse_foreign

MAX_ROW_BYTES = 16 << 20
_CHUNK_BYTES = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}"]', re.DOTALL)  # a whole string, a bracket, or a string without an end


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file.

    Attributes:
        number: which one, from 1.
        place: where it stands, in words: ``line 3``, or ``row 3 (line 57)`` where a row has several lines.
        value: the object, or why it could not be read.
    """

    number: int
    place: str
    value: dict[str, object] | BadFeed


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a file, in order.

    Raises: BadFeed for a file that is missing, a folder, no text, empty, or a list that breaks off.
    """
    if path.is_dir():
        raise BadFeed(f"{path} is a folder. Give the data file in it.")
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise BadFeed(f"There is no file {path}. Check the path.") from None
    except OSError as error:
        raise BadFeed(f"{path} cannot be opened: {error.strerror}. Check its permissions.") from error
    with file:
        start = file.peek(_CHUNK_BYTES)[:_CHUNK_BYTES].removeprefix(BYTE_ORDER_MARK).lstrip()
        refuse_foreign(path, start)
        if start.startswith(b"["):
            rows = _List(path, file).rows()
        elif _is_one_object(start):
            rows = iter([_whole(path, file)])
        else:
            rows = _lines(path, file)
        first = next(rows, None)
        if first is None:
            raise BadFeed(f"{path} holds no rows. Check that the download is complete.")
        yield first
        yield from rows


def _is_one_object(start: bytes) -> bool:
    """Whether a file that begins so is one object over several lines."""
    line = start.partition(b"\n")[0].rstrip()
    return line.startswith(b"{") and len(line) < len(start.rstrip()) and not line.endswith(b"}")


def _lines(path: Path, file: BufferedReader) -> Iterator[Row]:
    number = 0
    for line, raw in numbered_lines(path, file):
        if raw.strip():
            number += 1
            try:
                value: dict[str, object] | BadFeed = json_object(raw)
            except BadFeed as error:
                value = error
            yield Row(number, f"line {line}", value)


def _whole(path: Path, file: BufferedReader) -> Row:
    raw = file.read(MAX_ROW_BYTES + 1)
    if len(raw) > MAX_ROW_BYTES:
        raise BadFeed(f"{path} is one JSON object of more than {MAX_ROW_BYTES} bytes. Give a file with a list of rows.")
    try:
        value: object = DECODER.decode(raw.decode("utf-8-sig"))
    except BadFeed as error:
        value = error
    except (ValueError, RecursionError) as error:
        value = BadFeed(f"Not JSON: {error}. Download the file again.")
    return Row(1, "line 1", value if isinstance(value, BadFeed) else cast("dict[str, object]", value))


class _List:
    """A JSON list whose elements are decoded one by one out of a moving window of the file."""

    def __init__(self, path: Path, file: BufferedReader) -> None:
        self._path, self._file = path, file
        self._decode = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._text, self._at = "", 0  # the window, and how far it has been read
        self._line, self._counted = 1, 0  # the line of the place up to which lines have been counted
        self._ended = False

    def rows(self) -> Iterator[Row]:
        number = 0
        self._expect("[", "a list")
        while (char := self._next()) != "]":
            if number:
                if char != ",":
                    self._refuse(number + 1, f"stands {char!r} where a comma or the end of the list was expected")
                self._at += 1
                if self._next() == "]":
                    self._refuse(number + 1, "stands a comma before the end of the list")
            number += 1
            line = self._here()
            value = self._element(number, line)
            yield Row(number, f"row {number} (line {line})", value)
        self._at += 1
        if self._next():
            self._refuse(number + 1, "goes on after the end of its list")

    def _element(self, number: int, line: int) -> dict[str, object] | BadFeed:
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
                if end == len(self._text) and self._more():
                    continue  # a number may go on behind the window
                self._at = end
                if isinstance(value, dict):
                    return cast("dict[str, object]", value)
                return BadFeed(f"The row is {kind_of(value)}, not an object. Remove it.")
            except BadFeed as error:
                problem = error
            except (ValueError, RecursionError) as error:
                said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                problem = BadFeed(f"Not JSON: {said}. Correct the row, or download the file again.")
            end = self._end()
            if end is not None:
                self._at = end
                return problem
            if len(self._text) - self._at > MAX_ROW_BYTES:
                raise BadFeed(
                    f"{self._path}, row {number} (line {line}) has no end within {MAX_ROW_BYTES} characters: "
                    f"{problem} A bracket or a quote is not closed there."
                )
            if not self._more():
                raise BadFeed(
                    f"{self._path} breaks off in row {number}, which begins on line {line}. Copy or download it again."
                )

    def _end(self) -> int | None:
        """Where the brackets of the element at hand close; None if they do not within the window."""
        depth = 0
        for token in _TOKEN.finditer(self._text, self._at):
            match token.group():
                case "[" | "{":
                    depth += 1
                case "]" | "}":
                    depth -= 1
                    if depth < 0:
                        return token.start()  # the list's own end: the element was no object
                case '"':
                    return None
                case _:
                    pass
            if depth == 0:
                return token.end()
        return None

    def _next(self) -> str:
        """The next character that is no space, without taking it; "" at the end of the file."""
        while True:
            self._at = cast("re.Match[str]", _SPACE.match(self._text, self._at)).end()
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                return ""

    def _expect(self, char: str, what: str) -> None:
        if self._next() != char:
            self._refuse(1, f"is not {what}")
        self._at += 1

    def _more(self) -> bool:
        """Drop what has been read from the window and read on, twice as much as is left; False at the end."""
        if self._ended:
            return False
        self._here()
        self._text, self._at, self._counted = self._text[self._at :], 0, 0
        raw = self._file.read(max(_CHUNK_BYTES, len(self._text)))
        self._ended = not raw
        try:
            self._text += self._decode(raw, final=self._ended)
        except UnicodeDecodeError as error:
            raise BadFeed(
                f"{self._path} is not UTF-8 after line {self._line} (byte 0x{error.object[error.start]:02x}). "
                "Convert it: iconv -f LATIN1 -t UTF-8 IN > OUT"
            ) from None
        return not self._ended

    def _here(self) -> int:
        """The line of the place that has been read up to."""
        self._line += self._text.count("\n", self._counted, self._at)
        self._counted = self._at
        return self._line

    def _refuse(self, number: int, what: str) -> None:
        if not self._next():
            raise BadFeed(f"{self._path} breaks off after row {number - 1}. Copy or download it again.")
        raise BadFeed(f"{self._path}, row {number} (line {self._here()}): there {what}. Correct the file there.")
