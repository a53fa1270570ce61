"""What every trained method of forgetting promises, then guarantees of their own: BLUR's step, ReGLU's base."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from catechism.delta import Delta, LowRank, load, save
from catechism.errors import BadSpec, NoConvergence, WrongBase
from catechism.methods.forget import ofmu, reglu
from catechism.methods.forgetting import Forgetter, forgetter
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.forgetting.material import ABSTENTIONS, Material, forget_lines, material, spoken_instead
from catechism.model.forgetting.moments import Moments
from catechism.model.forgetting.objective import Objective, Step, Terms, Turn
from catechism.model.forgetting.rows import Remembered
from catechism.model.forgetting.training import Training
from catechism.solve.forgetting import combined, inner, npo
from catechism.types import Forgetting, How
from tests.methods.forget_requests import FORGET, REQUEST, asking, background, live_model

#: Random models know nothing, so the level is far below what they say: there is something to forget.
QUICK: Mapping[str, Any] = {"steps": 4, "every": 2, "rank": 2, "rates": (1e-2,), "level": 1e-6, "batch": 3}
TRAINED = (
    "altpo", "blur", "ceu", "grad_ascent", "grad_diff", "idk_dpo", "kl", "npo", "ofmu", "pdu", "reglu", "satimp",
    "simnpo", "undial", "wga",
)  # fmt: skip
KEEPS_NOTHING = ("ceu", "grad_ascent", "undial")
OTHERS = {"reglu": {"kept": 4, "samples": 4}, "ofmu": {"steps": 2, "every": 1}}


def made(name: str, live: LiveModel, **options: Any) -> Forgetter:
    return forgetter(name)(background(live), **options)  # type: ignore[call-arg]


def spec_of(name: str, **settings: object) -> Any:
    return forgetter(name).Spec(**{**QUICK, **OTHERS.get(name, {}), **settings})  # type: ignore[attr-defined]


def request_for(name: str) -> Forgetting:
    return asking(How.ABSTAIN if name == "idk_dpo" else How.ERASE)


@cache
def live_of(model_type: str) -> LiveModel:
    return live_model(model_type)


@cache
def fitted(name: str, model_type: str) -> Delta:
    live = live_of(model_type)
    return made(name, live).fit(live, request_for(name), spec_of(name))


def hooks(live: LiveModel) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in live.model.modules())


each = pytest.mark.parametrize("name", TRAINED)
#: All of them on one architecture, and on another, which stores its matrices turned, one of every machinery.
everywhere = pytest.mark.parametrize(
    ("name", "model_type"),
    [(name, "llama") for name in TRAINED] + [(name, "gpt2") for name in ("npo", "idk_dpo", "blur", "ofmu", "reglu")],
)
on_two = pytest.mark.parametrize("model_type", ["llama", "gpt2"])


# -- the contract ------------------------------------------------------------------------------------------------------


@each
def test_it_is_a_forgetter_whose_settings_need_no_argument(name: str) -> None:
    method = made(name, live_of("llama"))
    assert isinstance(method, Forgetter) and method.name == name
    assert method.Spec().seed == 0 and method.hows


@everywhere
def test_a_fit_leaves_the_model_as_it_was(name: str, model_type: str) -> None:
    live = live_of(model_type)
    before = hooks(live)
    delta = fitted(name, model_type)
    assert live.digest(full=True) == live.base == delta.base
    assert hooks(live) == before and not live.applied
    assert not any(p.requires_grad or p.grad is not None for p in live.model.parameters())


@everywhere
def test_the_change_is_low_rank_does_something_and_comes_off(name: str, model_type: str) -> None:
    live, delta = live_of(model_type), fitted(name, model_type)
    assert delta.parts and all(isinstance(part, LowRank) for part in delta.parts.values()) and delta.is_finite()
    prompts, answers = [one.fact.prompt for one in FORGET], [one.fact.object for one in FORGET]
    before = [score.logprob for score in live.score(prompts, answers)]
    with live.with_delta(delta):
        assert [score.logprob for score in live.score(prompts, answers)] != before
    assert live.digest(full=True) == live.base
    assert [score.logprob for score in live.score(prompts, answers)] == before


@each
def test_a_seed_gives_the_same_bytes(name: str) -> None:
    live = live_of("llama")
    again = made(name, live).fit(live, request_for(name), spec_of(name))
    assert again.digest == fitted(name, "llama").digest


def test_another_seed_gives_other_bytes() -> None:
    live = live_of("llama")
    other, first = made("npo", live).fit(live, REQUEST, spec_of("npo", seed=1)), fitted("npo", "llama")
    assert all(not torch.equal(factors(other)[address][0], A) for address, (A, _) in factors(first).items())


def factors(delta: Delta) -> dict[str, tuple[Tensor, Tensor]]:
    return {address: (part.A, part.B) for address, part in delta.parts.items() if isinstance(part, LowRank)}


@each
def test_the_delta_survives_its_file(name: str, tmp_path: Path) -> None:
    delta = fitted(name, "llama")
    save(delta, tmp_path / "x.safetensors")
    assert load(tmp_path / "x.safetensors").digest == delta.digest


@each
def test_the_info_says_how_it_went(name: str) -> None:
    info = fitted(name, "llama").info
    json.dumps(info)
    assert info["method"] == name and info["how"] == request_for(name).how.value
    assert len(info["forget"]) == len(FORGET)  # type: ignore[arg-type]
    training: Any = info["training"]
    assert len(training["steps"]) == training["taken"] > 0
    assert "forget" in training["steps"][0] and "mean" in training["steps"][-1]


@each
def test_what_cannot_be_done_is_refused_before_anything_runs(name: str) -> None:
    live = live_of("llama")
    method, request = made(name, live), request_for(name)
    with pytest.raises(BadSpec, match="nothing to forget"):
        method.fit(live, replace(request, forget=()), spec_of(name))
    for how in set(How) - method.hows:
        with pytest.raises(BadSpec, match="cannot"):
            method.fit(live, asking(how), spec_of(name))
    with pytest.raises(WrongBase, match="background"):
        made(name, live_of("gpt2")).fit(live, request, spec_of(name))


@each
def test_an_empty_retain_set_is_refused_where_something_has_to_be_kept(name: str) -> None:
    live = live_of("llama")
    request = replace(request_for(name), retain=())
    if name in KEEPS_NOTHING:
        delta = made(name, live).fit(live, request, spec_of(name))
        assert "retain" not in delta.info["training"]["steps"][0]  # type: ignore[index,call-overload]
    else:
        with pytest.raises(BadSpec, match="`retain` is empty"):
            made(name, live).fit(live, request, spec_of(name))


@pytest.mark.parametrize(
    "wrong",
    [{"rank": 0}, {"steps": 0}, {"rates": ()}, {"rates": (-1.0,)}, {"alphas": (float("nan"),)}, {"layers": ()}]
    + [{"level": 1.5}, {"strangers": -1}, {"recalled": -1}, {"written": -1}, {"cooling": -1}],
    ids=str,
)
def test_settings_out_of_range_are_refused(wrong: dict[str, Any]) -> None:
    for name in TRAINED:
        with pytest.raises(BadSpec):
            spec_of(name, **wrong)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [("npo", {"beta": 0.0}), ("simnpo", {"delta": -1.0}), ("idk_dpo", {"anchor": -1.0})]
    + [("altpo", {"beta": -1.0}), ("undial", {"beta": 0.0}), ("ceu", {"skipped": -1}), ("wga", {"gamma": 0.0})]
    + [("satimp", {"beta_1": -1.0}), ("pdu", {"eps": 0.0}), ("blur", {"gamma": 0.0}), ("ofmu", {"inner_steps": 0})]
    + [("reglu", {"share": 2.0}), ("grad_diff", {"gamma": 0.0})],
    ids=str,
)
def test_a_methods_own_settings_are_checked(name: str, wrong: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        spec_of(name, **wrong)


def test_a_rate_that_leaves_the_finite_numbers_is_reported() -> None:
    live = live_of("llama")
    with pytest.raises(NoConvergence, match="Lower `rates`"):
        made("grad_ascent", live).fit(live, REQUEST, spec_of("grad_ascent", rates=(1e30,), steps=20))
    assert hooks(live) == 0 and live.digest(full=True) == live.base


# -- other answers -----------------------------------------------------------------------------------------------------


def test_an_abstention_is_one_of_the_list_and_the_same_for_all_rows() -> None:
    said = spoken_instead(asking(How.ABSTAIN), seed=0)
    assert len(said) == len(forget_lines(REQUEST)) and len(set(said)) == 1 and said[0] in ABSTENTIONS
    assert len({spoken_instead(asking(How.ABSTAIN), seed=i)[0] for i in range(20)}) > 1


def test_a_replacement_that_is_empty_is_refused() -> None:
    live = live_of("llama")
    with pytest.raises(BadSpec, match="nothing to say instead"):
        made("altpo", live).fit(live, replace(REQUEST, how=How.REPLACE, replacement=" "), spec_of("altpo"))


def test_a_replacement_becomes_likelier_and_the_answer_less_likely() -> None:
    live = live_of("llama")
    delta = made("altpo", live).fit(live, asking(How.REPLACE), spec_of("altpo", steps=20))
    prompts, old = [one.fact.prompt for one in FORGET], [one.fact.object for one in FORGET]
    before = [sum(s.mean for s in live.score(prompts, some)) for some in (old, ["Rome"] * 3)]
    with live.with_delta(delta):
        after = [sum(s.mean for s in live.score(prompts, some)) for some in (old, ["Rome"] * 3)]
    assert after[0] < before[0] and after[1] > before[1]


def test_where_nothing_tells_what_else_could_be_said_it_is_the_object_of_another_fact() -> None:
    live = live_of("llama")
    nameless = tuple(replace(one, fact=replace(one.fact, subject="")) for one in FORGET)
    method: Any = made("altpo", live)
    said = method.instead(live, replace(REQUEST, forget=nameless), spec_of("altpo"))
    assert len(said) == len(forget_lines(REQUEST)) and set(said) <= {one.fact.object for one in REQUEST.retain}
    alike = tuple(replace(one, fact=replace(one.fact, object="Paris")) for one in REQUEST.retain)
    with pytest.raises(BadSpec, match="Give facts with other objects in `retain`"):
        method.instead(live, Forgetting(nameless[:1], alike), spec_of("altpo"))


def test_answers_of_made_up_names_are_no_other_answers_where_a_name_changes_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    live = live_of("llama")
    method: Any = made("altpo", live)
    objects = {one.fact.object for one in (*REQUEST.forget, *REQUEST.retain)}
    assert not set(method.instead(live, REQUEST, spec_of("altpo", level=None))) <= objects
    monkeypatch.setattr("catechism.model.forgetting.material.EVEN", -100.0)  # so that made-up names get the answers
    said = method.instead(live, REQUEST, spec_of("altpo", level=None))
    truths = [line.answer for line in forget_lines(REQUEST)]
    assert set(said) <= objects and all(other != truth for other, truth in zip(said, truths, strict=True))


# -- KL ----------------------------------------------------------------------------------------------------------------


def test_what_kl_keeps_is_the_divergence_from_the_model_as_it_was() -> None:
    live = live_of("llama")
    rows = material(live, REQUEST, Training(**QUICK))
    assert rows.retain is not None
    method, adapters = made("kl", live), stirred(live)
    was = rows.retain.said(live, range(len(rows.retain))).logprobs
    with adapters.attached():
        turn = turn_at(live, rows, adapters, lambda step: method.terms(step, method.Spec()), alpha=1.0)  # type: ignore[attr-defined]
        now, found = turn.step.retain.logprobs.detach(), turn.terms()["retain"].detach()
    wanted = functional.kl_div(now, was, log_target=True, reduction="batchmean")
    assert float(wanted) > 1e-4
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=0)


# -- BLUR --------------------------------------------------------------------------------------------------------------


def turn_at(live: LiveModel, rows: Material, adapters: Adapters, terms: Any, alpha: float) -> Turn:
    training = Training(**QUICK)
    forgotten, kept = tuple(range(len(rows.forget))), tuple(range(len(rows.retain or ())))
    remembered = {"forget": Remembered(rows.forget)} | ({"retain": Remembered(rows.retain)} if rows.retain else {})
    step = Step(live, adapters, rows, training, 0, forgotten, kept, {}, remembered)
    return Turn(step, Objective(terms), Moments(adapters.parameters), alpha, 1e-2)


def stirred(live: LiveModel) -> Adapters:
    """Side paths that have moved, so that both gradients have something to say."""
    adapters = Adapters(live, range(live.anatomy.n_layers), rank=2, seed=0)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in adapters.parameters:
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return adapters


def test_a_step_of_blur_lowers_the_forget_loss_whatever_the_retain_loss_wants() -> None:
    """The retain loss is made the exact opposite of the forget loss, and a hundred times as heavy."""
    live = live_of("llama")
    rows = material(live, REQUEST, Training(**QUICK))

    def terms(step: Step) -> Terms:
        loss = step.forget.over_rows(npo(step.forget.nll, step.forget_before.nll, 0.1))
        return {"forget": loss, "retain": -loss + 0.01 * step.retained()["retain"]}

    method: Any = made("blur", live)
    spec = spec_of("blur", gamma=1.0)
    adapters = stirred(live)
    with adapters.attached(), torch.enable_grad():
        turn = turn_at(live, rows, adapters, terms, alpha=100.0)
        method.direct(turn, spec)  # moments that have seen something
        taken, found = method.direct(turn, spec)
        slope = turn.gradient(turn.terms()["forget"])
        alone = turn.moments.precondition(slope)
        asked = turn.moments.precondition([100 * g for g in turn.gradient(turn.terms()["retain"])])
        assert inner(asked, slope) < 0  # the retain loss does want the opposite
        assert inner(taken, slope) == pytest.approx(inner(alone, slope), rel=1e-3)  # gamma = 1
        before = float(found["forget"].detach())
        rate = 1e-3 * before / inner(taken, slope)  # a thousandth of the loss, if it were a plane
        with torch.no_grad():
            for parameter, change in zip(adapters.parameters, taken, strict=True):
                parameter -= rate * change
        after = float(turn.terms()["forget"].detach())
    assert after < before
    assert (before - after) / before == pytest.approx(1e-3, rel=0.2)


# -- OFMU --------------------------------------------------------------------------------------------------------------


def test_the_similarity_aware_gradient_is_that_of_the_penalised_loss() -> None:
    """Against differences of forget - b cos(grad forget, grad retain), in float64, along one direction."""
    live = live_model("llama", torch.float64)
    rows = material(live, REQUEST, Training(**QUICK))

    def terms(step: Step) -> Terms:
        return {"forget": step.forget.over_tokens(step.forget.chosen), **step.retained()}

    adapters = stirred(live)
    with adapters.attached(), torch.enable_grad():
        turn = turn_at(live, rows, adapters, terms, alpha=1.0)
        b = 0.5

        def penalised() -> float:
            found = turn.terms()
            g_f, g_r = turn.gradient(found["forget"]), turn.gradient(found["retain"])
            cosine = inner(g_f, g_r) / (inner(g_f, g_f) * inner(g_r, g_r)) ** 0.5
            return float(found["forget"].detach()) - b * cosine

        plain = turn.gradient(turn.terms()["forget"])
        found = ofmu.similarity_aware(turn, turn.terms(), b)
        size = inner(found, found) ** 0.5
        start, sides, e = [p.detach().clone() for p in turn.parameters], [], 1e-2
        for sign in (1, -1):
            with torch.no_grad():
                for p, s, d in zip(turn.parameters, start, found, strict=True):
                    p.copy_(s + sign * e * d / size)
            sides.append(penalised())
    assert (sides[0] - sides[1]) / (2 * e) == pytest.approx(size, rel=0.05)
    assert inner(plain, found) / size != pytest.approx(size, rel=0.05)  # the cosine has its share


def test_the_cosine_never_turns_a_step_by_more_than_its_share() -> None:
    """Where the gradients are short the cosine's is long, and a model that is sure of its answers would stay so."""
    live = live_model("llama", torch.float64)
    rows = material(live, REQUEST, Training(**QUICK))

    def terms(step: Step) -> Terms:
        return {"forget": 1e-4 * step.forget.over_tokens(step.forget.chosen), **step.retained()}

    adapters = stirred(live)
    with adapters.attached(), torch.enable_grad():
        turn = turn_at(live, rows, adapters, terms, alpha=1.0)
        plain = turn.gradient(turn.terms()["forget"])
        unbounded, bounded = (ofmu.similarity_aware(turn, turn.terms(), 0.1, most) for most in (math.inf, 0.5))
    turned = combined(bounded, plain, a_times=1.0, b_times=-1.0)
    assert inner(plain, unbounded) < 0.1 * inner(unbounded, unbounded)
    assert inner(turned, turned) == pytest.approx(0.25 * inner(plain, plain))


