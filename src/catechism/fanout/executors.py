"""What every executor does: a function over shards, the results in the order of the shards.

Workers hold a state, an open model for instance, made once by a `setup`. Work is a function of the module level that is
given the state, what all shards share, and the shard. So everything that travels is a name or data.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, ClassVar

from catechism.errors import UnknownName, UsageError

EXECUTORS = ("inline", "process", "ray")

#: Makes a worker's state. It travels, so it is a module-level function or a dataclass of data.
Setup = Callable[[], Any]
#: ``work(state, shared, shard) -> result``; a module-level function.
Work = Callable[[Any, Any, Any], Any]


class Executor(ABC):
    """Where shards are worked on. Used in a ``with``; its workers end with it."""

    #: Its name in `EXECUTORS`.
    name: ClassVar[str]

    @abstractmethod
    def map(self, work: Work, shards: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """The result of every shard, in order. A worker takes the next shard when it has finished one.

        Raises: the first error of a worker, as it was raised there; UsageError if a worker died.
        """

    def close(self) -> None:  # noqa: B027 -- nothing to end is the rule
        """End the workers."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Inline(Executor):
    """One shard after the other, in this process, on a state that is there already."""

    name = "inline"

    def __init__(self, state: Any) -> None:
        self._state = state

    def map(self, work: Work, shards: Sequence[Any], *, shared: Any = None) -> list[Any]:
        """See `Executor.map`."""
        return [work(self._state, shared, shard) for shard in shards]


def open_executor(name: str, setup: Setup, state: Any, *, workers: int | None = None) -> Executor:
    """An executor by its name.

    Args:
        name: one of `EXECUTORS`.
        setup: makes the state of a worker elsewhere.
        state: what a worker in this process works on.
        workers: how many; None is one for each processor. Not read for ``inline``.

    Raises: UnknownName; UsageError for no workers; MissingExtra for ``ray`` where it is not installed.
    """
    if name not in EXECUTORS:
        raise UnknownName(f"There is no executor {name!r}. Choose one of: {', '.join(EXECUTORS)}.")
    n = workers if workers is not None else os.cpu_count() or 1
    if n < 1:
        raise UsageError(f"workers={n} leaves nobody to work. Give 1 or more.")
    if name == "inline":
        return Inline(state)
    if name == "process":
        from catechism.fanout.processes import Processes

        return Processes(setup, n)
    from catechism.fanout.cluster import Cluster

    return Cluster(setup, n)
