"""What a text of a fact may hold. Every refusal names the value and the fix."""

from __future__ import annotations

import re
import unicodedata

from catechism.errors import BadFact, BadFeed

MAX_LINE_BYTES = 1 << 20
MAX_OBJECT_CHARS = 2_000  # subjects, objects, answers
MAX_PROMPT_CHARS = 20_000  # everything that is asked, and whole statements

#: Control characters, lone surrogates, line and paragraph separators; direction overrides, which make a text read
#: otherwise than it is stored; the byte order mark, which is invisible.
_FORBIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff\u2028-\u202e\u2066-\u2069\ufeff]")
_FORBIDDEN_BUT_NEWLINE = re.compile(_FORBIDDEN.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))

#: Latin and Cyrillic letters side by side: one of them looks like a letter of the other script and is none.
_LATIN, _CYRILLIC = "[A-Za-z\u00c0-\u024f]", "[\u0400-\u052f]"
_MIXED = re.compile(rf"{_LATIN}{_CYRILLIC}|{_CYRILLIC}{_LATIN}")


def clean(key: str, value: object, *, limit: int = MAX_OBJECT_CHARS, newline: bool = False) -> str:
    """The text without white space at its ends.

    Raises:
        BadFeed: it is no text.
        BadFact: it is empty or too long, holds characters that nobody sees, or mixes two scripts within a word.
    """
    if not isinstance(value, str):
        fix = "Put it in quotes." if isinstance(value, int | float) else "Give one text."
        raise BadFeed(f"{key!r} must be a text, got {kind_of(value)}. {fix}")
    if found := (_FORBIDDEN_BUT_NEWLINE if newline else _FORBIDDEN).search(value):
        char = found.group()
        name = unicodedata.name(char, "control character")
        raise BadFact(f"{key!r} holds U+{ord(char):04X} ({name}) at position {found.start()}. Remove it.")
    text = value.strip()
    if not text:
        raise BadFact(f"{key!r} is empty. Fill it in, or leave the key out if it is optional.")
    if len(text) > limit:
        raise BadFact(f"{key!r} has {len(text)} characters, at most {limit} are allowed. Shorten it.")
    if not text.isascii() and (pair := _MIXED.search(text)):
        first, second = pair.group()
        near = text[max(0, pair.start() - 20) : pair.end() + 20]
        raise BadFact(
            f"{key!r} mixes two scripts within a word, at {near!r}: after {first!r}, {unicodedata.name(first)}, comes "
            f"{second!r}, {unicodedata.name(second)}. Type the word again in one script."
        )
    return text


def line_text(raw: bytes) -> str:
    """A line of a feed as text. Raises BadFeed if it is too long, or with the place of what is not UTF-8."""
    if len(raw) > MAX_LINE_BYTES:
        raise BadFeed(f"The row is longer than {MAX_LINE_BYTES} bytes. Split its questions over several rows.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise BadFeed(
            f"Byte {error.start + 1} of the row (0x{raw[error.start]:02x}) is not UTF-8. "
            "Convert the file: iconv -f LATIN1 -t UTF-8 IN > OUT"
        ) from None


def kind_of(value: object) -> str:
    """What a JSON value is, in words."""
    names: tuple[tuple[type | tuple[type, ...], str], ...] = (
        (bool, "true or false"),  # before the numbers, since a bool is one
        ((int, float), "a number"),
        (list, "a list"),
        (dict, "an object"),
        (str, "a text"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), "null")


def script_of(text: str) -> str:
    """The script of a text's first letter, ``LATIN`` for instance; "" where it has no letter."""
    letter = next((char for char in text if char.isalpha()), "")
    return unicodedata.name(letter, "").partition(" ")[0] if letter else ""
