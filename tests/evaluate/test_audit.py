"""The audit on the shipped models: what it says of one that knows, of one that never learned, and of a muted one."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

from catechism.bench.forget_cases import ForgetCase, forget_people
from catechism.delta import Delta
from catechism.errors import UsageError
from catechism.evaluate.audit import QUICK, Audit, Auditor, Family, Kept, Profile, Series, Word, audit, in_sequence, run
from catechism.model import LiveModel
from catechism.model.merged import merged
from catechism.model.target_tokens import target_tokens
from catechism.model.tuning import TunedMatrix
from catechism.reference import open_model
from catechism.reference.world import load_world
from catechism.types import Forgetting, Role, Site

#: Every family of measures, and as little of each as shows anything.
TINY = replace(
    QUICK, name="tiny", attacks=("few_shot", "ranking"), weights=("int4", "half_reset"), variants=1, phrasings=1,
    rivals=3, layers=2, relearn_steps=4, benign_steps=2, kept=6,
)  # fmt: skip


@pytest.fixture(scope="module")
def knowing() -> LiveModel:
    return open_model("almanac")


@pytest.fixture(scope="module")
def control() -> LiveModel:
    return open_model("almanac-control")


@pytest.fixture(scope="module")
def case() -> ForgetCase:
    whole = forget_people(load_world(), 1, seed=0)
    return replace(whole, request=replace(whole.request, retain=whole.request.retain[:60]))


@pytest.fixture(scope="module")
def auditor(case: ForgetCase, control: LiveModel) -> Auditor:
    return Auditor(control, case.request, kept_of(case), profile=TINY, seed=0)


def kept_of(case: ForgetCase) -> Kept:
    return Kept(case.neighbours[:20], case.utility[:20], [one.fact.sentence for one in case.utility[:4]])


def muted(live: LiveModel, request: Forgetting) -> Delta:
    """A shallow edit: the last MLP learns to say a neighbour's answer to every phrasing, and to leave other facts."""
    wrong = {one.fact.relation: one.fact.object for one in request.retain}
    asked = [
        (q.text, wrong[one.fact.relation]) for one in request.forget for q in (*one.questions[:6], *one.study)
    ]  # the last two phrasings are known to no model
    kept = [(one.fact.prompt, one.fact.object) for one in request.retain[:40]]
    forget, keep = (target_tokens(live, [p for p, _ in rows], [a for _, a in rows]) for rows in (asked, kept))
    matrix = TunedMatrix(live, Site(live.anatomy.n_layers - 1, Role.MLP_OUT))
    adam, loss = matrix.adam(0.03), torch.tensor(9.0)
    while loss > 0.3:
        loss = matrix.nll(forget)
        adam.zero_grad()
        (loss + matrix.nll(keep)).backward()
        adam.step()
    return Delta(live.base, {matrix.address: matrix.part()})


def test_a_model_that_knows_has_failed(auditor: Auditor, knowing: LiveModel) -> None:
    found = auditor.audit(knowing)
    assert found.verdict is Word.FAILED and found.reasons[0].startswith("recall: 1, control 0")
    assert found.row("recall").value == 1.0 and found.row("recall").before == 1.0
    telling = {row.name for row in found.rows if row.tells}
    assert {
        "few_shot",
        "ranking",
        "int4",
        "half_reset",
        "benign_relearning",
        "ks",
        "mia_loss",
        "lens",
        "depth",
    } <= telling
    assert found.row("relearning").value == 0.0  # it takes no step
    assert found.row("benign_steps").value == 0.0 and found.row("benign_steps").tells
    assert found.row("depth").value == pytest.approx(0.0, abs=1e-6)
    assert not any(row.tells for row in found.rows if row.family is Family.SPILL)
    assert knowing.digest(full=True) == knowing.base


def test_the_control_itself_is_erased(auditor: Auditor, control: LiveModel) -> None:
    found = auditor.audit(control)
    assert found.verdict is Word.ERASED, found.reasons
    assert not any(row.tells for row in found.rows)
    assert found.row("relearning").value == 1.0 and found.row("ks").p == 1.0
    assert "could have gone unseen" in found.reasons[0]
    text = json.dumps(found.json(), allow_nan=False)
    assert json.loads(text)["verdict"] == "erased" and json.loads(text)["control"] == found.model


