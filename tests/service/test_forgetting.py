"""Forgetting on the trained model: planned, refused, carried out by a forgetter of the tests' own, sealed."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from rich.console import Console

from catechism.delta import Delta
from catechism.errors import BadSpec, Conflict, Entangled, Sealed, UnknownEdit, UsageError
from catechism.facts.sentence import read_sentence
from catechism.facts.synthesis import lesson_of
from catechism.methods import forgetting as table
from catechism.methods import method as known_method
from catechism.methods.select import EXPLICIT
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.registry import Draft, State
from catechism.registry.manifest import forget_key
from catechism.service import Service
from catechism.service.forgetting import copies, eraser, plan, tables
from catechism.service.forgetting.neighbours import Sizes, neighbour
from catechism.service.forgetting.outcome import ForgetEnding
from catechism.service.forgetting.plan import Options
from catechism.service.forgetting.target import Sort, Target, rows_of
from catechism.service.workbench import Workbench
from catechism.settings import Settings
from catechism.types import Catechism, Fact, Forgetting, How, Kind, Question

EIFFEL = "The Eiffel Tower is located in Rome."
PASS = {"status": "PASS", "gates": []}
PERSON = "Mavoly Nightingrove"
SMALL = Options(author="ada", sizes=Sizes(6, 4), control="none")


@dataclass(frozen=True)
class Spec:
    """Settings of the tests' forgetter; `fails` makes it find nothing."""

    seed: int = 0


class Overwrite:
    """Forgets by teaching another answer with ROME: crude and quick; it takes on facts such as company seats."""

    name = "overwrite"
    Spec = Spec
    hows = frozenset(How)
    beside: ClassVar[list[str]] = []  # digests of what was on the model at the last fit

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, request: Forgetting, spec: Any) -> Delta:
        """See `Forgetter.fit`."""
        if not request.retain:
            raise BadSpec("It needs facts to keep. Give some.")
        self.beside[:] = [one.delta.digest for one in live.applied]
        said = request.replacement or "nobody knows"
        taught = [
            Catechism(replace(one.fact, object=said), (Question(one.fact.prompt, Kind.REWRITE, (said,)),))
            for one in request.forget
        ]
        method = known_method("rome")(self._background)
        return method.fit(live, taught, method.Spec(layer=0, seed=spec.seed))


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Workbench:
    return Workbench("almanac", Settings(cache=tmp_path_factory.mktemp("cache")))


