"""Forgetting side by side: the case, a whole small run, and what is said about rows."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from rich.console import Console

from catechism.bench import forget, forget_study
from catechism.bench.charts import forgotten
from catechism.bench.forget_cases import forget_people
from catechism.bench.forget_report import write_report
from catechism.bench.forget_sequence import INSTEAD, asked_of, cut
from catechism.cli.bench_forget import shown
from catechism.delta import Delta, LowRank
from catechism.errors import UnknownName, UsageError
from catechism.evaluate.audit import QUICK
from catechism.methods.forgetting import FORGETTERS
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.surgery import Applied
from catechism.reference.world import load_world
from catechism.settings import Settings
from catechism.types import Forgetting, How, Role, Site

SMALL = replace(
    QUICK, attacks=("keyword",), weights=("int4",), variants=1, phrasings=1, layers=1, rivals=3, relearn_steps=1,
    benign_steps=0, kept=6, depth=False, probes=False, membership=False,
)  # fmt: skip


@dataclass(frozen=True)
class Spec:
    """Settings of the tests' forgetter."""

    seed: int = 0


class Stubborn:
    """Breaks the model at its first turn, takes that back at the second, and then does nothing."""

    name = "stubborn"
    Spec = Spec
    hows = frozenset(How)
    seen: ClassVar[list[tuple[Applied, ...]]] = []

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, request: Forgetting, spec: Any) -> Delta:
        """See `Forgetter.fit`."""
        self.seen.append(live.applied)
        matrix = live.anatomy.matrix(Site(0, Role.MLP_OUT))
        size = {1: 9.0, 2: -9.0}.get(len(self.seen), 0.0)
        rng = torch.Generator().manual_seed(0)
        out, in_ = (torch.randn(n, generator=rng) for n in matrix.shape)
        return Delta(live.base, {matrix.address: LowRank(size * out[:, None], in_[None])})


