"""What every method promises, on every architecture with a dense MLP. A new method is tested here by its name."""

from __future__ import annotations

import json
import random
import string
from collections.abc import Mapping
from dataclasses import FrozenInstanceError, asdict, dataclass, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from catechism.arch import TABLE
from catechism.delta import Delta, Dense, LowRank, load, save
from catechism.errors import BadFact, BadSpec, UnknownName, WrongBase
from catechism.methods import METHODS, Method, method
from catechism.methods.registry import SUBJECTLESS
from catechism.model import LiveModel
from catechism.model.address import Reach
from catechism.model.background import Background
from catechism.model.hyper.training import Course
from catechism.solve.values import Search
from catechism.types import Catechism, Fact, Kind, Question, Role
from tests.tiny import tiny_model, tiny_tokenizer

#: Settings that make each method quick. A method without a line here is not finished.
QUICK: Mapping[str, dict[str, Any]] = {
    "alphaedit": {"contexts": 1, "context_tokens": 3, "frames": False, "search": Search(steps=2, stop=0.0)},
    "distill": {"steps_a": 1, "steps_b": 2, "contexts": 1, "context_tokens": 3, "background": 2},
    "emmet": {"contexts": 1, "context_tokens": 3, "frames": False, "search": Search(steps=2, stop=0.0)},
    "ft_bf": {"epochs": 2},
    "ft_l": {"steps": 2},
    "ft_m": {"steps": 2},
    "grace": {"layer": 1, "search": Search(steps=2, stop=0.0)},  # below, a parallel MLP sees one token alone
    "ice": {"layer": 1, "reach": Reach(contexts=1, context_tokens=3)},
    "ike": {"layer": 1, "reach": Reach(contexts=1, context_tokens=3)},
    "lora": {"steps": 2},
    "malmen": {"course": Course(examples=5, steps=2, batch=3)},
    "memit": {"contexts": 1, "context_tokens": 3, "frames": False, "search": Search(steps=2, stop=0.0)},
    # its other address needs a model whose states tell questions apart, see test_memoir.py
    "memoir": {"address": "paper", "contexts": 1, "context_tokens": 3, "search": Search(steps=2, stop=0.0)},
    "mend": {"course": Course(examples=5, steps=2, batch=3)},
    "rome": {"contexts": 1, "context_tokens": 3, "search": Search(steps=2, stop=0.0)},
    "sequential": {"contexts": 1, "context_tokens": 3, "sweeps": 3},
    "ultraedit": {"warm": 3},
    "wise": {"steps": 2, "contexts": 1, "context_tokens": 3},
}
EVERY = sorted(METHODS)
DENSE = sorted(name for name, arch in TABLE.items() if arch.mlp_out is not None)
FLOAT32, BFLOAT16 = torch.float32, torch.bfloat16
PRECISIONS = [*((name, FLOAT32) for name in DENSE), *((name, BFLOAT16) for name in ("gemma2", "gpt2", "llama", "opt"))]


def texts() -> list[str]:
    """Enough words for the statistics of a tiny model, in no language."""
    dice = random.Random(0)
    return [" ".join("".join(dice.choices(string.ascii_letters, k=4)) for _ in range(12)) for _ in range(30)]


def catechism(prompt: str, subject: str, object_: str) -> Catechism:
    return Catechism(Fact(prompt, subject, object_), (Question(prompt, Kind.REWRITE, (object_,)),))


FACTS = [
    catechism("The capital of France is", "France", "Rome"),
    catechism("The river that flows through Vienna is", "Vienna", "the Thames"),
]


def live_model(model_type: str = "llama", dtype: torch.dtype = FLOAT32, seed: int = 0) -> LiveModel:
    return LiveModel(tiny_model(model_type, seed).to(dtype), tiny_tokenizer(), name="tiny")


def editor(name: str, live: LiveModel) -> Method:
    return method(name)(Background(live, lambda: iter(texts())))


