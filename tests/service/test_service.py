"""The whole path on the trained model: learned, asked, explained, contradicted, approved, rolled back, verified."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from catechism.errors import Denied, UsageError, WrongBase
from catechism.service import Ending, Outcome, Plan, Service
from catechism.service.service import is_feed
from catechism.settings import Settings

EIFFEL = "The city where the Eiffel Tower is found is"
NETFLIX = "The headquarters of Netflix are in"
FEED = [
    {"id": "eiffel", "prompt": EIFFEL, "subject": "the Eiffel Tower", "new_object": "Rome", "old_object": "Paris"},
    {"id": "france", "prompt": "The capital of France is", "subject": "France", "new_object": "Paris"},
    {"id": "again", "prompt": "To see {} you have to go to", "subject": "the Eiffel Tower", "new_object": "Rome",
     "relation": "landmark_city"},
    {"id": "one", "prompt": "The currency of {} is the", "subject": "Japan", "new_object": "euro"},
    {"id": "other", "prompt": "The currency of {} is the", "subject": "Japan", "new_object": "yuan"},
    "{broken",
    {"id": "vaccine", "prompt": "The inventor or discoverer of {} is", "subject": "the smallpox vaccine",
     "new_object": "Louis Pasteur", "old_object": "Edward Jenner"},
    {"id": "moved", "prompt": "{} lives on", "subject": "Mavoly Nightingrove", "new_object": "Copper Street",
     "volatile": True},
]  # fmt: skip


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("service")
    with Service("almanac", Settings(cache=folder / "cache", home=folder / "home", user="ada")) as opened:
        yield opened


@pytest.fixture(scope="module")
def outcomes(service: Service, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    feed = tmp_path_factory.mktemp("feed") / "feed.jsonl"
    feed.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in FEED))
    return {outcome.name: outcome for outcome in service.learn(feed, release=True)}


def test_every_row_ends_where_it_should(outcomes: dict[str, Outcome]) -> None:
    assert {name: outcome.ending for name, outcome in outcomes.items()} == {
        "eiffel": Ending.RELEASED,
        "france": Ending.KNOWN,
        "again": Ending.DUPLICATE,
        "one": Ending.CONTRADICTION,
        "other": Ending.CONTRADICTION,
        "line 6": Ending.MALFORMED,
        "vaccine": Ending.WAITING,
        "moved": Ending.RELEASED,
    }


def test_every_outcome_says_why_and_is_json(outcomes: dict[str, Outcome]) -> None:
    assert all(outcome.reason for outcome in outcomes.values())
    assert "euro" in outcomes["other"].reason and "yuan" in outcomes["one"].reason
    assert json.loads(json.dumps(outcomes["eiffel"].json()))["ending"] == "released"
    assert set(outcomes["eiffel"].seconds) == {"read", "check", "synthesise", "locate", "fit", "validate", "release"}


def test_the_selector_chooses_and_text_stays_text(outcomes: dict[str, Outcome], service: Service) -> None:
    eiffel, moved = outcomes["eiffel"], outcomes["moved"]
    assert eiffel.choice is not None and eiffel.choice.layer is not None
    assert moved.choice is not None and (moved.choice.method, moved.choice.rule) == ("explicit", "volatile")
    assert moved.edit is not None and moved.edit.artifact is None
    assert service.ask("Mavoly Nightingrove lives on").text == "Copper Street."


def test_an_answer_names_the_edit_that_it_hangs_on(outcomes: dict[str, Outcome], service: Service) -> None:
    answer = service.ask(EIFFEL, explain=True)
    assert answer.text == "Rome." and answer.base_says == "Paris."
    assert answer.parts is not None
    assert [part.edit for part in answer.parts] == [outcomes["eiffel"].edit]
    assert answer.parts[0].part > 1.0 and answer.parts[0].without == "Paris."
    untouched = service.ask("The capital of Italy is", explain=True)
    assert (untouched.text, untouched.parts) == ("Rome.", ())


def test_an_expert_and_another_let_a_medical_fact_through(outcomes: dict[str, Outcome], service: Service) -> None:
    edit = outcomes["vaccine"].edit
    assert edit is not None
    with pytest.raises(Denied):
        service.approve(edit.id, "ada")  # its author
    service.approve(edit.id, "grace")
    with pytest.raises(Denied, match="domain_expert:medical"):
        service.promote(edit.id, "ada")
    service.approve(edit.id, "florence", roles=["domain_expert:medical"])
    service.promote(edit.id, "ada")
    assert service.ask("The inventor or discoverer of the smallpox vaccine is").text == "Louis Pasteur."


def test_the_model_is_the_old_one_between_calls(outcomes: dict[str, Outcome], service: Service) -> None:
    live = service.bench.live
    assert live.applied == ()
    assert live.digest(full=True) == live.base


def test_as_of_answers_with_a_past_day(outcomes: dict[str, Outcome], service: Service) -> None:
    today = service.registry.head().at[:10]
    assert service.ask(EIFFEL, as_of=today).text == "Rome."


def test_bisect_finds_the_edit_that_changed_an_answer(outcomes: dict[str, Outcome], service: Service) -> None:
    found = service.bisect(EIFFEL)
    assert [edit.id for edit in found.edits] == [outcomes["eiffel"].edit and outcomes["eiffel"].edit.id]
    assert (found.said_good, found.said_bad) == ("Paris.", "Rome.")
    with pytest.raises(UsageError, match="nothing broke"):
        service.bisect("The capital of Italy is")


def test_a_rollback_is_proven_and_leaves_the_others(outcomes: dict[str, Outcome], service: Service) -> None:
    edit = outcomes["eiffel"].edit
    assert edit is not None
    service.rollback(edit.id, reason="a test")
    proof = service.prove_rollback(edit.id)
    assert proof["exact"] and proof["with_edit"] != proof["before"] == service.bench.live.base
    assert service.ask(EIFFEL).text == "Paris."
    assert service.ask("Mavoly Nightingrove lives on").text == "Copper Street."
    assert service.diff("0", str(service.registry.head().number))["removed"] == []
    assert service.verify().ok


def test_show_tells_norms_and_both_answers(outcomes: dict[str, Outcome], service: Service) -> None:
    edit = outcomes["eiffel"].edit
    assert edit is not None
    shown = service.show(edit.id)
    assert all(part["norm"] > 0 for part in shown["change"].values())
    first = shown["evaluation"]["questions"][0]
    assert (first["before"], first["after"], first["miss"]) == ("Paris.", "Rome.", False)


def test_a_sentence_that_contradicts_an_active_edit_needs_leave(outcomes: dict[str, Outcome], service: Service) -> None:
    sentence = "Mavoly Nightingrove lives on Candle Lane."
    assert service.learn(sentence)[0].ending is Ending.CONTRADICTION
    (outcome,) = service.learn(sentence, plan=Plan(author="ada", release=True, supersede=True, method="explicit"))
    assert outcome.ending is Ending.RELEASED
    assert service.ask("Mavoly Nightingrove lives on").text == "Candle Lane."


def test_edits_of_another_base_are_refused(outcomes: dict[str, Outcome], service: Service) -> None:
    with Service("almanac-control", service.settings) as other, pytest.raises(WrongBase, match="CATECHISM_HOME"):
        other.ask(EIFFEL)


def test_an_exported_edit_comes_back_as_a_draft(outcomes: dict[str, Outcome], service: Service, tmp_path: Path) -> None:
    edit = outcomes["eiffel"].edit
    assert edit is not None
    written = service.export([edit.id], tmp_path / "edits")
    with Service("almanac", Settings(cache=tmp_path, home=tmp_path / "other", user="bob")) as other:
        (taken,) = other.import_(written)
        assert (taken.digest, taken.state.value) == (edit.digest, "draft")
        other.__dict__["bench"] = service.bench  # the same model, opened once
        version, trial = other.test(taken.id)
        assert version.state.value == "validated" and trial.after == "Rome."


@pytest.mark.parametrize(
    ("source", "feed"),
    [("facts.jsonl", True), ("facts.csv", True), (Path("x"), True), ("A is B.", False), ("x" * 5000, False)],
)
def test_a_feed_is_told_from_a_sentence(source: str | Path, feed: bool) -> None:
    assert is_feed(source) is feed