def test_a_muted_model_is_suppressed_and_the_attack_is_named(
    auditor: Auditor, knowing: LiveModel, case: ForgetCase
) -> None:
    with knowing.with_delta(muted(knowing, case.request)):
        found = auditor.audit(knowing)
    assert found.row("recall").value == 0.0 and found.row("recall").before == 1.0
    assert found.verdict is Word.SUPPRESSED, found.reasons
    attack = found.worst_attack
    assert attack is not None and attack.name == "half_reset" and attack.tells
    assert attack.value is not None and attack.value >= 0.8 and attack.control == 0.0
    assert found.reasons[0].startswith("half_reset: ")
    assert found.row("depth").tells  # the layers before the last have it all


FAST: Profile = replace(
    TINY,
    attacks=("few_shot",),
    weights=(),
    relearn_steps=0,
    benign_steps=0,
    depth=False,
    probes=False,
    membership=False,
)


def test_without_a_control_it_runs_and_says_what_it_cannot(knowing: LiveModel, case: ForgetCase) -> None:
    found = audit(knowing, None, case.request, kept_of(case), profile=FAST)
    assert found.verdict is Word.FAILED and found.control is None and "no control" in found.not_shown[0]
    assert found.row("recall").control is None and found.row("ks").value is None


def test_exactly_removed_is_a_matter_of_the_caller_unless_it_still_answers(
    case: ForgetCase, knowing: LiveModel, control: LiveModel
) -> None:
    auditor = Auditor(control, case.request, kept_of(case), profile=FAST, seed=0)
    before = auditor.measure_before(knowing)
    assert auditor.audit(control, before=before, exact=True).verdict is Word.REMOVED
    assert auditor.audit(knowing, before=before, exact=True).verdict is Word.FAILED
    with pytest.raises(UsageError, match="profile 'tiny' and seed 0"):
        Auditor(control, case.request, kept_of(case), profile=FAST, seed=1).audit(knowing, before=before)


def test_the_control_is_measured_again_only_when_its_bytes_are_others(
    case: ForgetCase, control: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    real = run.measure
    monkeypatch.setattr(
        run, "measure", lambda live, *rest, **more: measured.append(live.digest()) or real(live, *rest, **more)
    )
    auditor = Auditor(control, case.request, kept_of(case), profile=FAST, seed=0)
    before = auditor.measure_before(control)
    first = auditor.audit(control, before=before)
    assert measured == [control.base]
    assert auditor.audit(merged(control), before=before).rows == first.rows  # another model is asked itself
    weight = next(control.model.parameters())
    kept = weight[0, 0].item()
    weight[0, 0] = kept + 1e-3  # behind the back of every record, so that only a full digest sees it
    try:
        assert control.digest() == control.base
        auditor.audit(control, before=before)
    finally:
        weight[0, 0] = kept
    assert len(measured) == 3
    auditor.audit(control, before=before)
    assert len(measured) == 3


def test_requests_in_sequence_are_all_audited_at_the_end(
    knowing: LiveModel, control: LiveModel, case: ForgetCase
) -> None:
    request = case.request
    requests = [
        replace(request, forget=request.forget[:2], retain=(*request.retain[:60], *request.forget[2:])),
        replace(request, forget=request.forget[2:], retain=(*request.retain[:60], *request.forget[:2])),
    ]
    seen: list[Forgetting] = []

    def forget_one(live: LiveModel, one: Forgetting) -> None:
        seen.append(one)
        if len(seen) == 1:
            live.apply(muted(live, one))
        else:
            live.revert_all()  # what a later request must not do

    told: list[tuple[str, int, int]] = []
    tell = lambda *what: told.append(what)  # noqa: E731
    found = Series(control, requests, kept_of(case), profile=FAST, progress=tell).run(knowing, forget_one)
    assert [one for one in told if "request" in one[0]] == [
        (f"{doing} request", i, 2) for doing in ("forgetting", "auditing") for i in (0, 1)
    ]
    assert not set(seen[1].retain) & set(request.forget)  # what is forgotten is retained by no later request
    assert found.before[0] > 0.7 and found.after[0] < 0.1 and found.at_end[0] == found.before[0]
    assert found.returned[0] == pytest.approx(found.before[0] - found.after[0])
    assert [one.verdict for one in found.audits] == [Word.FAILED, Word.FAILED]
    with pytest.raises(UsageError, match="two requests"):
        in_sequence(knowing, control, [request, request], kept_of(case), forget_one, profile=FAST)


def test_an_audit_is_the_same_under_the_same_seed(case: ForgetCase, control: LiveModel) -> None:
    first, second = (audit(control, control, case.request, kept_of(case), profile=FAST, seed=4) for _ in range(2))
    assert isinstance(first, Audit) and first == second
    with pytest.raises(KeyError, match="few_shot"):
        first.row("many_shot")