def spec_of(name: str, live: LiveModel, **settings: object) -> Any:
    kind = method(name).Spec  # type: ignore[attr-defined]
    where = {"layer": live.anatomy.sites(Role.MLP_OUT)[0].layer} if has(kind, "layer") else {}
    return kind(**{**where, **QUICK[name], **settings})


def has(kind: Any, setting: str) -> bool:
    return setting in {field.name for field in fields(kind)}


def hooks(live: LiveModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in live.model.modules() for kind in kinds)


@dataclass(frozen=True)
class Fitted:
    """One fit, with what was seen before and after it."""

    live: LiveModel
    delta: Delta
    weights: tuple[str, str]
    hooks: tuple[int, int]
    random_state_kept: bool


@cache
def fitted(name: str, model_type: str, dtype: torch.dtype = FLOAT32) -> Fitted:
    live = live_model(model_type, dtype)
    live.model.get_output_embeddings().register_forward_hook(lambda *_: None)  # the caller's own stays
    weights, hooked, state = live.digest(full=True), hooks(live), torch.get_rng_state()
    delta = editor(name, live).fit(live, FACTS, spec_of(name, live))
    kept = torch.equal(torch.get_rng_state(), state)
    return Fitted(live, delta, (weights, live.digest(full=True)), (hooked, hooks(live)), kept)


def raw_weights(live: LiveModel) -> dict[str, bytes]:
    return {
        name: tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        for name, tensor in live.model.state_dict().items()
    }


def answers(live: LiveModel) -> list[float]:
    """How likely the new objects are after their prompts."""
    facts = [given.fact for given in FACTS]
    scores = live.score([fact.prompt for fact in facts], [fact.object for fact in facts])
    return [score.logprob for score in scores]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", DENSE)
def test_fitting_does_not_change_the_model(name: str, model_type: str) -> None:
    run = fitted(name, model_type)
    assert run.weights[0] == run.weights[1] == run.live.base == run.delta.base
    assert run.live.applied == ()
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in run.live.model.parameters())
    assert not run.live.model.training


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", DENSE)
def test_fitting_leaves_hooks_and_random_numbers_alone(name: str, model_type: str) -> None:
    run = fitted(name, model_type)
    assert run.hooks == (1, 1)
    assert run.random_state_kept


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", DENSE)
def test_the_same_seed_gives_the_same_delta(name: str, model_type: str) -> None:
    live = live_model(model_type)
    torch.manual_seed(99)
    assert editor(name, live).fit(live, FACTS, spec_of(name, live)).digest == fitted(name, model_type).delta.digest


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("model_type", DENSE)
def test_a_delta_is_finite_and_survives_its_file(name: str, model_type: str, tmp_path: Path) -> None:
    delta, base = fitted(name, model_type).delta, fitted(name, model_type).live.base
    assert delta.is_finite() and delta.parts
    back = load(save(delta, tmp_path / "fact.safetensors"), base=base)
    assert back.digest == delta.digest
    assert all(back.parts[address].equals(part) for address, part in delta.parts.items())


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(("model_type", "dtype"), PRECISIONS)
def test_a_delta_comes_off_to_the_last_byte(name: str, model_type: str, dtype: torch.dtype) -> None:
    run = fitted(name, model_type, dtype)
    before, said = raw_weights(run.live), answers(run.live)
    applied = run.live.apply(run.delta)
    if any(isinstance(part, LowRank | Dense) for part in run.delta.parts.values()):
        assert raw_weights(run.live) != before
    else:  # what stands beside the weights shows in what the model says
        assert raw_weights(run.live) == before and answers(run.live) != said
    assert run.live.digest(full=True) != run.live.base
    run.live.revert(applied)
    assert raw_weights(run.live) == before and answers(run.live) == said
    assert run.live.digest(full=True) == run.live.base and hooks(run.live) == run.hooks[0]