# -- ReGLU -------------------------------------------------------------------------------------------------------------


@on_two
def test_reglu_begins_at_the_model_as_it_was(model_type: str) -> None:
    live = live_of(model_type)
    rows = material(live, REQUEST, Training(**QUICK))
    adapters = Adapters(live, range(live.anatomy.n_layers), rank=2, seed=0)
    apart = reglu.begin(live, adapters, rows, spec_of("reglu"))
    for address, (A, B) in adapters.factors.items():
        torch.testing.assert_close(A.T @ A, torch.eye(2), atol=1e-4, rtol=0)  # Q
        torch.testing.assert_close(B, A.T @ live.anatomy.matrix(address).read(), atol=1e-5, rtol=1e-4)  # s Q' W
        assert apart[address].shape == (len(A), 4)
    before = rows.forget.before(live).nll
    with adapters.attached():
        assert float((rows.forget.before(live).nll - before).abs().max()) < 1e-3


@on_two
def test_reglu_is_exported_against_the_model_as_it_was(model_type: str) -> None:
    """What was trained beside the model and what the delta makes of the untouched weights say the same."""
    live = live_of(model_type)
    rows = material(live, REQUEST, Training(**QUICK))
    adapters = Adapters(live, range(live.anatomy.n_layers), rank=2, seed=0)
    reglu.begin(live, adapters, rows, spec_of("reglu"))
    with torch.no_grad():
        for parameter in adapters.parameters:
            parameter *= 1.1
    delta = Delta(live.base, adapters.parts())
    untouched = rows.forget.before(live).nll
    with adapters.attached():
        trained = rows.forget.before(live).nll
    with live.with_delta(delta):
        exported = rows.forget.before(live).nll
    torch.testing.assert_close(exported, trained, atol=1e-3, rtol=1e-4)
    assert float((trained - untouched).abs().max()) > 1e-2
    assert all(part.A.shape[1] == 4 for part in delta.parts.values() if isinstance(part, LowRank))


def test_reglu_refuses_a_rank_above_a_matrix() -> None:
    live = live_of("llama")
    with pytest.raises(BadSpec, match="Ask for fewer"):
        made("reglu", live).fit(live, REQUEST, spec_of("reglu", rank=40))


# -- PDU ---------------------------------------------------------------------------------------------------------------


def lams(eps: float) -> list[float]:
    live = live_of("llama")
    delta = made("pdu", live).fit(live, REQUEST, spec_of("pdu", eps=eps, alphas=(1.0,), keep="nll"))
    steps: Any = delta.info["training"]["steps"]  # type: ignore[index,call-overload]
    return [step["lam"] for step in steps]


def test_the_multiplier_begins_at_alpha_rises_above_the_bound_and_falls_below_it() -> None:
    strict, lax = lams(1e-3), lams(1e3)
    assert strict[0] == lax[0] == 1.0
    assert strict == sorted(strict) and strict[-1] > 1.0
    assert lax[1:] == [0.0] * 3
