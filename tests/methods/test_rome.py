"""ROME against its equations, worked out once more in float64 numpy with plain hooks on one prompt at a time."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from catechism.delta import Delta, LowRank
from catechism.errors import BadSpec, SingularCovariance, UnknownName
from catechism.methods.edit.rome import Rome, Spec
from catechism.model import LiveModel
from catechism.model.background import TOKENS_PER_DIMENSION, Background
from catechism.model.contexts import FRAMES, OPENINGS, sample_texts
from catechism.solve import DAMPING
from catechism.solve.values import Search
from catechism.types import Catechism, Fact, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

FRANCE = Fact("The capital of France is", "France", "Rome and Madrid")
VIENNA = Fact("It is said of Vienna in 1987 that its river is", "Vienna", "the Thames")
FACTS = [Catechism(fact, ()) for fact in (FRANCE, VIENNA)]
SITE = Site(0, Role.MLP_OUT)
MODELS = ("llama", "gpt2", "opt", "gemma2", "phi3")
QUICK = Spec(layer=0, contexts=2, context_tokens=4, search=Search(steps=3, stop=0.0))
#: For models in float64: one context needs no padding, which these cannot take on the left.
EXACT = replace(QUICK, contexts=1)
#: Numbers, no text like another, so that the statistics have full rank.
TEXTS = [" ".join(str((i * j * 7 + i + j * j) % 997) for j in range(1, 20)) for i in range(1, 25)]


def live_model(model_type: str = "llama", *, dtype: torch.dtype = torch.float32) -> LiveModel:
    return LiveModel(tiny_model(model_type).to(dtype), tiny_tokenizer(), name="tiny")


def rome(live: LiveModel) -> Rome:
    return Rome(Background(live, partial(iter, TEXTS)))


def factors(delta: Delta) -> tuple[np.ndarray, np.ndarray]:
    """Column A (d_out,) and row B (d_in,) of a rank-one delta, float64."""
    ((_, part),) = delta.parts.items()
    assert isinstance(part, LowRank) and part.rank == 1
    return part.A[:, 0].double().numpy(), part.B[0].double().numpy()


def contexts(live: LiveModel, spec: Spec) -> list[str]:
    """The texts in front of the prompt: the model's own words, ended by a full stop."""
    texts = sample_texts(live, list(OPENINGS[: spec.contexts]), tokens=spec.context_tokens, seed=spec.seed)
    return [text if text.endswith(".") else text + "." for text in texts]


def prompts_of(live: LiveModel, fact: Fact, spec: Spec) -> list[str]:
    return [fact.prompt, *(f"{context} {fact.prompt}" for context in contexts(live, spec))]


def plain_keys(live: LiveModel, text: str) -> np.ndarray:
    """Inputs of the site at every token of one text, (t, d_in)."""
    seen: list[Tensor] = []
    handle = live.anatomy.module(SITE).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    ids = live.tokenizer(text)["input_ids"]
    with torch.no_grad():
        live.model(torch.tensor([ids]))
    handle.remove()
    return seen[0].reshape(len(ids), -1).double().numpy()


def last_of(live: LiveModel, text: str, subject: str) -> int:
    """Position of the subject's last token; what follows a subject is a word or a mark of its own in these texts."""
    return len(live.tokenizer(text[: text.rindex(subject) + len(subject)])["input_ids"]) - 1


def key_of(live: LiveModel, text: str, subject: str) -> np.ndarray:
    return plain_keys(live, text)[last_of(live, text, subject)]


def covariance(live: LiveModel) -> np.ndarray:
    keys = np.concatenate([plain_keys(live, text)[1:] for text in TEXTS])  # without the beginning-of-text
    keys = keys[: TOKENS_PER_DIMENSION * keys.shape[1]]
    C = keys.T @ keys / len(keys)
    return C + DAMPING * C.diagonal().mean() * np.eye(len(C))


