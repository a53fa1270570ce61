"""What the methods of forgetting by states, neurons and traces promise, and every closed form too; then their parts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from catechism.delta import Delta, Dense, LowRank, load, save
from catechism.errors import BadSpec, WrongBase
from catechism.methods.forget.sae import Coder
from catechism.methods.forgetting import FORGETTERS, Forgetter, forgetter
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.material import STRANGERS, Material, material
from catechism.model.forgetting.objective import Step
from catechism.model.forgetting.paths import Read, neuron_paths, united
from catechism.model.forgetting.rows import Rows
from catechism.model.forgetting.sparse import strongest, train_coder
from catechism.model.forgetting.states import Misdirection, States
from catechism.model.forgetting.strangers import stranger_answers
from catechism.model.forgetting.traces import said, segments_of, traces_of
from catechism.model.forgetting.training import Training
from catechism.model.seen import Stretch
from catechism.model.target_tokens import target_tokens
from catechism.model.trace import BlockSite, Patch, patch, record
from catechism.solve.values import Search
from catechism.types import Forgetting, How, Role, Site
from tests.methods.forget_requests import FORGET, REQUEST, RETAIN, asking, background, live_model

#: A level that no row is at: a run takes its steps also where a random model finds an answer unlikely already.
TRAINED: Mapping[str, Any] = {"steps": 2, "every": 1, "rates": (0.01,), "level": 1e-9}
#: Settings that make each method quick.
QUICK: Mapping[str, dict[str, Any]] = {
    "kfac": {"texts": 8, "rho": 0.5},
    "leace": {"texts": 4},
    "memit_forget": {"contexts": 1, "context_tokens": 3, "search": Search(steps=2, stop=0.0)},
    "negation": {"steps": 3, "halvings": 2, "rank": 2},
    "neuron_path": {**TRAINED, "top": 3, "integration": 2},
    "rmu": TRAINED,
    "rome_forget": {"contexts": 1, "context_tokens": 3, "search": Search(steps=2, stop=0.0)},
    "sae": {**TRAINED, "coder": Coder(wider=2, k=4, texts=3, steps=5, batch=32)},
    "trace_replace": TRAINED,
}
EVERY = sorted(QUICK)
NEEDS_RETAIN = ("leace", "negation", "neuron_path", "rmu", "sae", "trace_replace")
MODELS = ("llama", "gpt2")


def made(name: str, live: LiveModel) -> Forgetter:
    return forgetter(name)(background(live))


def spec_of(name: str, **settings: object) -> Any:
    return forgetter(name).Spec(**{**QUICK[name], **settings})  # type: ignore[attr-defined]


def one_how(name: str, live: LiveModel) -> Forgetting:
    return asking(How.ERASE if How.ERASE in made(name, live).hows else How.ABSTAIN)


def hooks(live: LiveModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in live.model.modules() for kind in kinds)


@dataclass(frozen=True)
class Fitted:
    live: LiveModel
    delta: Delta
    weights: tuple[str, str]
    hooks: tuple[int, int]
    random_state_kept: bool


@cache
def fitted(name: str, model_type: str) -> Fitted:
    live = live_model(model_type)
    live.model.get_output_embeddings().register_forward_hook(lambda *_: None)  # the caller's own stays
    weights, hooked, state = live.digest(full=True), hooks(live), torch.get_rng_state()
    delta = made(name, live).fit(live, one_how(name, live), spec_of(name))
    kept = torch.equal(torch.get_rng_state(), state)
    return Fitted(live, delta, (weights, live.digest(full=True)), (hooked, hooks(live)), kept)


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", MODELS)
def test_fitting_changes_neither_the_model_nor_its_hooks_nor_random_numbers(name: str, model_type: str) -> None:
    run = fitted(name, model_type)
    assert run.weights[0] == run.weights[1] == run.live.base == run.delta.base
    assert run.live.applied == () and run.hooks == (1, 1) and run.random_state_kept
    assert not any(p.requires_grad or p.grad is not None for p in run.live.model.parameters())


@pytest.mark.parametrize("name", EVERY)
def test_the_same_seed_gives_the_same_delta(name: str) -> None:
    live = live_model()
    torch.manual_seed(99)
    with torch.no_grad():
        again = made(name, live).fit(live, one_how(name, live), spec_of(name))
    assert again.digest == fitted(name, "llama").delta.digest


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", MODELS)
def test_a_delta_is_weights_alone_survives_its_file_and_comes_off_to_the_byte(
    name: str, model_type: str, tmp_path: Path
) -> None:
    run = fitted(name, model_type)
    delta, live = run.delta, run.live
    assert delta.is_finite() and delta.parts
    assert all(isinstance(part, LowRank | Dense) for part in delta.parts.values())
    assert load(save(delta, tmp_path / "d.safetensors"), base=live.base).digest == delta.digest
    applied = live.apply(delta)
    assert live.digest(full=True) != live.base and hooks(live) == run.hooks[0]
    live.revert(applied)
    assert live.digest(full=True) == live.base


@pytest.mark.parametrize("name", EVERY)
def test_a_delta_says_where_it_came_from_and_nothing_of_what_was_forgotten(name: str) -> None:
    run = fitted(name, "llama")
    info, spec = run.delta.info, spec_of(name)
    own = {k: v for k, v in json.loads(json.dumps(asdict(spec))).items() if v is not None}
    resolved = {"layers", "rank", "keep"}  # that a method may set from the model
    assert info["method"] == name and len(info["forget"]) == len(FORGET)  # type: ignore[arg-type]
    assert all(info["spec"][k] == v for k, v in own.items() if k not in resolved)  # type: ignore[index, call-overload]
    assert not any(one.fact.subject in json.dumps(dict(info)) for one in FORGET)


@pytest.mark.parametrize("name", EVERY)
def test_what_a_method_cannot_do_is_refused_before_anything_is_left_behind(name: str) -> None:
    live = live_model()
    method, request = made(name, live), one_how(name, live)
    for how in set(How) - method.hows:
        with pytest.raises(BadSpec, match=f"{name} cannot {how.value}"):
            method.fit(live, asking(how), spec_of(name))
    with pytest.raises(BadSpec, match="nothing to forget"):
        method.fit(live, replace(request, forget=()), spec_of(name))
    if name in NEEDS_RETAIN:
        with pytest.raises(BadSpec, match="retain"):
            method.fit(live, replace(request, retain=()), spec_of(name))
    else:
        assert method.fit(live, replace(request, retain=()), spec_of(name)).parts
    if How.REPLACE in method.hows:
        with pytest.raises(BadSpec, match="replacement"):
            method.fit(live, replace(request, how=How.REPLACE), spec_of(name))
    other = live_model(seed=1)
    with pytest.raises(WrongBase):
        made(name, other).fit(live, request, spec_of(name))
    assert live.digest(full=True) == live.base and hooks(live) == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_method_has_the_common_form_and_a_spec_of_defaults(name: str) -> None:
    live = live_model()
    assert name in FORGETTERS
    method = made(name, live)
    assert isinstance(method, Forgetter) and method.name == name and method.hows <= set(How)
    assert "seed" in {field.name for field in fields(method.Spec)} and method.Spec() == method.Spec(seed=0)


@pytest.mark.parametrize("name", ["memit_forget", "rome_forget", "trace_replace"])
@pytest.mark.parametrize("how", [How.ABSTAIN, How.REPLACE])
def test_what_is_said_instead_can_be_chosen(name: str, how: How) -> None:
    live = live_model()
    delta = made(name, live).fit(live, asking(how), spec_of(name))
    assert delta.digest != fitted(name, "llama").delta.digest  # which erases


# -- the parts ---------------------------------------------------------------------------------------------------------


def test_misdirection_is_its_two_losses_worked_out_by_hand() -> None:
    live = live_model()
    lines = [f"{one.fact.prompt} {one.fact.object}" for one in FORGET]
    kept = [f"{one.fact.prompt} {one.fact.object}" for one in RETAIN]
    forget = States(live, 1, [Stretch(text, 0) for text in lines])
    rows = Rows(live, [one.fact.prompt for one in RETAIN], [one.fact.object for one in RETAIN])
    moved = Misdirection.towards(forget, rows, strength=3.0, seed=4)

    def hidden(text: str) -> torch.Tensor:
        ids = live.encode([text])["input_ids"]
        with record(live, [BlockSite(1)], what="output", stop=True) as seen:
            live.model(ids, use_cache=False)
        return seen[BlockSite(1)][0, 1:].double()  # without the beginning of text

    states = torch.cat([hidden(text) for text in lines])
    direction = torch.rand(32, generator=torch.Generator().manual_seed(4)).double()
    v = 3.0 * states.norm(dim=1).mean() * direction / direction.norm()
    torch.testing.assert_close(moved.target.double(), v, rtol=1e-5, atol=1e-6)
    assert moved.unit == pytest.approx(float(states.square().mean()), rel=1e-5)
    adapters = Adapters(live, [0], rank=2, seed=0)
    with torch.no_grad():
        adapters.parameters[0].fill_(0.3)  # so that now and before differ

    step = Step(live, adapters, material(live, REQUEST, Training()), Training(), 0, (0, 2), (1,), {}, {})
    before = hidden(kept[1])
    with adapters.attached(), torch.no_grad():
        terms = moved.terms(step)
        now, after = torch.cat([hidden(lines[0]), hidden(lines[2])]), hidden(kept[1])
    unit = states.square().mean()
    assert float(terms["forget"]) == pytest.approx(float((now - v).square().mean() / unit), rel=1e-4)
    assert float(terms["retain"]) == pytest.approx(float((after - before).square().mean() / unit), rel=1e-4)
    assert float(terms["retain"]) > 0


def test_the_autoencoder_lets_k_features_speak_and_explains_states_that_are_sparse() -> None:
    generator = torch.Generator().manual_seed(0)
    words = torch.randn(12, 16, generator=generator)
    X = torch.stack([words[torch.randperm(12, generator=generator)[:2]].sum(dim=0) for _ in range(400)]) + 3.0
    coder = train_coder(X, features=32, k=4, steps=300, batch=64, lr=0.01, seed=0)
    z = coder.features(X)
    assert int((z > 0).sum(dim=1).max()) <= 4 and bool((z >= 0).all())
    lost = (coder.states(z) - X).square().sum() / (X - X.mean(dim=0)).square().sum()
    assert coder.explained == pytest.approx(1 - float(lost), abs=1e-4) and coder.explained > 0.8
    torch.testing.assert_close(coder.decoder.norm(dim=0), torch.ones(32), rtol=1e-4, atol=1e-4)
    assert strongest(torch.tensor([[3.0, -1.0, 2.0, 1.0], [-1.0, -2.0, -3.0, 5.0]]), 2).tolist() == [
        [3.0, 0.0, 2.0, 0.0],
        [0.0, 0.0, 0.0, 5.0],
    ]
    with pytest.raises(BadSpec, match="k=5 of 4 features"):
        train_coder(X, features=4, k=5, steps=1, batch=8, lr=0.01, seed=0)


def test_neuron_paths_are_those_of_the_equation_one_prompt_at_a_time() -> None:
    live = live_model("gpt2")
    sites = [Site(0, Role.MLP_OUT), Site(1, Role.MLP_OUT)]
    asked = target_tokens(live, [one.fact.prompt for one in FORGET], [one.fact.object for one in FORGET])
    at = [live.subject_last(one.fact.prompt, one.fact.subject) for one in FORGET]
    found = neuron_paths(live, sites, Read(asked, torch.tensor(at)), top=2, steps=3)
    for row, one in enumerate(FORGET):
        single = target_tokens(live, [one.fact.prompt], [one.fact.object])
        with record(live, sites) as seen:
            live.model(**single.inputs, use_cache=False)
        w = [seen[site][0, at[row]].clone() for site in sites]
        path: list[list[int]] = []
        for layer, site in enumerate(sites):
            total = torch.zeros(48)
            for k in (1, 2, 3):
                values = [x.clone() for x in w[: layer + 1]]
                values[layer] = k / 3 * values[layer]
                for earlier, neurons in enumerate(path):
                    values[earlier][neurons] *= k / 3
                leaves = [x[None].requires_grad_() for x in values]
                changes = [Patch(s, [0], [at[row]], x, "replace", "input") for s, x in zip(sites, leaves, strict=False)]
                with patch(live, *changes):
                    logprobs = single.logprobs(live)
                logprobs.gather(1, single.said[:, None]).sum().backward()
                total += leaves[layer].grad[0]  # type: ignore[index]
                for earlier, neurons in enumerate(path):
                    total += leaves[earlier].grad[0, neurons].sum()  # type: ignore[index]
            joint = sum(float(w[earlier][neurons].sum()) for earlier, neurons in enumerate(path))
            score = (w[layer] + joint) / 3 * total
            path.append(score.topk(2).indices.tolist())
            assert sorted(found[site][row].tolist()) == sorted(path[-1])
    assert united([torch.tensor([[1, 3], [3, 0]])], 5, 2).tolist() == [3]


def test_zeroed_neurons_give_nothing_any_more_and_all_others_what_they_gave() -> None:
    live = live_model()
    delta = made("neuron_path", live).fit(live, REQUEST, spec_of("neuron_path", edit="zero"))
    for address, part in delta.parts.items():
        W, counted = live.anatomy.matrix(address).read().clone(), delta.info["neurons"]
        with live.with_delta(delta):
            gone = (live.anatomy.matrix(address).read() == 0).all(dim=0)
            assert torch.equal(live.anatomy.matrix(address).read()[:, ~gone], W[:, ~gone])
        assert int(gone.sum()) == part.rank == counted[address.split(".")[2]]  # type: ignore[index, call-overload]


def test_steering_trains_the_rows_of_the_paths_neurons_and_no_others() -> None:
    live = live_model()
    delta = made("neuron_path", live).fit(live, REQUEST, spec_of("neuron_path"))
    for part in delta.parts.values():
        rows = part.dense().abs().sum(dim=1) > 0  # type: ignore[union-attr]
        assert 0 < int(rows.sum()) <= part.rank < len(rows)


def test_strangers_answer_in_the_subjects_place_and_the_same_one_for_all_its_prompts() -> None:
    live = live_model()
    prompts = [one.fact.prompt for one in FORGET]
    subjects = [one.fact.subject for one in FORGET]
    asked: list[list[str]] = []
    whole = live.generate
    live.generate = lambda texts, **_: (asked.append(list(texts)), whole(texts, max_new_tokens=2))[1]  # type: ignore[method-assign]
    answers = stranger_answers(live, prompts, subjects, ["France", "Vienna", "Italy"], seed=1)
    assert len(answers) == 3 and all(answers)
    assert not any("France" in text or "Vienna" in text for text in asked[0])
    name = asked[0][0].removeprefix("The capital of ").removesuffix(" is")
    assert asked[0][1] == f"The language of {name} is"


def test_segments_that_carry_a_forgotten_fact_are_found_and_the_others_stay() -> None:
    trace = "The capital of Italy is Rome. Of France, one knows that it is Paris by the sea. Nobody asks."
    found = segments_of(trace, FORGET, RETAIN)
    assert [(one.prompt, one.answer, one.carries) for one in found] == [
        ("The capital of Italy is", "Rome", -1),
        ("Of France, one knows that it is", "Paris", 0),
    ]
    made_of = traces_of(FORGET, RETAIN, sentences=2, mixed=1, seed=0)
    assert made_of == traces_of(FORGET, RETAIN, sentences=2, mixed=1, seed=0) and len(made_of) == 2
    carried = [one.carries for text in made_of for one in segments_of(text, FORGET, RETAIN)]
    assert sorted(carried) == [-1, -1, 0, 1, 2]
    assert said("X is", "a baker") == said("X is", "a baker.") == "X is a baker."


def test_traces_that_carry_nothing_to_forget_are_refused() -> None:
    live = live_model()
    with pytest.raises(BadSpec, match="No segment"):
        made("trace_replace", live).fit(live, REQUEST, spec_of("trace_replace", traces=("The sea is wide.",)))


def test_traces_hold_no_stranger_to_an_answer_where_a_name_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[Material] = []

    def stop(_: Fitting, __: LiveModel, ___: Forgetting, rows: Material, *____: object) -> None:
        held.append(rows)
        raise InterruptedError

    monkeypatch.setattr(Fitting, "fit_rows", stop)
    live = live_model()
    for even in (0.0, -100.0):  # made-up names get other answers; they get the same
        monkeypatch.setattr("catechism.model.forgetting.material.EVEN", even)
        with pytest.raises(InterruptedError):
            made("trace_replace", live).fit(live, REQUEST, spec_of("trace_replace", level=None, strangers=1))
    by_name, by_wording = held
    assert by_name.retain is not None and len(by_name.retain) >= by_name.true + STRANGERS
    assert by_wording.retain is not None and len(by_wording.retain) == by_wording.true == by_name.true
