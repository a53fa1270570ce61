"""Executors: the same results in the same order, wherever the work is done."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from catechism.errors import BadSpec, UnknownName, UsageError
from catechism.fanout import EXECUTORS, Executor, open_executor
from tests.fanout.work import Counter, MakeCounter, die, refuse, scale

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


def test_what_there_is_not_is_refused() -> None:
    with pytest.raises(UnknownName, match="inline, process, ray"):
        open_executor("proces", MakeCounter(), None)
    with pytest.raises(UsageError, match="workers=0"):
        open_executor("process", MakeCounter(), None, workers=0)