@pytest.mark.parametrize("frames", [True, False])
@pytest.mark.parametrize("model_type", MODELS)
def test_the_update_is_the_papers_second_equation(model_type: str, frames: bool) -> None:
    live, spec = live_model(model_type, dtype=torch.float64), replace(EXACT, frames=frames)
    delta = rome(live).fit(live, FACTS[:1], spec)
    texts = prompts_of(live, FRANCE, spec) + ([frame.format("France") for frame in FRAMES] if frames else [])
    key = np.mean([key_of(live, text, "France") for text in texts], axis=0)
    u = np.linalg.solve(covariance(live), key)
    value, reader = factors(delta)
    assert list(delta.parts) == [live.anatomy.matrix(SITE).address]
    np.testing.assert_allclose(reader, u / (u @ key), rtol=1e-4, atol=1e-6)
    # W' k* = v*: the edited matrix gives the value that was searched
    W = live.anatomy.matrix(SITE).read().numpy().copy()
    with live.with_delta(delta):
        edited = live.anatomy.matrix(SITE).read().numpy().copy()
    np.testing.assert_allclose(edited @ key, W @ key + value, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(edited - W, np.outer(value, u) / (u @ key), rtol=1e-4, atol=1e-5)
    assert np.linalg.matrix_rank(edited - W, tol=1e-6 * np.linalg.norm(edited - W)) == 1


def test_the_original_key_divides_by_the_bare_prompts_key() -> None:
    live, spec = live_model(dtype=torch.float64), replace(EXACT, key="original", frames=False)
    value, reader = factors(rome(live).fit(live, FACTS[:1], spec))
    bare = key_of(live, FRANCE.prompt, "France")
    mean = np.mean([key_of(live, text, "France") for text in prompts_of(live, FRANCE, spec)], axis=0)
    u = np.linalg.solve(covariance(live), mean)
    np.testing.assert_allclose(reader, u / (u @ bare), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.outer(value, reader) @ bare, value, rtol=1e-5)
    assert abs(reader @ mean - 1) > 1e-3  # the asymmetry: at the mean key it is another value


def target_nll(live: LiveModel, fact: Fact, prompts: list[str]) -> float:
    """Mean over prompts of the negative log-likelihood per target token, teacher forced, on the model as it is."""
    scores = live.score(prompts, [fact.object] * len(prompts))
    return -sum(score.mean for score in scores) / len(scores)


@pytest.mark.parametrize("model_type", MODELS)
def test_what_the_search_reaches_is_what_the_edited_model_says(model_type: str) -> None:
    live, spec = live_model(model_type), replace(QUICK, gain="update")
    for catechism, delta in zip(FACTS, rome(live).fit_each(live, FACTS, spec), strict=True):
        prompts = prompts_of(live, catechism.fact, spec)
        with live.with_delta(delta):
            assert target_nll(live, catechism.fact, prompts) == pytest.approx(number(delta, "nll"), abs=2e-4)


@pytest.mark.parametrize("model_type", MODELS)
def test_the_published_search_adds_the_value_at_the_subjects_last_token_alone(model_type: str) -> None:
    live, spec = live_model(model_type), replace(QUICK, gain="subject")
    delta = rome(live).fit(live, FACTS[:1], spec)
    value = torch.from_numpy(factors(delta)[0]).float()
    nll = []
    for prompt in prompts_of(live, FRANCE, spec):
        head, ids = (live.tokenizer(text)["input_ids"] for text in (prompt, f"{prompt} {FRANCE.object}"))
        at = last_of(live, prompt, "France")

        def add(_module: object, _args: object, output: Tensor, at: int = at) -> Tensor:
            output = output.clone()
            output.view(-1, output.shape[-1])[at] += value
            return output

        handle = live.anatomy.module(SITE).register_forward_hook(add)
        with torch.no_grad():
            logprobs = live.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
        handle.remove()
        nll.append(-np.mean([float(logprobs[t - 1, ids[t]]) for t in range(len(head), len(ids))]))
    assert number(delta, "nll") == pytest.approx(np.mean(nll), abs=2e-4)
    assert abs(target_nll(live, FRANCE, prompts_of(live, FRANCE, spec)) - np.mean(nll)) > 1e-3  # it did something


@pytest.mark.parametrize(("gain", "less"), [("update", 0.3), ("subject", 0.02)])
@pytest.mark.parametrize("model_type", ["llama", "gpt2"])
def test_a_few_steps_make_the_new_object_likelier(model_type: str, gain: Any, less: float) -> None:
    live = live_model(model_type)
    spec = Spec(layer=0, contexts=0, gain=gain, kl=0.0, decay=0.0, search=Search(steps=8))
    delta = rome(live).fit(live, FACTS[:1], spec)
    before = target_nll(live, FRANCE, [FRANCE.prompt])
    assert number(delta, "nll") < before - less
    with live.with_delta(delta):
        assert target_nll(live, FRANCE, [FRANCE.prompt]) < before - less


def test_a_search_without_steps_measures_the_model_as_it_is() -> None:
    live, spec = live_model(), replace(QUICK, search=Search(steps=0))
    delta = rome(live).fit(live, FACTS[:1], spec)
    assert not factors(delta)[0].any() and delta.info["steps"] == 0
    assert number(delta, "nll") == pytest.approx(target_nll(live, FRANCE, prompts_of(live, FRANCE, spec)), abs=1e-4)


def test_the_value_stays_within_its_clamp() -> None:
    live = live_model(dtype=torch.float64)
    spec = replace(EXACT, search=Search(steps=4, lr=5.0, stop=0.0, clamp=0.3))
    value, reader = factors(rome(live).fit(live, FACTS[:1], spec))
    texts = prompts_of(live, FRANCE, spec) + [frame.format("France") for frame in FRAMES]
    key = np.mean([key_of(live, text, "France") for text in texts], axis=0)
    W = live.anatomy.matrix(SITE).read().numpy()
    assert np.linalg.norm(value) == pytest.approx(0.3 * np.linalg.norm(W @ key), rel=1e-4)
    assert reader @ key == pytest.approx(1.0, rel=1e-5)


def test_facts_fitted_together_get_the_deltas_that_they_get_alone() -> None:
    live = live_model(dtype=torch.float64)
    editor = rome(live)
    together = editor.fit_each(live, FACTS, EXACT)
    for catechism, delta in zip(FACTS, together, strict=True):
        alone = editor.fit(live, [catechism], EXACT)
        assert alone.info["fact"] == delta.info["fact"]
        for one, other in zip(factors(alone), factors(delta), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)
    whole = editor.fit(live, FACTS, EXACT)
    assert whole.info == {"sum": [delta.digest for delta in together]}
    ((_, part),) = whole.parts.items()
    np.testing.assert_allclose(
        part.dense().numpy(), sum(np.outer(*factors(delta)) for delta in together), rtol=1e-6, atol=1e-9
    )


def test_the_seed_changes_the_contexts() -> None:
    live = live_model()
    editor = rome(live)
    one, two = (factors(editor.fit(live, FACTS[:1], replace(QUICK, seed=seed)))[1] for seed in (0, 1))
    assert not np.allclose(one, two)


def test_a_layer_that_nothing_enters_is_refused() -> None:
    live = live_model()
    live.anatomy.matrix(Site(0, Role.MLP_IN)).read().zero_()
    with pytest.raises(SingularCovariance, match="cannot be inverted"):
        rome(live).fit(live, FACTS[:1], QUICK)


def test_a_mixture_without_a_dense_layer_is_refused_by_the_role_that_it_lacks() -> None:
    live = live_model("mixtral")
    with pytest.raises(UnknownName, match="has no mlp_out"):
        rome(live).fit(live, FACTS[:1], QUICK)


@pytest.mark.parametrize("settings", [{"contexts": -1}, {"context_tokens": 0}])
def test_settings_out_of_range_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(BadSpec, match="at the least"):
        Spec(layer=0, **settings)


def number(delta: Delta, name: str) -> float:
    found = delta.info[name]
    assert isinstance(found, float)
    return found
