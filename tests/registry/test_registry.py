"""The life of an edit: kept, tested, approved, promoted, taken back; and asking for it by name and date."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from catechism.errors import (
    Conflict,
    Denied,
    StoreDamaged,
    UnknownDate,
    UnknownEdit,
    UnknownName,
    UsageError,
    WrongBase,
    WrongState,
)
from catechism.registry import Composition, Draft, EditVersion, Policy, Registry, State
from catechism.types import Catechism, Fact, Kind, Question, Risk, Source
from tests.registry.sample import BASE, FAIL, PASS, Clock, catechism, delta, draft, opened, promoted, validated

MEDICAL = "domain_expert:medical"


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with opened(tmp_path / "store") as made:
        yield made


def test_a_new_store_begins_empty_and_proves_itself(registry: Registry) -> None:
    assert registry.edits() == [] and registry.active() == []
    assert registry.head().number == 0
    assert registry.composition(registry.head().cid) == Composition("", ())
    assert registry.verify().ok


def test_what_was_kept_is_what_comes_back(registry: Registry) -> None:
    fact = Fact(
        "The capital of Frånce is", "Frånce", "Łódź", "Paris", "capital", "7", "Łódź it is.",
        (Source("https://example.org", "2026-01-01T00:00:00Z", BASE, "it is"),), "2026-01-01", None, 0.5, "bo",
        "geography", Risk.HIGH, True,
    )  # fmt: skip
    whole = Catechism(
        fact,
        (Question(fact.prompt, Kind.REWRITE, ("Łódź",), ("Paris",), "feed"), Question("A", Kind.UNRELATED)),
        (Question("Study", Kind.PARAPHRASE, ("Łódź",), (), "template"),),
    )
    made = delta()
    config = {"steps": 3, "rate": 0.5, "layers": [1, None, True]}
    edit = registry.add_edit(
        Draft(whole, BASE, "rome", "insert", config, 9, {"layer": 1}, "because", made, [{"b": 1, "a": "é"}])
    )
    assert registry.catechism(edit.id) == whole
    again = registry.delta(edit.id)
    assert again is not None and again.digest == made.digest == edit.artifact
    assert edit == registry.edit(edit.id) == registry.edits()[0]
    assert (edit.fact, edit.author, edit.risk, edit.state, edit.n) == (fact, "bo", Risk.HIGH, State.DRAFT, 1)
    assert (edit.config, edit.seed, edit.locus, edit.why, edit.kind) == (config, 9, {"layer": 1}, "because", "insert")
    assert json.loads(json.dumps(edit.json()))["object"] == "Łódź"
    assert registry.verify().ok


def test_an_edit_that_stays_text_has_no_delta(registry: Registry) -> None:
    edit = registry.add_edit(draft())
    assert edit.artifact is None and registry.delta(edit.id) is None


def test_the_same_draft_again_is_the_same_edit(registry: Registry) -> None:
    first = registry.add_edit(draft())
    before = registry.log()
    assert registry.add_edit(draft()) == first
    assert registry.log() == before
    assert registry.add_edit(draft(seed=1)).id != first.id


def test_the_id_is_the_same_in_every_store(registry: Registry, tmp_path: Path) -> None:
    with opened(tmp_path / "other", now=Clock()) as other:
        other.add_edit(draft("Spain", "Seville"))
        there = other.add_edit(draft())
    here = registry.add_edit(draft())
    assert there.id == here.id and there.digest != here.digest  # sealed at another time by another key


def test_an_ended_edit_is_learned_again_as_a_new_version(registry: Registry) -> None:
    first = promoted(registry)
    registry.rollback(first.id, by="ann", reason="wrong")
    second = registry.add_edit(draft())
    assert (second.n, second.state) == (2, State.DRAFT) and second.id != first.id
    assert registry.add_edit(draft()) == second


def test_a_report_that_passes_validates_and_any_other_is_kept(registry: Registry) -> None:
    edit = registry.add_edit(draft())
    failed = registry.add_report(edit.id, {"efficacy": 0.5}, FAIL)
    assert failed.state is State.DRAFT and failed.verdict == FAIL
    passed = registry.add_report(edit.id, {"efficacy": 1.0}, PASS, by="cy")
    assert passed.state is State.VALIDATED and passed.passed
    assert registry.report(edit.id) == {"efficacy": 1.0}
    assert registry.log(limit=1)[0].actor == "cy"
    before = registry.log()
    assert registry.add_report(edit.id, {"efficacy": 1.0}, PASS) == passed
    assert registry.log() == before


def test_a_later_failure_keeps_a_validated_edit_from_production(registry: Registry) -> None:
    edit = validated(registry)
    registry.add_report(edit.id, {"efficacy": 0.1}, FAIL)
    assert "FAIL" in (registry.missing(edit.id) or "")
    with pytest.raises(Denied, match="FAIL, not PASS") as denied:
        registry.promote(edit.id, "ann")
    assert denied.value.exit_code == 3


@pytest.mark.parametrize("verdict", [{}, {"status": "pass"}, {"status": None}])
def test_a_verdict_without_a_status_is_refused(registry: Registry, verdict: dict[str, None]) -> None:
    edit = registry.add_edit(draft())
    with pytest.raises(UsageError, match="PASS, FAIL, ERROR, INCONCLUSIVE"):
        registry.add_report(edit.id, {}, verdict)


def test_what_is_in_effect_grows_and_shrinks_with_its_edits(registry: Registry) -> None:
    france, spain = promoted(registry), promoted(registry, "Spain", "Seville")
    assert [edit.id for edit in registry.active()] == [france.id, spain.id]
    epoch = registry.rollback(france.id, by="ann", reason="no")
    assert [edit.id for edit in registry.active()] == [spain.id] and epoch.number == 3
    assert registry.edit(france.id).state is State.ROLLED_BACK
    assert registry.rollback(france.id, by="ann", reason="no") == epoch  # in effect already
    registry.rollback(spain.id, by="ann", reason="no")
    assert registry.head().cid == registry.epochs()[0].cid  # the empty one again
    assert registry.verify().ok


def test_going_back_to_an_epoch_restores_its_composition(registry: Registry) -> None:
    promoted(registry)
    wanted = registry.head()
    spain = promoted(registry, "Spain", "Seville")
    epoch = registry.rollback(to_epoch=wanted.number, by="ann", reason="no")
    assert epoch.cid == wanted.cid and registry.edit(spain.id).state is State.ROLLED_BACK
    assert registry.rollback(to_epoch=1, by="ann", reason="no") == epoch
    with pytest.raises(UnknownDate, match="from 0 to 3"):
        registry.rollback(to_epoch=9, by="ann", reason="no")


def test_going_back_leaves_out_what_was_rolled_back_since_and_says_so(registry: Registry) -> None:
    france, spain = promoted(registry), promoted(registry, "Spain", "Seville")
    registry.rollback(france.id, by="ann", reason="harmful")
    italy = promoted(registry, "Italy", "Milan")
    epoch = registry.rollback(to_epoch=2, by="ann", reason="no")
    assert [edit.id for edit in registry.active()] == [spain.id] and france.id in epoch.reason
    assert registry.edit(italy.id).state is State.ROLLED_BACK and registry.verify().ok


def test_superseding_retires_and_a_rollback_brings_it_back(registry: Registry) -> None:
    old, spain = promoted(registry), promoted(registry, "Spain", "Seville")
    before = registry.head().cid
    new = promoted(registry, object="Nice", supersedes=old.id[:6])
    assert (new.n, new.supersedes) == (2, old.id) and registry.edit(old.id).state is State.RETIRED
    assert [edit.id for edit in registry.active()] == [new.id, spain.id]
    assert registry.rollback(new.id, by="ann", reason="no").cid == before
    assert registry.edit(old.id).state is State.PRODUCTION and registry.verify().ok


def test_what_was_replaced_stays_out_if_it_would_contradict(registry: Registry) -> None:
    old = promoted(registry, valid_to="2026-06-30")
    new = promoted(registry, object="Nice", valid_from="2026-07-01", supersedes=old.id)
    other = promoted(registry, object="Brest", valid_to="2026-06-30")
    registry.rollback(new.id, by="ann", reason="no")
    assert [edit.id for edit in registry.active()] == [other.id]
    assert registry.edit(old.id).state is State.RETIRED


@pytest.mark.parametrize("object, subject", [("Nice", "France"), ("NICE", "the  FRANCE"), ("Nice", "Ｆrance")])
def test_an_active_fact_that_says_otherwise_is_a_conflict(registry: Registry, object: str, subject: str) -> None:
    old = promoted(registry)
    new = validated(registry, subject, object)
    with pytest.raises(Conflict, match=old.id) as conflict:
        registry.promote(new.id, "ann")
    assert conflict.value.exit_code == 4
    registry.rollback(old.id, by="ann", reason="no")
    registry.promote(new.id, "ann")


def test_facts_of_other_days_or_relations_or_with_the_same_object_are_no_conflict(registry: Registry) -> None:
    promoted(registry, valid_to="2026-06-30")
    promoted(registry, object="Nice", valid_from="2026-07-01")
    promoted(registry, object="LYON", valid_to="2026-06-30")
    other = draft(object="Seine")
    fact = replace(other.catechism.fact, relation="river")
    edit = registry.add_edit(replace(other, catechism=replace(other.catechism, fact=fact)))
    registry.add_report(edit.id, {}, PASS)
    registry.promote(edit.id, "ann")
    assert len(registry.active()) == 4


def test_one_store_serves_one_base(registry: Registry) -> None:
    promoted(registry)
    other = validated(registry, "Spain", "Seville", base="sha256:" + "cd" * 32)
    with pytest.raises(Conflict, match="one store for each base"):
        registry.promote(other.id, "ann")


def test_only_who_has_seen_the_head_may_move_it(registry: Registry) -> None:
    edit = validated(registry)
    promoted(registry, "Spain", "Seville")
    with pytest.raises(Conflict, match="at epoch 1, expected 0"):
        registry.promote(edit.id, "ann", expect_epoch=0)
    assert registry.edit(edit.id).state is State.VALIDATED
    assert registry.promote(edit.id, "ann", expect_epoch=1).number == 2


@pytest.mark.parametrize(
    "verb", ["promote draft", "promote rejected", "promote twice", "reject active", "roll back draft", "report ended",
             "approve draft", "approve active"],
)  # fmt: skip
def test_a_step_that_the_table_does_not_have_is_refused(registry: Registry, verb: str) -> None:
    def rejected(edit: EditVersion) -> str:
        return registry.reject(edit.id, "ann", "no").id

    act = {
        "promote draft": lambda: registry.promote(registry.add_edit(draft()).id, "ann"),
        "promote rejected": lambda: registry.promote(rejected(validated(registry)), "ann"),
        "promote twice": lambda: registry.promote(promoted(registry).id, "ann"),
        "reject active": lambda: rejected(promoted(registry)),
        "roll back draft": lambda: registry.rollback(registry.add_edit(draft()).id, by="ann", reason="no"),
        "report ended": lambda: registry.add_report(rejected(registry.add_edit(draft())), {}, PASS),
        "approve draft": lambda: registry.approve(registry.add_edit(draft()).id, "bo"),
        "approve active": lambda: registry.approve(promoted(registry).id, "bo"),
    }[verb]
    with pytest.raises(WrongState, match="`catechism|Learn the fact again") as wrong:
        act()
    assert wrong.value.exit_code == 4
    assert registry.verify().ok


def test_a_rejected_edit_stays_rejected(registry: Registry) -> None:
    edit = registry.add_edit(draft())
    ended = registry.reject(edit.id, "bo", "no source")
    assert ended.state is State.REJECTED and registry.reject(edit.id, "bo", "again") == ended


@pytest.mark.parametrize(
    "risk, team, wanted",
    [(Risk.LOW, False, 0), (Risk.STANDARD, False, 0), (Risk.HIGH, False, 1), (Risk.MEDICAL, False, 2),
     (Risk.LOW, True, 0), (Risk.STANDARD, True, 1), (Risk.HIGH, True, 2), (Risk.SAFETY, True, 2)],
)  # fmt: skip
def test_each_risk_class_takes_its_number_of_approvals(tmp_path: Path, risk: Risk, team: bool, wanted: int) -> None:
    with opened(tmp_path, policy=Policy.team() if team else None) as registry:
        edit = validated(registry, risk=risk)
        for i in range(wanted):
            assert f"needs {wanted} approval" in (registry.missing(edit.id) or "")
            with pytest.raises(Denied, match=f"it has {i}"):
                registry.promote(edit.id, "ann")
            registry.approve(edit.id, f"person {i}", roles=[f"domain_expert:{risk}"])
        registry.promote(edit.id, "ann")


def test_a_medical_edit_wants_an_expert_among_its_approvers(registry: Registry) -> None:
    edit = validated(registry, risk=Risk.MEDICAL)
    registry.approve(edit.id, "bo", roles=["domain_expert:legal"])
    registry.approve(edit.id, "cy")
    with pytest.raises(Denied, match="of which 1 from a domain_expert:medical; it has 2"):
        registry.promote(edit.id, "ann")
    registry.approve(edit.id, "cy", roles=[MEDICAL])
    registry.promote(edit.id, "ann")
    assert len(registry.approvals(edit.id)) == 3 and registry.verify().ok


@pytest.mark.parametrize("name", ["ann", " Ann ", "ＡＮＮ"])
def test_the_author_never_counts(registry: Registry, name: str) -> None:
    edit = validated(registry, risk=Risk.HIGH)
    with pytest.raises(Denied, match="is the author"):
        registry.approve(edit.id, name)


def test_one_person_counts_once(registry: Registry) -> None:
    edit = validated(registry, risk=Risk.MEDICAL)
    first = registry.approve(edit.id, "bo", roles=[MEDICAL])
    assert registry.approve(edit.id, "bo", roles=[MEDICAL]) == first
    registry.approve(edit.id, "BO", comment="again", roles=[MEDICAL, "other"])
    with pytest.raises(Denied, match="it has 1"):
        registry.promote(edit.id, "ann")


def test_approvals_lapse_with_another_report_or_verdict_and_after_two_weeks(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, now=clock) as registry:
        edit = validated(registry, risk=Risk.HIGH)
        for change in ("report", "verdict", "time"):
            registry.approve(edit.id, "bo")
            assert registry.missing(edit.id) is None
            if change == "report":
                registry.add_report(edit.id, {"efficacy": 0.99}, PASS)
            elif change == "verdict":
                registry.add_report(edit.id, {"efficacy": 0.99}, {**PASS, "gates": ["fewer"]})
            else:
                clock.time += timedelta(days=14)
            with pytest.raises(Denied, match="it has 0"):
                registry.promote(edit.id, "ann")
        registry.approve(edit.id, "bo")
        registry.promote(edit.id, "ann")


def test_an_edit_goes_by_prefixes_of_id_and_digest(registry: Registry) -> None:
    edit = registry.add_edit(draft())
    bare = edit.digest.removeprefix("sha256:")
    for ref in (edit.id, edit.id[:5], edit.id.lower(), edit.id[1:7], edit.digest, edit.digest[:12], bare[:8]):
        assert registry.edit(ref) == edit


@pytest.mark.parametrize("ref", ["", "E", "Frence", "%", "E%", "x" * 10_000, "E\0", "sha256:", "../../x"])
def test_a_name_that_is_none_lists_close_ones(registry: Registry, ref: str) -> None:
    first, _ = registry.add_edit(draft()), registry.add_edit(draft("Spain", "Seville"))
    with pytest.raises(UnknownEdit) as unknown:
        registry.edit(ref)
    assert unknown.value.exit_code == 2 and len(str(unknown.value)) < 600
    assert ref != "Frence" or first.id in str(unknown.value)


def test_edits_are_listed_by_state_and_subject(registry: Registry) -> None:
    france, spain = promoted(registry), registry.add_edit(draft("Spain", "Seville"))
    assert registry.edits(state="production") == [france]
    assert registry.edits(subject="the FRANCE") == [france]
    assert registry.edits(state="draft", subject="Spain") == [spain]
    with pytest.raises(UnknownName, match="Did you mean 'production'"):
        registry.edits(state="productoin")


def test_a_past_day_has_its_own_composition(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, now=clock) as registry:
        promoted(registry)
        first = registry.head()
        clock.time += timedelta(days=3)
        promoted(registry, "Spain", "Seville")
        assert registry.as_of("2026-11-01") == registry.as_of("2026-11-03") == registry.composition(first.cid)
        assert registry.as_of("2026-11-04").cid == registry.as_of("2030-01-01").cid == registry.head().cid
        assert registry.as_of(first.at).cid == first.cid
        assert registry.as_of("2026-11-01T12:00:01+00:00").entries == ()
        for date in ("2026-10-31", "2026-13-01", "yesterday", "", "0000-00-00", "2026-11-01T99:00"):
            with pytest.raises(UnknownDate):
                registry.as_of(date)


def test_the_log_is_newest_first_and_can_be_cut(registry: Registry) -> None:
    edit = promoted(registry)
    whole = registry.log()
    assert [entry.seq for entry in whole] == list(range(len(whole), 0, -1))
    assert (whole[0].action, whole[0].object, whole[0].actor) == ("edit.promote", edit.id, "ann")
    assert registry.log(limit=2) == whole[:2]


def test_a_clock_that_goes_back_does_not_turn_the_order_round(tmp_path: Path) -> None:
    clock = Clock()
    with opened(tmp_path, now=clock) as registry:
        promoted(registry)
        clock.time -= timedelta(days=100)
        promoted(registry, "Spain", "Seville")
        times = [epoch.at for epoch in registry.epochs()]
        assert times == sorted(times) and registry.verify().ok


@pytest.mark.parametrize(
    "change, message",
    [({"author": " "}, "author"), ({"author": "a\nb"}, "author"), ({"base": ""}, "base"), ({"method": ""}, "method"),
     ({"kind": "fix"}, "insert, correct"), ({"config": {"x": float("nan")}}, "plain, finite JSON"),
     ({"training": [{"text": "\ud800"}]}, "plain, finite JSON"), ({"risk": Risk.LOW}, "lower than")],
)  # fmt: skip
def test_a_draft_that_cannot_be_kept_is_refused(registry: Registry, change: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        registry.add_edit(replace(draft(), **change))  # pyright: ignore[reportArgumentType]
    assert registry.edits() == []


def test_a_delta_of_another_base_is_refused(registry: Registry) -> None:
    with pytest.raises(WrongBase):
        registry.add_edit(draft(delta=delta(), base="sha256:" + "cd" * 32))


def test_risk_may_be_raised(registry: Registry) -> None:
    assert registry.add_edit(replace(draft(), risk=Risk.LEGAL)).risk is Risk.LEGAL


@pytest.mark.parametrize("arguments", [{}, {"edit": "E1", "to_epoch": 1}, {"to_epoch": 1, "reason": " "}])
def test_a_rollback_says_what_and_why(registry: Registry, arguments: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        registry.rollback(**{"by": "ann", "reason": "no", **arguments})  # pyright: ignore[reportArgumentType]


def test_a_changed_artifact_is_neither_read_nor_promoted_but_can_be_rolled_back(registry: Registry) -> None:
    active, waiting = promoted(registry), validated(registry, "Spain", "Seville")
    for edit in (active, waiting):
        path = registry.home / "store" / "sha256" / edit.digest[7:9] / edit.digest[7:] / "training.jsonl"
        path.chmod(0o644)
        path.write_bytes(b"{}\n")
    with pytest.raises(StoreDamaged, match=r"training\.jsonl is sha256"):
        registry.catechism(active.id)
    with pytest.raises(StoreDamaged):
        registry.promote(waiting.id, "ann")
    assert registry.rollback(active.id, by="ann", reason="damaged").number == 2


def test_a_lost_key_is_replaced_and_what_it_signed_stays_valid(tmp_path: Path) -> None:
    with opened(tmp_path) as registry:
        promoted(registry)
    (tmp_path / "keys" / "ed25519.pem").unlink()
    with opened(tmp_path) as registry:
        promoted(registry, "Spain", "Seville")
        assert registry.verify().ok and len(list((tmp_path / "keys").glob("*.pub"))) == 2


def test_the_private_key_is_for_its_owner_alone(registry: Registry) -> None:
    assert (registry.home / "keys" / "ed25519.pem").stat().st_mode & 0o777 == 0o600


def test_another_database_can_hold_the_tables(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'elsewhere.db'}"
    with opened(tmp_path / "home", url=url) as registry:
        edit = promoted(registry)
    assert not (tmp_path / "home" / "registry.db").exists()
    with opened(tmp_path / "home", url=url) as registry:
        assert registry.active() == [edit]


def test_the_registry_loads_no_torch(tmp_path: Path) -> None:
    check = (
        "import sys, pathlib, catechism.registry as r\n"
        f"with r.Registry.open(pathlib.Path({str(tmp_path)!r})) as registry: registry.edits(), registry.verify()\n"
        "assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_everything_turns_into_json(registry: Registry) -> None:
    edit = validated(registry, risk=Risk.HIGH)
    given = registry.approve(edit.id, "bo", comment="fine")
    values = [edit, given, registry.promote(edit.id, "ann"), registry.composition(registry.head().cid)]
    for value in [*values, *registry.log(), registry.verify(), registry.sweep(), registry.policy]:
        assert json.loads(json.dumps(value.json())) == value.json()


def test_questions_without_anything_special_survive(registry: Registry) -> None:
    whole = catechism("Malta", "Mdina")
    assert registry.catechism(registry.add_edit(replace(draft(), catechism=whole)).id) == whole
