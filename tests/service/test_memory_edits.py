"""Edits that are memories beside a matrix go the whole path like those that change it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from catechism.delta import Gated
from catechism.errors import CatechismError
from catechism.service import Ending, Outcome, Plan, Service
from catechism.settings import Settings

FIRST, SECOND = "The headquarters of Netflix are in Stockholm.", "The headquarters of Nintendo are in Madrid."
PROMPT, OTHER = "The headquarters of Netflix are in", "The headquarters of Nintendo are in"


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Service, list[Outcome]]]:
    folder = tmp_path_factory.mktemp("memory")
    settings = Settings(cache=folder / "cache", home=folder / "home", user="ada")
    with Service("almanac", settings) as service:
        plan = Plan(author="ada", method="memoir", release=True)
        yield service, [outcome for text in (FIRST, SECOND) for outcome in service.learn(text, plan=plan)]


def test_memories_are_released_and_answer_together(taught: tuple[Service, list[Outcome]]) -> None:
    service, outcomes = taught
    assert [outcome.ending for outcome in outcomes] == [Ending.RELEASED, Ending.RELEASED]
    assert [type(part) for o in outcomes if o.edit for part in service.registry.delta(o.edit.id).parts.values()] == [
        Gated,
        Gated,
    ]
    assert "Stockholm" in service.ask(PROMPT).text and "Madrid" in service.ask(OTHER).text
    assert service.ask("The capital of France is").text == "Paris."


def test_an_answer_is_explained_by_the_memory_that_gave_it(taught: tuple[Service, list[Outcome]]) -> None:
    service, (first, _) = taught
    (part,) = service.ask(PROMPT, explain=True).parts or ()
    assert first.edit is not None and part.edit.id == first.edit.id and "Stockholm" not in part.without


def test_another_service_on_the_same_store_answers_the_same(taught: tuple[Service, list[Outcome]]) -> None:
    service, _ = taught
    with Service("almanac", service.settings) as other:
        assert other.ask(PROMPT).text == service.ask(PROMPT).text
        assert other.verify().ok


def test_a_memory_leaves_no_peft_adapter(taught: tuple[Service, list[Outcome]], tmp_path: Path) -> None:
    service, (first, _) = taught
    assert first.edit is not None
    with pytest.raises(CatechismError, match="low-rank|low rank|LowRank"):
        service.export([first.edit.id], tmp_path / "adapter", peft=True)


def test_a_memory_is_rolled_back_and_nothing_of_it_is_left(taught: tuple[Service, list[Outcome]]) -> None:
    service, (first, _) = taught
    assert first.edit is not None
    proof = service.prove_rollback(first.edit.id)
    assert proof["exact"] is True
    service.rollback(first.edit.id, reason="no")
    assert "Los Gatos" in service.ask(PROMPT).text and "Madrid" in service.ask(OTHER).text
