"""FT-L, FT-M and FT-BF: the loss, the ball and the order of steps, against what is worked out by hand in float64."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from catechism.delta import Dense
from catechism.errors import BadFact, BadSpec, NoConvergence, UnknownName, UsageError
from catechism.methods import method
from catechism.methods.train import ft_bf, ft_l, ft_m
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.target_tokens import Say, TargetTokens, target_tokens
from catechism.model.tuning import TunedMatrix
from catechism.reference import open_model
from catechism.types import Catechism, Fact, Kind, Question, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

OUT = Site(0, Role.MLP_OUT)
SPECS: dict[str, Any] = {
    "ft_l": ft_l.Spec(layer=0),
    "ft_m": ft_m.Spec(layer=0),
    "ft_bf": ft_bf.Spec(layer=0, epochs=8),
}


def catechism(prompt: str, subject: str, object_: str) -> Catechism:
    return Catechism(Fact(prompt, subject, object_), (Question(prompt, Kind.REWRITE, (object_,)),))


FRANCE = catechism("The capital of France is", "France", "Rome")
VIENNA = catechism("The river that flows through Vienna is", "Vienna", "the Thames")
ITALY = catechism("The capital of Italy is", "Italy", "Madrid")


def live_model(model_type: str = "llama", dtype: torch.dtype = torch.float32) -> LiveModel:
    return LiveModel(tiny_model(model_type).to(dtype), tiny_tokenizer(), name="tiny")


def trainer(name: str, live: LiveModel) -> Any:
    return method(name)(Background(live, partial(iter, ["The river is long."])))


def change_of(delta: Any) -> Tensor:
    (part,) = delta.parts.values()
    assert isinstance(part, Dense)
    return part.values


def ids(live: LiveModel, text: str) -> list[int]:
    return list(live.tokenizer(text)["input_ids"])


def nll_by_hand(live: LiveModel, fact: Fact, say: Say) -> float:
    """Each of the object's tokens from the token before it, or all of them from the prompt's last token; float64."""
    prompt, row = ids(live, fact.prompt), ids(live, f"{fact.prompt} {fact.object}")
    logprobs = live.model(torch.tensor([row])).logits[0].log_softmax(dim=-1)
    places = range(len(prompt), len(row))
    return -sum(float(logprobs[len(prompt) - 1 if say == "last" else t - 1, row[t]]) for t in places) / len(places)


@pytest.mark.parametrize("say", ["tokens", "last"])
def test_only_the_objects_tokens_count_and_long_objects_weigh_no_more(say: Say) -> None:
    live = live_model(dtype=torch.float64)
    facts = [FRANCE.fact, VIENNA.fact]
    asked = target_tokens(live, [fact.prompt for fact in facts], [fact.object for fact in facts], say=say)
    assert len(asked.said) > 2, "objects of several tokens"
    by_hand = sum(nll_by_hand(live, fact, say) for fact in facts) / 2
    assert float(asked.nll(live)) == pytest.approx(by_hand, rel=1e-6)


def test_the_loss_of_ft_l_has_a_floor_for_objects_of_several_tokens() -> None:
    live, fact = open_model("almanac"), VIENNA
    delta = trainer("ft_l", live).fit(live, [fact], ft_l.Spec(layer=3, ball=10.0, lr=0.1))
    tokens = target_tokens(live, [fact.fact.prompt], [fact.fact.object]).said
    shares = torch.bincount(tokens)[tokens.unique()] / len(tokens)
    floor = -float((shares * shares.log()).sum())
    assert delta.info["nll"][0] > floor - 1e-3 > 0.6 and delta.info["steps"] == [25]
    masked = trainer("ft_m", live).fit(live, [fact], ft_m.Spec(layer=3, lr=0.1))
    assert masked.info["nll"] < 0.02 and masked.info["steps"][0] < 25


def adam_by_hand(W: Tensor, gradients: Any, lr: float, steps: int, ball: float) -> Tensor:
    """Adam from zero with a clamp after each step, float64."""
    change, first, second = (torch.zeros_like(W) for _ in range(3))
    for step in range(1, steps + 1):
        gradient = gradients(change)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        root = (second / (1 - 0.999**step)).sqrt() + 1e-8
        change = (change - lr * (first / (1 - 0.9**step)) / root).clamp(-ball, ball)
    return change


@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_ft_l_is_adam_with_a_projection_onto_the_ball(model_type: str) -> None:
    live = live_model(model_type, torch.float64)
    matrix = live.anatomy.matrix(OUT)
    W, fact = matrix.read().clone(), ITALY.fact
    scale = float(W.square().mean().sqrt())
    row, start = ids(live, f"{fact.prompt} {fact.object}"), len(ids(live, fact.prompt))

    def gradient(change: Tensor) -> Tensor:
        moved = (W + change).requires_grad_()
        name = matrix.parameter_name
        out = torch.func.functional_call(
            live.model, {name: moved.T if matrix.transposed else moved}, (torch.tensor([row]),)
        )
        loss = functional.cross_entropy(out.logits[0, [start - 1] * (len(row) - start)], torch.tensor(row[start:]))
        return torch.autograd.grad(loss, moved)[0]

    spec = ft_l.Spec(layer=0, lr=0.02, ball=0.05, steps=6, stop=0.0)
    found = change_of(trainer("ft_l", live).fit(live, [ITALY], spec)).double()
    by_hand = adam_by_hand(W, gradient, 0.02 * scale, 6, 0.05 * scale)
    # entries whose gradient is next to nothing have a sign that float32 does not know
    assert float((found - by_hand).norm() / by_hand.norm()) < 1e-2
    assert float(found.abs().max()) == pytest.approx(0.05 * scale, rel=1e-6)
    assert float((found.abs() > 0.0499 * scale).double().mean()) > 0.5, "most entries are at the border"


@pytest.mark.parametrize("ball", [1e-3, 0.03])
def test_no_entry_leaves_the_ball_however_many_facts_there_are(ball: float) -> None:
    live = live_model()
    delta = trainer("ft_l", live).fit(live, [FRANCE, VIENNA, ITALY], ft_l.Spec(layer=0, ball=ball))
    scale = float(live.anatomy.matrix(OUT).read().square().mean().sqrt())
    assert float(change_of(delta).abs().max()) <= ball * scale * (1 + 1e-6)


def test_depth_first_ends_each_fact_before_the_next_and_breadth_first_holds_them_all() -> None:
    live = open_model("almanac")
    facts = [FRANCE, ITALY, catechism("The capital of Spain is", "Spain", "Vienna")]
    one = trainer("ft_m", live).fit(live, [FRANCE], ft_m.Spec(layer=3))
    depth = trainer("ft_m", live).fit(live, facts, ft_m.Spec(layer=3))
    assert depth.info["steps"][0] == one.info["steps"][0], "the second fact is not seen before the first is done"
    breadth = trainer("ft_bf", live).fit(live, facts, ft_bf.Spec(layer=3, lr=0.02, batch=2))
    assert breadth.info["losses"][-1] < 0.01 < depth.info["nll"]
    with live.with_delta(breadth):
        assert [one.text for one in live.generate([fact.fact.prompt for fact in facts])] == [
            "Rome.",
            "Madrid.",
            "Vienna.",
        ]


def test_breadth_first_shuffles_by_its_seed_and_stops_when_all_is_learnt() -> None:
    live = live_model()
    facts = [FRANCE, VIENNA, ITALY]
    spec = ft_bf.Spec(layer=0, batch=1, epochs=3)
    fitted = trainer("ft_bf", live).fit(live, facts, spec)
    assert len(fitted.info["losses"]) == 3
    assert trainer("ft_bf", live).fit(live, facts, replace(spec, seed=1)).parts != fitted.parts
    early = trainer("ft_bf", live).fit(live, facts, replace(spec, stop=100.0))
    assert len(early.info["losses"]) == 1


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize("object_", ["Rome", "x" + " y z" * 30])
def test_objects_of_few_and_of_sixty_tokens_are_learnt(name: str, object_: str) -> None:
    live = live_model()
    fact = replace(FRANCE.fact, object=object_)
    asked = target_tokens(live, [fact.prompt], [fact.object], say="last" if name == "ft_l" else "tokens")
    before = float(asked.nll(live))
    delta = trainer(name, live).fit(live, [Catechism(fact, ())], SPECS[name])
    with live.with_delta(delta):
        assert float(asked.nll(live)) < before
    assert len(asked.said) > (60 if " " in object_ else 0)


@pytest.mark.parametrize("name", sorted(SPECS))
def test_what_cannot_be_taught_is_refused_before_anything_is_computed(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = live_model()
    monkeypatch.setattr(TunedMatrix, "descend", lambda *_, **__: pytest.fail("computed"))
    long = catechism("The capital of France is", "France", "Rome " * 300)
    for bad, error, words in (
        (catechism("The capital of France is", "France", " "), BadFact, "adds no token"),
        (catechism("The capital of France is", "Rome", "Paris"), BadFact, "is not in the prompt"),
        (long, UsageError, "the model takes 256"),
    ):
        with pytest.raises(error, match=words):
            trainer(name, live).fit(live, [ITALY, bad], SPECS[name])


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_mixture_layer_has_no_matrix_to_tune(name: str) -> None:
    live = live_model("mixtral")
    with pytest.raises(UnknownName, match="no mlp_out"):
        trainer(name, live).fit(live, [FRANCE], SPECS[name])


@pytest.mark.parametrize("name", sorted(SPECS))
@pytest.mark.parametrize(
    ("setting", "value"),
    [("lr", 0.0), ("lr", -1.0), ("lr", 2.0), ("lr", math.nan), ("steps", 0), ("epochs", 0), ("batch", 0), ("ball", 0.0)]
    + [("ball", math.inf), ("stop", -1.0), ("stop", math.nan)],
)
def test_settings_out_of_range_are_refused(name: str, setting: str, value: Any) -> None:
    if hasattr(SPECS[name], setting):
        with pytest.raises(BadSpec, match=f"{setting}=.*Use "):
            replace(SPECS[name], **{setting: value})


@pytest.mark.parametrize("name", sorted(SPECS))
def test_a_descent_that_leaves_the_finite_numbers_says_so(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()
    monkeypatch.setattr(TargetTokens, "nll", lambda *_: torch.tensor(math.nan, requires_grad=True))
    with pytest.raises(NoConvergence, match="Lower `lr`"):
        trainer(name, live).fit(live, [FRANCE], SPECS[name])


def test_fine_tuning_teaches_a_trained_model_and_comes_off() -> None:
    live = open_model("almanac")
    fact = catechism("The capital of France is", "France", "Rome")
    for name in ("ft_m", "ft_bf"):
        delta = trainer(name, live).fit(live, [fact], SPECS[name])
        with live.with_delta(delta):
            assert live.generate([fact.fact.prompt])[0].text.startswith("Rome")
        assert live.generate([fact.fact.prompt])[0].text.startswith("Paris")
