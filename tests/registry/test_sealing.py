"""Deletions that take other edits out, and sealing: no way back, no text left, and a store that still proves itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from catechism.errors import Conflict, Sealed, UsageError, WrongState
from catechism.registry import EditVersion, Registry, State
from catechism.registry.failpoints import VARIABLE, Failpoint
from catechism.registry.manifest import forget_key
from catechism.types import Catechism, Fact, Kind, Question
from tests.registry.sample import PASS, catechism, delta, draft, opened, promoted, validated

SECRET = "Zuzanna Quillfeather"
PLACE = "Copperbend Alley"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with opened(tmp_path / "home") as made:
        yield made


def taught(registry: Registry, subject: str = SECRET) -> EditVersion:
    return promoted(registry, subject, PLACE, delta=delta(len(subject)))


def deletion(registry: Registry, *removed: EditVersion, said: str = "", promote: bool = True) -> EditVersion:
    """A deletion of what edits teach, validated, and in effect unless it is not to be."""
    old = removed[0].fact
    fact = replace(old, object=said, old_object=old.object, statement="Forgotten.")
    lesson = Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (said,) if said else (), (old.object,)),))
    locus = {"removes": [edit.id for edit in removed], "forgets": [forget_key(edit.fact) for edit in removed]}
    made = replace(draft(kind="delete", method="exact", locus=locus), catechism=lesson)
    edit = registry.add_edit(made)
    registry.add_report(edit.id, {"question": old.prompt, "before": old.object}, PASS)
    if promote:
        registry.promote(edit.id, "ann")
    return registry.edit(edit.id)


def bytes_of(home: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(home.rglob("*")) if path.is_file())


def test_a_deletion_takes_all_its_edits_out_and_a_rollback_brings_them_back(registry: Registry) -> None:
    one, two, other = taught(registry), taught(registry, "Bo"), taught(registry, "Cy")
    gone = deletion(registry, one, two)
    assert [edit.id for edit in registry.active()] == [gone.id, other.id]
    assert {registry.edit(edit.id).state for edit in (one, two)} == {State.RETIRED}
    registry.rollback(gone.id, by="ann", reason="not wanted")
    assert {edit.id for edit in registry.active()} == {one.id, two.id, other.id}
    assert registry.verify().ok


def test_what_was_forgotten_is_not_taught_again_beside_the_deletion(registry: Registry) -> None:
    first = taught(registry)
    deletion(registry, first)
    again = validated(registry, SECRET, PLACE, method="lora")
    with pytest.raises(Conflict, match="forgets"):
        registry.promote(again.id, "ann")
    elsewhere = validated(registry, SECRET, "Tallow Street")
    registry.promote(elsewhere.id, "ann")  # another answer is no contradiction


def test_two_replacements_contradict_each_other(registry: Registry) -> None:
    deletion(registry, taught(registry), said="Lyon Road")
    other = deletion(registry, validated(registry, SECRET, PLACE, method="lora"), said="Tallow Street", promote=False)
    with pytest.raises(Conflict):
        registry.promote(other.id, "ann")


def test_sealing_leaves_hashes_only_and_the_store_proves_itself(registry: Registry) -> None:
    edit = taught(registry)
    gone = deletion(registry, edit)
    home = registry.home
    assert PLACE.encode() in bytes_of(home) and SECRET.encode() in bytes_of(home)
    seals = registry.seal([gone.id, edit.id], "ann", reason="the law asks for it")
    assert {seal.edit for seal in seals} == {gone.id, edit.id}
    assert set(seals[0].gone) | set(seals[1].gone) == {"catechism.json", "training.jsonl", "delta.safetensors"}
    assert registry.edit(edit.id).sealed and registry.edit(edit.id).subject == "(sealed)"
    assert PLACE.encode() not in bytes_of(home) and SECRET.encode() not in bytes_of(home)
    found = registry.verify()
    assert found.ok, found.problems
    assert {seal.edit for seal in found.sealed} == {gone.id, edit.id}
    assert registry.seal([edit.id], "bo", reason="again")[0].by == "ann", "the first time stands"


def test_there_is_no_way_back_from_a_sealed_removal(registry: Registry) -> None:
    edit, before = taught(registry), registry.head().number
    gone = deletion(registry, edit)
    registry.seal([gone.id, edit.id], "ann", reason="law")
    for attempt in (
        lambda: registry.rollback(gone.id, by="ann", reason="x"),
        lambda: registry.rollback(to_epoch=before, by="ann", reason="x"),
        lambda: registry.promote(edit.id, "ann"),
        lambda: registry.delta(edit.id),
        lambda: registry.catechism(gone.id),
        lambda: registry.training(gone.id),
        lambda: registry.export([edit.id], registry.home / "out"),
    ):
        with pytest.raises(Sealed, match="destroyed on purpose"):
            attempt()
    assert [one.id for one in registry.active()] == [gone.id]


def test_going_back_keeps_a_sealed_deletion_in_effect(registry: Registry) -> None:
    edit = taught(registry)
    gone, early = deletion(registry, edit), registry.head().number - 1
    taught(registry, "Bo")
    registry.seal([gone.id, edit.id], "ann", reason="law")
    epoch = registry.rollback(to_epoch=early, by="ann", reason="x")
    assert [one.id for one in registry.active()] == [gone.id] and "sealed since" in epoch.reason
    assert registry.verify().ok


def test_a_deletion_by_weights_keeps_its_delta_in_effect(registry: Registry) -> None:
    locus = {"removes": [], "forgets": [forget_key(catechism(SECRET, PLACE).fact)]}
    made = draft(SECRET, "", kind="delete", method="npo", locus=locus, delta=delta(7))
    gone = registry.add_edit(made)
    registry.add_report(gone.id, {}, PASS)
    registry.promote(gone.id, "ann")
    (seal,) = registry.seal([gone.id], "ann", reason="law")
    assert "delta.safetensors" in seal.kept and registry.delta(gone.id) is not None
    assert registry.verify().ok


def test_only_what_has_ended_can_be_sealed_and_all_that_hold_the_fact(registry: Registry) -> None:
    edit = taught(registry)
    with pytest.raises(WrongState, match="rollback"):
        registry.seal([edit.id], "ann", reason="law")
    twin = validated(registry, SECRET, PLACE, method="lora")
    registry.rollback(edit.id, by="ann", reason="x")
    with pytest.raises(UsageError, match=twin.id):
        registry.seal([edit.id], "ann", reason="law")
    with pytest.raises(UsageError, match="reason"):
        registry.seal([edit.id], "ann", reason=" ")
    registry.reject(twin.id, "ann", "x")
    assert {one.edit for one in registry.seal([edit.id, twin.id], "ann", reason="law")} == {edit.id, twin.id}
    assert registry.verify().ok


def test_a_seal_that_was_interrupted_is_finished_at_the_next_opening(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit = taught(registry)
    gone = deletion(registry, edit)
    monkeypatch.setenv(VARIABLE, "after_commit:raise")
    with pytest.raises(Failpoint):
        registry.seal([gone.id, edit.id], "ann", reason="law")
    monkeypatch.delenv(VARIABLE)
    assert any("was sealed" in problem.problem for problem in registry.verify().problems)
    with opened(registry.home) as again:
        assert again.verify().ok and again.edit(edit.id).sealed


def test_a_missing_file_without_a_seal_is_damage(registry: Registry) -> None:
    edit = taught(registry)
    registry._room.store.destroy(edit.digest, {"catechism.json"})  # pyright: ignore[reportPrivateUsage]
    assert [problem.object for problem in registry.verify().problems] == [f"edit {edit.id}"]


def test_a_sealed_fact_can_be_taught_anew_once_nothing_forgets_it(registry: Registry) -> None:
    edit = taught(registry)
    registry.rollback(edit.id, by="ann", reason="x")
    registry.seal([edit.id], "ann", reason="law")
    again = registry.add_edit(draft(SECRET, PLACE, delta=delta(1)))
    assert again.id != edit.id and again.subject == SECRET and registry.edit(edit.id).subject == "(sealed)"
    assert registry.verify().ok


def test_a_deletion_forgets_a_fact_however_it_is_spelled() -> None:
    a, b = catechism("France", "Lyon").fact, catechism("the  FRANCE", "Lyon.").fact
    assert forget_key(a) == forget_key(b) != forget_key(catechism("France", "Nice").fact)
    assert forget_key(Fact("x", "France", "Lyon", relation="capital")) == forget_key(a)