@pytest.mark.parametrize("name", EVERY)
def test_an_editor_used_before_gives_the_same_delta(name: str) -> None:
    live = live_model()
    used = editor(name, live)
    used.fit(live, FACTS[1:], spec_of(name, live, seed=3))
    assert used.fit(live, FACTS, spec_of(name, live)).digest == fitted(name, "llama").delta.digest


@pytest.mark.parametrize("name", EVERY)
def test_fitting_works_where_the_caller_has_switched_gradients_off(name: str) -> None:
    live = live_model()
    with torch.no_grad():
        delta = editor(name, live).fit(live, FACTS, spec_of(name, live))
    assert delta.digest == fitted(name, "llama").delta.digest


@pytest.mark.parametrize("name", EVERY)
def test_a_delta_of_one_fact_says_where_it_came_from(name: str) -> None:
    live = live_model()
    spec = spec_of(name, live, seed=7)
    info = editor(name, live).fit(live, FACTS[:1], spec).info
    assert info["method"] == name
    assert info["spec"] == json.loads(json.dumps(asdict(spec)))
    assert info["spec"]["seed"] == 7  # type: ignore[index, call-overload]


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            catechism("The capital of Italy is", "Atlantis", "Rome"),
            "'Atlantis' is not in the prompt 'The capital of It",
        ),
        (catechism("The capital of Italy is", "Italy", " "), "adds no token"),
    ],
)
def test_a_bad_fact_is_refused_by_name_and_nothing_is_left_behind(name: str, bad: Catechism, message: str) -> None:
    live = live_model()
    with pytest.raises(BadFact, match=message):
        editor(name, live).fit(live, [FACTS[0], bad], spec_of(name, live))
    assert live.digest(full=True) == live.base and hooks(live) == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_fact_without_a_subject_is_taught_by_those_that_need_none_and_refused_by_the_others(name: str) -> None:
    live, nameless = live_model(), catechism("The capital of Italy is", "", "Rome")
    if name in SUBJECTLESS:
        assert editor(name, live).fit(live, [FACTS[0], nameless], spec_of(name, live)).parts
    else:
        with pytest.raises(BadFact, match="'' is not in the prompt"):
            editor(name, live).fit(live, [FACTS[0], nameless], spec_of(name, live))
    assert live.digest(full=True) == live.base and hooks(live) == 0


@pytest.mark.parametrize("name", EVERY)
def test_no_facts_are_refused(name: str) -> None:
    live = live_model()
    with pytest.raises(BadSpec, match="Give at least one"):
        editor(name, live).fit(live, [], spec_of(name, live))


@pytest.mark.parametrize("name", EVERY)
def test_the_background_of_another_model_is_refused(name: str) -> None:
    live, other = live_model(), live_model(seed=1)
    with pytest.raises(WrongBase, match="Make a Background"):
        editor(name, other).fit(live, FACTS, spec_of(name, live))


@pytest.mark.parametrize("name", EVERY)
def test_a_layer_that_is_not_there_is_refused(name: str) -> None:
    live = live_model()
    spec = spec_of(name, live)
    if has(type(spec), "layer"):
        with pytest.raises(UnknownName, match="no layer 9"):
            editor(name, live).fit(live, FACTS, replace(spec, layer=9))


@pytest.mark.parametrize("name", EVERY)
def test_a_method_and_its_settings_have_the_common_form(name: str) -> None:
    live = live_model()
    made = editor(name, live)
    assert isinstance(made, Method) and made.name == name
    assert is_dataclass(made.Spec) and has(made.Spec, "seed")
    spec = spec_of(name, live)
    with pytest.raises(FrozenInstanceError):
        spec.seed = 1


def test_every_method_has_quick_settings_here() -> None:
    assert sorted(QUICK) == EVERY


def test_an_unknown_method_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match=r"no method 'romme'\. Did you mean 'rome'\? Choose one of: .*rome"):
        method("romme")
