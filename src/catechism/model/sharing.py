"""Parts of a piece of work on a model, done here or wherever else a model of the same bytes is open.

A part is data, and what is done with it a function of a module, so that both can travel. How large a part is never
depends on where it is done: what is computed together rounds together.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

from catechism.model.live import LiveModel

#: ``work(live, asked, part) -> result``. ``asked`` is what all parts have in common. The model is left as it was.
Work = Callable[[LiveModel, Any, Any], Any]


@runtime_checkable
class Share(Protocol):
    """Gets parts done on a model as it is now, with the deltas that are on it."""

    def __call__(self, live: LiveModel, work: Work, parts: Sequence[Any], asked: Any) -> list[Any]:
        """The result of every part, in order. Raises: the first error of a part, as it was raised."""
        ...


def here(live: LiveModel, work: Work, parts: Sequence[Any], asked: Any) -> list[Any]:
    """One part after the other, on this very model; see `Share`."""
    return [work(live, asked, part) for part in parts]