@pytest.fixture
def service(bench: Workbench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """An empty store with the model that the other tests have open, and one forgetter."""
    monkeypatch.setattr(table, "FORGETTERS", {"overwrite": f"{__name__}:Overwrite"})
    monkeypatch.setattr(plan, "FORGETTERS", {"overwrite": ""})
    with Service("almanac", Settings(cache=bench.settings.cache, home=tmp_path / "home", user="ada")) as opened:
        opened.__dict__["bench"] = bench
        yield opened


def target(value: str, sort: Sort = Sort.FACT) -> Target:
    return Target(sort, value)


def teach(service: Service, sentence: str = EIFFEL) -> str:
    """An edit in effect that stays text: it says at once what it is to say."""
    fact = replace(read_sentence(sentence, service.bench.bank), author="ada", sources=())
    draft = Draft(lesson_of(fact), service.bench.live.base, EXPLICIT, training=[{"prompt": fact.sentence}])
    edit = service.registry.add_edit(draft)
    service.registry.add_report(edit.id, {"question": fact.prompt, "after": fact.object}, PASS)
    service.promote(edit.id, "ada")
    return edit.id


def bytes_below(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


# -- what is not done ------------------------------------------------------------------------------------------------


def test_what_the_model_does_not_know_is_not_forgotten_and_that_is_said(service: Service) -> None:
    done = service.forget(target("The capital of France is Berlin."), SMALL)
    assert done.ending is ForgetEnding.UNKNOWN and "Nothing was done" in done.reason
    assert done.edit is None and service.edits() == []
    nobody = service.forget(target("Zyxwv Qqqq", Sort.SUBJECT), SMALL)
    assert nobody.ending is ForgetEnding.UNKNOWN and "Nothing goes by" in nobody.reason


def test_contradicting_requests_are_refused(service: Service, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="needs answer"):
        service.forget(target(EIFFEL), replace(SMALL, how=How.REPLACE))
    with pytest.raises(Conflict, match="instead"):
        service.forget(target("The capital of France is Paris."), replace(SMALL, how=How.REPLACE, replacement="Paris"))
    keep = tmp_path / "keep.jsonl"
    keep.write_text(json.dumps({"prompt": "The capital of {} is", "subject": "France", "new_object": "Paris"}))
    with pytest.raises(Conflict, match="kept and"):
        service.forget(target("The capital of France is Paris."), replace(SMALL, retain=keep))


def test_nothing_to_keep_is_refused_unless_forced(service: Service, tmp_path: Path) -> None:
    keep = tmp_path / "keep.jsonl"
    keep.write_text(json.dumps({"prompt": "The capital of {} is", "subject": "Peru", "new_object": "Oslo"}))
    options = replace(SMALL, retain=keep)
    with pytest.raises(UsageError, match="--retain FILE"):
        service.forget(target("The capital of France is Paris."), options)
    forced = service.forget(target("The capital of France is Paris."), replace(options, force=True))
    assert forced.ending is ForgetEnding.FAILED and "facts to keep" in forced.reason


def test_a_target_that_too_much_depends_on_is_refused_with_the_neighbours_named(
    service: Service, tmp_path: Path
) -> None:
    rows = [
        {"prompt": "The currency of {} is the", "subject": "France", "new_object": "euro"},
        {"prompt": "The continent of {} is", "subject": "France", "new_object": "Europe"},
        {"prompt": "The capital of {} is", "subject": "Italy", "new_object": "Rome"},
    ]
    keep = tmp_path / "keep.jsonl"
    keep.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    made = service.plan_forgetting(target("The capital of France is Paris."), replace(SMALL, retain=keep))
    near = made.surroundings.near
    assert {one.fact.subject for one in near if one.depends} == {"France"}
    assert {one.fact.subject: one.depends for one in near}["Italy"] is False
    crowded = replace(made, surroundings=replace(made.surroundings, retain=tuple(
        Catechism(one.fact, ()) for one in near if one.depends
    )))  # fmt: skip
    with pytest.raises(Entangled, match="France"):
        service.carry_out(crowded)


# -- the plan --------------------------------------------------------------------------------------------------------


def test_a_plan_probes_every_fact_of_a_person_and_changes_nothing(service: Service) -> None:
    made = service.plan_forgetting(target(PERSON, Sort.SUBJECT), SMALL)
    assert len(made.probes) == 5 and all(probe.right == probe.asked > 3 for probe in made.probes)
    assert len(made.left) == 5 and made.own == () and made.methods == ("overwrite",)
    shown = {one.fact.subject for one in made.surroundings.retain}
    asked = {one.fact.subject for one in made.surroundings.neighbours}
    assert shown and asked and not shown & asked and PERSON not in shown | asked
    exam = {q.text for probe in made.probes for q in probe.lesson.questions}
    assert not exam & {q.text for probe in made.probes for q in probe.lesson.study}
    assert service.edits() == [] and service.bench.live.applied == ()
    assert json.loads(json.dumps(made.json()))["known"] == 5


def test_a_shown_plan_counts_the_files_of_the_cache_and_names_every_other_copy(service: Service) -> None:
    made = service.plan_forgetting(target(PERSON, Sort.SUBJECT), SMALL)
    held = [copies.Copy(copies.Place.CACHE, f"covariance-{i}.safetensors", "figures", "left") for i in range(14)]
    held.append(copies.Copy(copies.Place.FILE, "people.jsonl", "line 3", "left: remove it"))
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(tables.plan_view(replace(made, copies=tuple(held))))
    shown = console.export_text()
    assert "14 files in the cache" in shown and "people.jsonl" in shown and "covariance-" not in shown


def test_neighbours_are_named_with_what_they_have_in_common() -> None:
    gone = [Fact("The capital of France is", "France", "Paris", relation="capital")]
    seen = {
        "same relation": Fact("The capital of Italy is", "Italy", "Rome", relation="capital"),
        "same answer": Fact("The Louvre is in", "the Louvre", "Paris", relation="city"),
        "same subject": Fact("The currency of France is the", "France", "euro", relation="currency"),
        "about the answer": Fact("The river through Paris is the", "Paris", "Seine", relation="river"),
        "names the subject": Fact("Lyon is a city in", "Lyon", "France", relation="country"),
    }
    for why, fact in seen.items():
        found = neighbour(fact, gone)
        assert found is not None and why in found.why, why
    assert neighbour(Fact("The symbol of iron is", "iron", "Fe", relation="symbol"), gone) is None
    person = neighbour(Fact("x", "Mavoly Ashwicket", "y"), [Fact("z", PERSON, "w")])
    assert person is not None and person.why == ("name shared: mavoly",)


# -- own edits -------------------------------------------------------------------------------------------------------


def test_an_own_edit_is_taken_out_exactly_and_a_rollback_brings_it_back(service: Service) -> None:
    edit = teach(service)
    made = service.plan_forgetting(target(EIFFEL), SMALL)
    assert [own.id for own in made.own] == [edit] and made.left == () and made.methods == ()
    done = service.forget(target(EIFFEL), replace(SMALL, release=True))
    assert done.ending is ForgetEnding.RELEASED and done.edit is not None
    assert (done.edit.kind, done.edit.method, done.edit.removes) == ("delete", "exact", (edit,))
    prompt = service.registry.catechism(edit).fact.prompt
    assert "Rome" not in service.ask(prompt).text
    assert service.forget(target(EIFFEL), SMALL).ending is ForgetEnding.UNKNOWN, "it is gone already"
    assert service.test(done.edit.id)[1].verdict.status.value == "PASS"
    service.rollback(done.edit.id, reason="a test")
    assert "Rome" in service.ask(prompt).text and service.verify().ok


@pytest.mark.parametrize("sort", [Sort.SOURCE, Sort.AUTHOR, Sort.EDIT, Sort.DATASET])
def test_a_target_can_be_named_by_where_it_came_from(service: Service, tmp_path: Path, sort: Sort) -> None:
    edit = teach(service)
    feed = tmp_path / "facts.jsonl"
    fact = service.registry.edit(edit).fact
    row = {"prompt": fact.prompt, "subject": fact.subject, "new_object": "Rome"}
    feed.write_text(json.dumps(row))
    value = {Sort.SOURCE: "", Sort.AUTHOR: "Ada", Sort.EDIT: edit[:9], Sort.DATASET: str(feed)}[sort]
    if sort is Sort.SOURCE:
        with pytest.raises(UsageError, match="empty"):
            service.plan_forgetting(target(value, sort), SMALL)
        assert service.plan_forgetting(target("nowhere.pdf", sort), SMALL).probes == ()
        return
    made = service.plan_forgetting(target(value, sort), SMALL)
    assert [own.id for own in made.own] == [edit]
    if sort is Sort.DATASET:
        assert any(copy.place is copies.Place.FILE and "line 1" in copy.what for copy in made.copies)
    with pytest.raises(UnknownEdit):
        service.plan_forgetting(target("E00", Sort.EDIT), SMALL)


def test_a_merged_solve_is_solved_again_without_the_fact(service: Service) -> None:
    bank = service.bench.bank.relations["capital"]
    prompt = bank.statements[0].split(" {object}")[0]
    lessons = [
        Catechism(
            Fact(prompt.replace("{subject}", s), s, o, relation="capital"),
            (Question(prompt.replace("{subject}", s), Kind.REWRITE, (o,)),),
        )
        for s, o in (("France", "Oslo"), ("Japan", "Madrid"))
    ]
    method = service.bench.method("memit")
    both, one = (method.fit(service.bench.live, some, method.Spec(layer=1)) for some in (lessons, lessons[1:]))
    config = both.info["spec"]
    assert isinstance(config, dict)
    draft = Draft(
        lessons[0], service.bench.live.base, "memit", "merge", config, delta=both, training=rows_of("taught", lessons),
        author="ada",
    )  # fmt: skip
    merged = service.registry.add_edit(draft)
    service.registry.add_report(merged.id, {}, PASS)
    service.promote(merged.id, "ada")
    made = service.plan_forgetting(target("The capital of France is Oslo."), SMALL)
    assert [(edit.id, [k.fact.subject for k in kept]) for edit, kept in made.merged] == [(merged.id, ["Japan"])]
    done = service.forget(target("The capital of France is Oslo."), SMALL)
    assert done.edit is not None and done.edit.method == "exact" and done.edit.artifact == one.digest


# -- the weights -----------------------------------------------------------------------------------------------------


def test_what_the_weights_know_is_changed_judged_and_kept_as_an_edit(service: Service) -> None:
    options = replace(SMALL, how=How.REPLACE, replacement="Stockholm")
    sentence = "The headquarters of Netflix are in Los Gatos."
    done = service.forget(target(sentence), options)
    assert done.edit is not None and done.edit.kind == "delete" and done.edit.method == "overwrite"
    assert done.trial is not None
    assert ("Los Gatos" in done.trial.before, "Stockholm" in done.trial.after) == (True, True), done.trial
    metrics = done.trial.report.metrics
    assert set(metrics) >= {"forget/recall", "forget/neighbour", "forget/utility", "forget/replaced"}
    assert done.edit.forgets == tuple(forget_key(probe.lesson.fact) for probe in done.plan.known)
    request, exam = eraser.stored_request(service.registry, done.edit)
    assert request == done.plan.request(done.plan.known) and exam.neighbours == done.plan.surroundings.neighbours
    assert service.bench.live.digest(full=True) == service.bench.live.base
    if done.ending is ForgetEnding.REFUSED:  # a crude method; what follows needs one that is in effect
        service.registry.add_report(done.edit.id, {}, PASS)
    service.promote(done.edit.id, "ada")
    (taught,) = service.learn(sentence)
    assert taught.ending == "contradiction" and done.edit.id in taught.reason
    other = replace(options, replacement="Oslo")
    with pytest.raises(Conflict, match=done.edit.id):
        service.forget(target(sentence), other)


def test_a_deletion_is_fitted_beside_the_edits_that_stay_and_is_shown_their_facts(service: Service) -> None:
    bank, live = service.bench.bank, service.bench.live
    lesson = lesson_of(replace(read_sentence("The capital of France is Oslo.", bank), author="ada", sources=()))
    method = service.bench.method("rome")
    delta = method.fit(live, [lesson], method.Spec(layer=0))
    stays = service.registry.add_edit(
        Draft(lesson, live.base, "rome", delta=delta, training=[{"prompt": lesson.fact.prompt}])
    )
    service.registry.add_report(stays.id, {}, PASS)
    service.promote(stays.id, "ada")
    teach(service)  # a note: it is beside the model, and no weights are to be held to it
    done = service.forget(target("The headquarters of Netflix are in Los Gatos."), SMALL)
    assert done.edit is not None and Overwrite.beside == [delta.digest] and live.applied == ()
    around = done.plan.surroundings
    assert "Oslo" in {one.fact.object for one in around.retain if one.fact.subject == "France"}
    assert not any("Eiffel" in one.fact.subject for one in around.retain)
    assert "France" not in {one.fact.subject for one in (*around.neighbours, *around.utility)}


@pytest.mark.parametrize("how", How)
def test_methods_that_auto_tries_are_there_and_can_do_what_is_asked(how: How) -> None:
    names = plan.PREFERRED[how]
    assert len(set(names)) == len(names) >= plan.TRIED
    assert all(how in table.forgetter(name).hows for name in names)


# -- sealing ---------------------------------------------------------------------------------------------------------


def test_sealing_destroys_every_copy_in_the_store_and_says_what_is_left_outside(
    service: Service, tmp_path: Path
) -> None:
    sentence = f"{PERSON} lives on Zanzibar Crescent."
    first = teach(service, sentence)
    options = replace(SMALL, release=True, seal=True, reason="asked for by letter")
    (service.settings.cache / f"covariance-{'0' * 64}.safetensors").write_bytes(b"figures")
    assert b"Zanzibar" in bytes_below(service.settings.home)
    with pytest.raises(UsageError, match="--release"):
        service.forget(target(sentence), replace(options, release=False))
    done = service.forget(target(sentence), options)
    assert done.ending is ForgetEnding.RELEASED and done.edit is not None
    assert {one.edit for one in done.seals} == {first, done.edit.id}
    assert {copy.place: copy.done for copy in done.copies}[copies.Place.NOTE].startswith("destroyed")
    assert list(copies.cache_files(service.settings.cache)) == []
    assert b"Zanzibar" not in bytes_below(service.settings.home)
    found = service.verify()
    assert found.ok and len(found.sealed) == 2
    with pytest.raises(Sealed):
        service.rollback(done.edit.id, reason="x")
    with pytest.raises(Sealed):
        service.prove(done.edit.id)
    assert "Zanzibar" not in service.ask(f"{PERSON} lives on").text
    assert service.show(first)["subject"] == "(sealed)"


def test_sealing_takes_the_deletions_that_were_tried_before_along(service: Service) -> None:
    sentence = f"{PERSON} lives on Zanzibar Crescent."
    first = teach(service, sentence)
    options = replace(SMALL, release=True)
    tried = service.forget(target(sentence), replace(options, release=False, seed=1)).edit
    back = service.forget(target(sentence), options).edit
    assert tried is not None and back is not None and tried.id != back.id
    service.rollback(back.id, reason="not yet")
    done = service.forget(target(sentence), options)
    assert done.edit is not None
    found = {copy.name: copy for copy in done.copies if copy.place is copies.Place.DELETION}
    assert {found[one.id].done for one in (tried, back)} == {"left until sealed"}
    asked, _ = eraser.stored_request(service.registry, done.edit)
    bank, cache = service.bench.bank, service.settings.cache
    listed = copies.find_copies(service.registry, bank, cache, target(sentence), asked.forget, of=done.edit.id)
    named = {copy.name for copy in listed if copy.place is copies.Place.DELETION}
    assert named == {tried.id, back.id}, "a certificate does not call the deletion itself a copy"
    service.seal(done.edit.id)
    assert {one.id for one in service.registry.edits() if one.sealed} == {first, tried.id, back.id, done.edit.id}
    assert service.registry.edit(tried.id).state is State.REJECTED
    assert b"Zanzibar" not in bytes_below(service.settings.home)


def test_a_deletion_in_effect_or_waiting_that_forgets_more_is_not_sealed_with_another(service: Service) -> None:
    sentence = f"{PERSON} lives on Zanzibar Crescent."
    teach(service, sentence)
    made = service.forget(target(sentence), replace(SMALL, release=True)).edit
    assert made is not None
    keys = {*made.forgets}
    assert copies.deletions(service.registry, keys) == [made] and copies.goes_too(made, keys)
    more = replace(made, locus={**made.locus, "forgets": [*made.forgets, "sha256:another"]})
    assert not copies.goes_too(more, keys) and copies.goes_too(more, {*more.forgets})
    assert not copies.goes_too(replace(more, state=State.VALIDATED), keys), "a request that waits is not lost"
    assert copies.goes_too(replace(more, state=State.ROLLED_BACK), keys)