@pytest.fixture
def stubborn(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A table of methods with `Stubborn` in it, and audits that only ask."""
    monkeypatch.setitem(forget.PROFILES, "quick", replace(SMALL, attacks=(), weights=(), relearn_steps=0))
    monkeypatch.setitem(FORGETTERS, "stubborn", f"{__name__}:Stubborn")
    Stubborn.seen.clear()
    return monkeypatch


def test_nobody_who_is_asked_is_shown_to_a_method_and_nothing_that_is_forgotten_is_kept() -> None:
    case = forget_people(load_world(), 12, seed=3)
    assert len(case.request.forget) == 60
    forgotten = {one.fact.subject for one in case.request.forget}
    shown = {one.fact.prompt for one in case.request.retain}
    asked = {one.fact.prompt for one in (*case.neighbours, *case.utility)}
    assert not shown & asked
    assert not forgotten & {one.fact.subject for one in (*case.request.retain, *case.neighbours, *case.utility)}
    studied = {q.text for one in case.request.forget for q in one.study}
    assert not studied & {q.text for one in case.request.forget for q in one.questions}
    with pytest.raises(UsageError, match="has 12"):
        forget_people(load_world(), 13, seed=0)


def test_a_run_has_both_yardsticks_and_a_row_for_each_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(forget.PROFILES, "quick", SMALL)
    request = forget.Request(methods=("rome_forget",), people=1, profile="quick")
    found: Any = forget.run(request, Settings(home=tmp_path, cache=tmp_path), Console(file=io.StringIO()))
    rows = {row["method"]: row for row in found["rows"]}
    assert list(rows) == ["control", "exact", "rome_forget"]
    assert rows["control"]["forget_recall"]["value"] <= 0.2
    assert rows["exact"]["forget_recall"]["before"] > 0.5, "it was taught before it was taken out"
    assert rows["exact"]["forget_recall"]["value"] == rows["control"]["forget_recall"]["value"]
    assert rows["exact"]["verdict"] == "removed"
    assert rows["rome_forget"]["forget_recall"]["before"] > 0.5
    assert rows["rome_forget"]["delta_bytes"] > 0
    assert set(forget.COLUMNS) <= set(rows["rome_forget"])
    assert found["audits"]["rome_forget"]["verdict"] == rows["rome_forget"]["verdict"]
    page = write_report("Forgetting", found, {"command": "<b>", "seed": 0}, tmp_path / "page.html")
    text = page.read_text(encoding="utf-8")
    assert "Audit of rome_forget" in text
    assert "&lt;b&gt;" in text
    assert "<svg" in text


def test_a_run_that_was_broken_off_goes_on_and_only_with_the_same_command(
    tmp_path: Path, stubborn: pytest.MonkeyPatch
) -> None:
    settings, console = Settings(home=tmp_path, cache=tmp_path), Console(file=io.StringIO())
    asked = forget.Request(control="", methods=("stubborn",), people=1, profile="quick", resume=tmp_path / "rows")
    first: Any = forget.run(asked, settings, console)
    assert len(Stubborn.seen) == 1
    again: Any = forget.run(replace(asked, methods=("stubborn", "rome_forget")), settings, console)
    assert len(Stubborn.seen) == 1, "what is finished is not measured again"
    assert [row["method"] for row in again["rows"]] == ["stubborn", "rome_forget"], "and what is not, is"
    assert list(again["rows"][0].items()) == list(first["rows"][0].items()), "columns in their order"
    assert again["audits"]["stubborn"] == first["audits"]["stubborn"]

    with pytest.raises(UsageError, match="different choice of facts and seed. Give the same command"):
        forget.run(replace(asked, seed=1), settings, console)
    with pytest.raises(UsageError, match="measured with different choice of facts. Give"):
        forget.run(replace(asked, people=2), settings, console)
    with stubborn.context() as changed:
        changed.setattr(Stubborn, "Spec", lambda seed=5: Spec(seed))
        with pytest.raises(UsageError, match="measured with different defaults. Give"):
            forget.run(asked, settings, console)
    file = tmp_path / "rows" / "stubborn.json"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UsageError, match=r"stubborn.json cannot be read: .* Delete it"):
        forget.run(asked, settings, console)


def test_requests_one_after_another_are_fitted_on_what_the_earlier_left_and_all_audited(
    tmp_path: Path, stubborn: pytest.MonkeyPatch
) -> None:
    request = forget.Request(control="", methods=("stubborn",), people=1, profile="quick", requests=3)
    found: Any = forget.run(request, Settings(home=tmp_path, cache=tmp_path), Console(file=io.StringIO()))
    (row,) = found["rows"]
    asked = row["requests"]
    assert [one["facts"] for one in asked] == [1, 2, 2] and found["data"]["requests"] == 3
    assert set(forget.COLUMNS) <= set(row) and row["forget_recall"]["n"] == 5, "the row is that of all facts"
    assert asked[0]["after"] < asked[0]["before"] - 0.5, "the first turn forgets"
    assert asked[0]["at_end"] == asked[0]["before"], "and the second takes it back"
    assert asked[0]["returned"] == asked[0]["at_end"] - asked[0]["after"]
    assert "failed" in {one["verdict"] for one in asked} <= {"failed", "suppressed"}, "there is no control"
    assert [len(deltas) for deltas in Stubborn.seen] == [0, 1, 2], "each is fitted on what the earlier have left"
    assert f"returned after their turn: 1 (+{asked[0]['returned']:.2f})" in found["conclusions"][-1]
    assert "request" not in shown([row])[0] and "requests" not in shown([row])[0]
    page = write_report("Forgetting", found, {}, tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Requests one after another: stubborn" in page


def test_facts_are_cut_into_requests_by_whom_they_are_about() -> None:
    request = forget_people(load_world(), 2, seed=0).request
    whole = cut(request, 2)
    assert [len({one.fact.subject for one in part.forget}) for part in whole] == [1, 1]
    many = cut(request, 4)
    assert [len(part.forget) for part in many] == [2, 3, 2, 3]
    assert {one.fact for part in many for one in part.forget} == {one.fact for one in request.forget}
    assert all(part.retain == request.retain for part in many)
    with pytest.raises(UsageError, match="11 requests cannot be made of 10 facts. Ask for 1 to 10"):
        cut(request, 11)
    with pytest.raises(UsageError, match="0 requests"):
        cut(request, 0)


def test_what_there_is_not_is_refused_before_a_model_is_opened(tmp_path: Path) -> None:
    def run(**changes: Any) -> None:
        settings = Settings(home=tmp_path, cache=tmp_path)
        forget.run(forget.Request(**changes), settings, Console(file=io.StringIO()))

    with pytest.raises(UsageError, match="full, quick"):
        run(profile="deep")
    with pytest.raises(UsageError, match="6 requests cannot be made of 5 facts"):
        run(people=1, requests=6)
    with pytest.raises(UsageError, match="No method was named"):
        run(methods=())
    with pytest.raises(UnknownName, match="rome_forget"):
        run(methods=("rome_forgot",))


def test_a_method_erases_if_it_can_and_else_abstains_or_replaces() -> None:
    request = forget_people(load_world(), 1, seed=0).request
    assert asked_of(request, frozenset(How)).how is How.ERASE
    assert asked_of(request, frozenset({How.ABSTAIN, How.REPLACE})).how is How.ABSTAIN
    replaced = asked_of(request, frozenset({How.REPLACE}))
    assert (replaced.how, replaced.replacement) == (How.REPLACE, INSTEAD)


def rate(value: float, before: float) -> dict[str, float]:
    return {"value": value, "low": value, "high": value, "n": 10, "before": before}


def row(method: str, **changes: Any) -> dict[str, Any]:
    good: dict[str, Any] = {
        "method": method, "verdict": "erased", "worst_attack": "int4", "worst_attack_gap": 0.0, "relearn_ratio": 1.0,
        "neighbour": rate(0.99, 1.0), "utility": rate(1.0, 1.0), "worst_attack_recall": rate(0.1, 0.0),
        "reasons": ["So."],
    }  # fmt: skip
    return good | changes


@pytest.mark.parametrize(
    "changes",
    [
        {"worst_attack_gap": 0.03}, {"relearn_ratio": 0.8}, {"neighbour": rate(0.95, 1.0)}, {"utility": rate(0.9, 1.0)},
        {"worst_attack_gap": None}, {"neighbour": None},
    ],
)  # fmt: skip
def test_the_aim_is_reached_only_when_every_part_of_it_is(changes: Mapping[str, Any]) -> None:
    assert forget.reaches_aim(row("npo"))
    assert not forget.reaches_aim(row("npo", **changes))


def test_the_words_name_who_reached_the_aim_and_which_attack_wins() -> None:
    rows = [
        row("control"),
        row("npo"),
        row("rmu", verdict="suppressed", worst_attack="prefix", worst_attack_gap=0.4, reasons=["prefix: 0.5."]),
        {"method": "sae", "error": "E105: no."},
    ]
    words = forget.conclusions(rows)
    assert words[0].startswith("npo reached the aim")
    assert "Erased: npo." in words
    assert "Suppressed: rmu." in words
    assert "The attack prefix goes furthest beyond the control against rmu (+0.40)." in words
    assert "rmu, suppressed: prefix: 0.5." in words
    assert "sae could not be run. E105: no." in words
    assert forget.conclusions(rows[2:])[0] == "No method reached the aim."
    assert forget.conclusions(rows[:1]) == ["No method could be measured."]
    (against_control,), (alone,) = forgotten(rows), forgotten(rows[1:])
    assert "beyond the model that never learned" in against_control.caption
    assert "never learned" not in alone.caption, "there is no control to be beyond"
    assert forgotten(rows[3:]) == []


def audit_row(name: str, value: float, control: float, *, tells: bool, note: str = "") -> dict[str, Any]:
    return {"name": name, "value": value, "control": control, "tells": tells, "note": note}


def test_the_studys_answers_follow_the_audits() -> None:
    back = [
        audit_row("int4", 0.6, 0.1, tells=True), audit_row("keyword", 0.1, 0.1, tells=False),
        audit_row("probe", 0.8, 0.2, tells=True, note="layer 2"), audit_row("relearning", 0.4, 1.0, tells=True),
        audit_row("recall", 0.0, 0.0, tells=False), audit_row("recall_mean", 0.3, 0.05, tells=False),
    ]  # fmt: skip
    never = [audit_row("recall", 0.9, 0.1, tells=True), audit_row("int4", 0.9, 0.1, tells=True)]  # it was never gone
    clean = [audit_row("int4", 0.1, 0.1, tells=False), audit_row("relearning", 1.0, 1.0, tells=False)]
    found: Any = {
        "rows": [{"method": name} for name in ("control", "altpo", "npo", "sae")],
        "audits": {"control": {"rows": back}, "altpo": {"rows": back}, "npo": {"rows": clean}, "sae": {"rows": never}},
    }
    told = "\n".join(forget_study.answers(found))
    assert "beyond the control, for 1 of 2 methods: altpo (0.60, control 0.10)" in told
    assert "Of 3 methods after altpo, npo; whether it comes back is asked of these alone. Not after sae." in told
    assert "For none of 1 methods does it tell the model from the control." in told
    assert "Does rounding to 8 bits? It was not measured." in told
    assert "altpo, probe at layer 2 (0.80, control 0.20)" in told
    assert "Sooner: altpo (0.40 of the control's steps); not sooner: npo (1.00 of the control's steps)" in told
    assert "altpo (0.00 of canonical prompts, 0.30 of all)" in told
    assert "Asked in all phrasings, altpo does not tell it from the control (0.30, control 0.05)" in told
    assert forget_study.answers({"rows": [], "audits": {}}) == ["No method could be measured."]
