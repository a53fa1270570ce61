"""Where a fact comes from and how far it goes: the keys of a row that no model is asked about.

`read_provenance` checks them and gives the fields of a `Fact`; `dump_provenance` is the way back.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import cast

from catechism.errors import BadFact, BadFeed
from catechism.facts.checks import MAX_PROMPT_CHARS, clean, kind_of
from catechism.types import JSON, Fact, Risk, Source

KEYS = (
    *("statement", "sources", "valid_from", "valid_to"),
    *("confidence", "author", "domain", "risk", "volatile"),
)

_SOURCE_KEYS = ("uri", "retrieved_at", "sha256", "quote")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}", re.ASCII)
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Provenance:
    """The fields of a `Fact` of the same names."""

    statement: str = ""
    sources: tuple[Source, ...] = ()
    valid_from: str | None = None
    valid_to: str | None = None
    confidence: float = 1.0
    author: str = ""
    domain: str = ""
    risk: Risk = Risk.STANDARD
    volatile: bool = False


def read_provenance(row: Mapping[str, object]) -> Provenance:
    """The fields of these keys, checked.

    Raises:
        BadFeed: a value of the wrong type.
        BadFact: a date that there is not or that ends before it begins, a confidence out of range, a digest or time
            in another form, an unknown risk class.
    """
    valid_from, valid_to = _date(row, "valid_from"), _date(row, "valid_to")
    if valid_from and valid_to and valid_to < valid_from:
        raise BadFact(f"'valid_to' is {valid_to}, before 'valid_from' {valid_from}. Exchange the two or correct one.")
    return Provenance(
        statement=_text(row, "statement", limit=MAX_PROMPT_CHARS, newline=True),
        sources=_sources(row.get("sources")),
        valid_from=valid_from,
        valid_to=valid_to,
        confidence=_confidence(row.get("confidence")),
        author=_text(row, "author"),
        domain=_text(row, "domain"),
        risk=_risk(row.get("risk")),
        volatile=_flag(row, "volatile"),
    )


def dump_provenance(fact: Fact) -> dict[str, JSON]:
    """The keys of a row that `read_provenance` reads back; what says nothing new is left out."""
    row: dict[str, JSON] = {
        "statement": fact.statement,
        "sources": [{key: value for key in _SOURCE_KEYS if (value := getattr(s, key))} for s in fact.sources],
        "valid_from": fact.valid_from,
        "valid_to": fact.valid_to,
        "confidence": fact.confidence,
        "author": fact.author,
        "domain": fact.domain,
        "risk": fact.risk.value,
        "volatile": fact.volatile,
    }
    silent = [("confidence", 1.0), ("risk", Risk.STANDARD.value), ("volatile", False)]
    return {key: value for key, value in row.items() if value not in ("", None, []) and (key, value) not in silent}


def _text(row: Mapping[str, object], key: str, *, limit: int = 2_000, newline: bool = False) -> str:
    value = row.get(key)
    return "" if value is None else clean(key, value, limit=limit, newline=newline)


def _date(row: Mapping[str, object], key: str) -> str | None:
    if row.get(key) is None:
        return None
    text = clean(key, row[key])
    try:
        if not _DATE.fullmatch(text):
            raise ValueError("another form is expected")
        date.fromisoformat(text)
    except ValueError as error:
        raise BadFact(f"{key!r} is {text[:40]!r}: {error}. Write year, month and day as in 2026-01-31.") from None
    return text


def _confidence(value: object) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise BadFeed(
            f"'confidence' must be a number, got {kind_of(value)}. Write it without quotes, 0.9 for instance."
        )
    if not 0 <= value <= 1:
        raise BadFact(f"'confidence' is {value}. Give a number from 0 to 1; 1 is certain.")
    return float(value)


def _flag(row: Mapping[str, object], key: str) -> bool:
    value = row.get(key)
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadFeed(f"{key!r} must be true or false, got {kind_of(value)}. Write it without quotes.")
    return value


def _risk(value: object) -> Risk:
    if value is None:
        return Risk.STANDARD
    text = clean("risk", value)
    if text not in list(Risk):
        raise BadFact(f"'risk' is {text[:40]!r}. Use one of: {', '.join(Risk)}.")
    return Risk(text)


def _sources(value: object) -> tuple[Source, ...]:
    if value is None:
        return ()
    if not isinstance(value, list):
        raise BadFeed(f"'sources' must be a list, got {kind_of(value)}. Put it in square brackets.")
    return tuple(_source(f"sources[{i}]", item) for i, item in enumerate(cast("list[object]", value)))


def _source(name: str, item: object) -> Source:
    if isinstance(item, str):
        return Source(uri=clean(name, item))
    if not isinstance(item, dict):
        raise BadFeed(f'{name!r} must be an object or an address, got {kind_of(item)}. Write {{"uri": ...}}.')
    given = cast("dict[str, object]", item)
    if not given or set(given) - set(_SOURCE_KEYS):
        raise BadFeed(f"{name!r} has the keys {sorted(map(str, given))}. Use some of: {', '.join(_SOURCE_KEYS)}.")
    fields = {
        key: clean(f"{name}.{key}", text, limit=MAX_PROMPT_CHARS, newline=key == "quote")
        for key, text in given.items()
        if text is not None
    }
    if "sha256" in fields and not _DIGEST.fullmatch(fields["sha256"]):
        raise BadFact(
            f"'{name}.sha256' is {fields['sha256'][:80]!r}. Write 'sha256:' and the 64 small hexadecimal digits."
        )
    if "retrieved_at" in fields:
        _check_time(f"{name}.retrieved_at", fields["retrieved_at"])
    return Source(**fields)


def _check_time(key: str, text: str) -> None:
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        time = None
    if time is None or time.utcoffset() != timedelta(0):
        raise BadFact(f"{key!r} is {text[:40]!r}, which is no time in UTC. Write it as in 2026-01-31T12:00:00Z.")
