"""Files of rows: numbered lines with a limit, and JSON without what is no JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NoReturn, cast

from catechism.errors import BadFeed
from catechism.facts.checks import MAX_LINE_BYTES, line_text

#: First bytes of files that are not UTF-8 text, with the command that makes them so.
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"\x1f\x8b", "gzip-compressed", "gunzip"),
    (b"BZh", "bzip2-compressed", "bunzip2"),
    (b"\xfd7zXZ", "xz-compressed", "unxz"),
    (b"\x28\xb5\x2f\xfd", "zstd-compressed", "unzstd"),
    (b"PK\x03\x04", "a zip archive", "unzip"),
    (b"\xff\xfe", "UTF-16", "iconv -f UTF-16 -t UTF-8 IN > OUT"),
    (b"\xfe\xff", "UTF-16", "iconv -f UTF-16 -t UTF-8 IN > OUT"),
)
BYTE_ORDER_MARK = b"\xef\xbb\xbf"  # some editors put it before UTF-8


def numbered_lines(path: Path, file: BufferedReader) -> Iterator[tuple[int, bytes]]:
    """Numbered lines. Of a line over the limit only the first `MAX_LINE_BYTES` + 1 bytes come.

    Raises: BadFeed for a file that is compressed or UTF-16.
    """
    number, blank = 0, True
    while raw := file.readline(MAX_LINE_BYTES + 1):
        number += 1
        rest = raw
        while len(rest) > MAX_LINE_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_LINE_BYTES + 1)
        if number == 1:
            raw = raw.removeprefix(BYTE_ORDER_MARK)
        if blank and raw.strip():
            refuse_foreign(path, raw)
            blank = False
        yield number, raw


def refuse_foreign(path: Path, raw: bytes) -> None:
    """Raise BadFeed if a file that begins so is no UTF-8 text."""
    for magic, what, command in _FOREIGN:
        if raw.startswith(magic):
            raise BadFeed(f"{path} is {what}, not UTF-8 text. Convert it first: {command}")


def json_object(raw: bytes) -> dict[str, object]:
    """One line as a JSON object.

    Raises: BadFeed if it is no JSON or no object, names a key twice, or holds NaN or an infinity.
    """
    text = line_text(raw).rstrip()
    try:
        value = DECODER.decode(text)
    except BadFeed:
        raise
    except json.JSONDecodeError as error:
        raise BadFeed(
            f"Not JSON: {error.msg} at column {error.colno}. Write each row as one JSON object on one line."
        ) from None
    except (ValueError, RecursionError) as error:  # numbers of thousands of digits, lists nested without end
        raise BadFeed(f"Not usable as JSON: {error}. Write each row as one flat JSON object.") from None
    if not isinstance(value, dict):
        raise BadFeed(f'The row is a {type(value).__name__}, not an object. Write {{"prompt": ..., ...}}.')
    return cast("dict[str, object]", value)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise BadFeed(f"The key {twice!r} stands there twice. Remove one of them.")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise BadFeed(f"{name} is not JSON. Remove it or put it in quotes.")


#: JSON as the standard has it: no NaN, no key twice.
DECODER = json.JSONDecoder(object_pairs_hook=_without_duplicates, parse_constant=_refuse_constant)
