"""Edits for the tests of the registry. Nothing here loads torch unless a delta is asked for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from catechism.registry import Draft, EditVersion, Registry
from catechism.types import Catechism, Fact, Kind, Question, Risk

BASE = "sha256:" + "ab" * 32
PASS = {"status": "PASS", "gates": []}
FAIL = {"status": "FAIL", "gates": []}


class Clock:
    """A clock that goes a second further whenever it is read."""

    def __init__(self, start: datetime = datetime(2026, 11, 1, 12, tzinfo=UTC)) -> None:
        self.time = start

    def __call__(self) -> datetime:
        self.time += timedelta(seconds=1)
        return self.time


def catechism(subject: str = "France", object: str = "Lyon", **more: Any) -> Catechism:
    fact = Fact(f"The capital of {subject} is", subject, object, relation="capital", **more)
    return Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (object,), ("Paris",), "feed"),))


def draft(subject: str = "France", object: str = "Lyon", *, risk: Risk = Risk.STANDARD, **more: Any) -> Draft:
    of_fact = {name: more.pop(name) for name in ("valid_from", "valid_to", "statement") if name in more}
    taught = catechism(subject, object, risk=risk, **of_fact)
    given = {"base": BASE, "method": "explicit", "author": "ann", "training": [{"text": taught.fact.sentence}], **more}
    return Draft(taught, **given)


def delta(seed: int = 0) -> Any:
    import torch

    from catechism.delta import Delta, LowRank

    g = torch.Generator().manual_seed(seed)
    part = LowRank(torch.randn(4, 1, generator=g), torch.randn(1, 4, generator=g))
    return Delta(BASE, {"layers.0.out": part}, {"seed": seed})


def opened(home: Path, **more: Any) -> Registry:
    return Registry.open(home, **{"now": Clock(), **more})


def validated(registry: Registry, subject: str = "France", object: str = "Lyon", **more: Any) -> EditVersion:
    edit = registry.add_edit(draft(subject, object, **more))
    return registry.add_report(edit.id, {"efficacy": 1.0, "of": edit.id}, PASS)


def promoted(registry: Registry, subject: str = "France", object: str = "Lyon", **more: Any) -> EditVersion:
    edit = validated(registry, subject, object, **more)
    registry.promote(edit.id, "ann")
    return registry.edit(edit.id)
