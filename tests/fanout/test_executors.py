"""Executors: the same results in the same order, wherever the work is done."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from catechism.errors import BadSpec, UnknownName, UsageError
from catechism.fanout import EXECUTORS, Executor, open_executor
from tests.fanout.work import Counter, MakeCounter, die, refuse, scale

PARENT = """
from catechism.fanout import open_executor
from tests.fanout.work import Counter, MakeCounter, hold

if __name__ == "__main__":
    with open_executor("process", MakeCounter(), None, workers=1) as executor:
        executor.map(hold, [600.0], shared={file!r})
"""

pytestmark = pytest.mark.filterwarnings("ignore:.*:FutureWarning:ray", "ignore::ResourceWarning")  # Ray's own


@pytest.fixture(scope="module", params=EXECUTORS)
def executor(request: pytest.FixtureRequest) -> Iterator[Executor]:
    if request.param == "ray":
        pytest.importorskip("ray", reason="Ray is not installed: pip install 'catechism[ray]'")
    with open_executor(request.param, MakeCounter(), Counter(), workers=2) as executor:
        yield executor


def test_results_come_in_the_order_of_the_shards(executor: Executor) -> None:
    found = executor.map(scale, [5, 3, 1, 4], shared=10)
    assert [value for value, _, _ in found] == [50, 30, 10, 40]
    here = {place == os.getpid() for _, _, place in found}
    assert here == {executor.name == "inline"}
    assert sum(used == 1 for _, used, _ in found) <= 2, "a state is made once by each worker and kept"


def test_no_shards_give_no_results(executor: Executor) -> None:
    assert executor.map(scale, [], shared=1) == []


def test_an_error_arrives_as_it_was_raised_and_the_workers_go_on(executor: Executor) -> None:
    with pytest.raises(BadSpec, match="no twos"):
        executor.map(refuse, [1, 2, 3])
    assert [value for value, _, _ in executor.map(scale, [7], shared=2)] == [14]


def test_a_worker_that_dies_is_reported_with_what_to_do() -> None:
    with (
        open_executor("process", MakeCounter(), None, workers=1) as executor,
        pytest.raises(UsageError, match="code 9 before its work was done.*fewer workers"),
    ):
        executor.map(die, [1])


def test_a_worker_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "worker"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT.format(file=str(file))], cwd=Path(__file__).parents[2], env={**os.environ}
    )
    try:
        until(lambda: file.is_file() and file.read_text(encoding="utf-8") != "")
    finally:
        parent.kill()
        parent.wait()
    until(lambda: can_lock(file))


def until(true: Callable[[], bool]) -> None:
    """Wait for something that happens elsewhere; much longer than it takes."""
    for _ in range(1200):
        if true():
            return
        time.sleep(0.05)
    raise AssertionError("It has not happened in a minute.")


def can_lock(file: Path) -> bool:
    """Whether nobody holds the file any more."""
    with file.open(encoding="utf-8") as tried:
        try:
            fcntl.flock(tried, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UnknownName, match="inline, process, ray"):
        open_executor("proces", MakeCounter(), None)
    with pytest.raises(UsageError, match="workers=0"):
        open_executor("process", MakeCounter(), None, workers=0)
