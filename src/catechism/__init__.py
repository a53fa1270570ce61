"""Catechism keeps the knowledge of an open-weight language model right.

A fact goes in; a small weight change comes out that is proven, versioned and reversible. The names below are the
public interface. They are looked up on first use, so that ``import catechism`` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from catechism.delta import Delta, LowRank
    from catechism.errors import CatechismError
    from catechism.evaluate import Gate, Interview, Report, Verdict
    from catechism.facts import read_feed
    from catechism.model import LiveModel
    from catechism.reference import open_model
    from catechism.service import Service
    from catechism.types import Catechism, Fact, Kind, Question, Rate, Role, Site

__version__ = "0.1.0"

__all__ = [
    "Catechism",
    "CatechismError",
    "Delta",
    "Fact",
    "Gate",
    "Interview",
    "Kind",
    "LiveModel",
    "LowRank",
    "Question",
    "Rate",
    "Report",
    "Role",
    "Service",
    "Site",
    "Verdict",
    "open_model",
    "read_feed",
]

_ROOMS = {
    "types": ("Catechism", "Fact", "Kind", "Question", "Rate", "Role", "Site"),
    "errors": ("CatechismError",),
    "delta": ("Delta", "LowRank"),
    "evaluate": ("Gate", "Interview", "Report", "Verdict"),
    "facts": ("read_feed",),
    "model": ("LiveModel",),
    "reference": ("open_model",),
    "service": ("Service",),
}
_HOME = {name: room for room, names in _ROOMS.items() for name in names}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'catechism' has no attribute {name!r}")
    return getattr(import_module(f"catechism.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
