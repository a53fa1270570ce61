"""Work for the tests of executors. It travels to other processes, so it stands in a module of its own."""

from __future__ import annotations

import fcntl
import os
import time
from dataclasses import dataclass
from pathlib import Path

from catechism.errors import BadSpec


@dataclass
class Counter:
    """A state that knows how often it was used."""

    used: int = 0


@dataclass(frozen=True)
class MakeCounter:
    """Makes a counter that has been used `start` times."""

    start: int = 0

    def __call__(self) -> Counter:
        return Counter(self.start)


def scale(state: Counter, shared: int, shard: int) -> tuple[int, int, int]:
    """The shard times what is shared, how often the state was used, and where."""
    state.used += 1
    return shard * shared, state.used, os.getpid()


def refuse(_state: Counter, _shared: object, shard: int) -> int:
    """An error of ours at shard 2."""
    if shard == 2:
        raise BadSpec("no twos")
    return shard


def die(_state: Counter, _shared: object, _shard: int) -> None:
    """The end of a process that ran out of memory."""
    os._exit(9)


def hold(_state: Counter, file: str, seconds: float) -> None:
    """Lock a file, which ends with the process, then take long."""
    with Path(file).open("w", encoding="utf-8") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("held")
        held.flush()
        time.sleep(seconds)
