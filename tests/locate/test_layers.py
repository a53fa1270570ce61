"""The layer measurement on models where it is known which layer keeps subjects apart."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from catechism.errors import ArchitectureMismatch, BadFact, BadSpec, WrongBase
from catechism.locate.layers import DAMPING, PILOTS, rank_layers
from catechism.model import LiveModel, covariance
from catechism.model.background import TOKENS_PER_DIMENSION, Background
from catechism.model.contexts import FRAMES
from catechism.types import Catechism, Fact, Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

#: The last letter is a token of its own, and another one in every name.
SUBJECTS = ("xqB", "zvK", "jwM", "qzX", "vjZ")
LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
TEXTS = [" ".join(LETTERS[(i * j + i + j * j) % 62] for j in range(24)) for i in range(1, 40)]
TOKENS, SURROUNDINGS = slice(0, 16), slice(16, 32)  # two halves of the residual stream


def catechisms(*subjects: str) -> list[Catechism]:
    return [Catechism(Fact(f"The river that flows through {name} is", name, "Rome"), ()) for name in subjects]


def planted(layer: int, n_layers: int = 3) -> LiveModel:
    """A model where one layer's MLP reads the token alone, and the others read what stands around it.

    A token's own embedding is in one half of the residual stream; attention, looking everywhere alike, writes the mean
    of what came before to the other. The MLPs write nothing.
    """
    model = tiny_model("llama", num_hidden_layers=n_layers)
    state = model.state_dict()
    with torch.no_grad():
        state["model.embed_tokens.weight"][:, SURROUNDINGS] = 0
        for i in range(n_layers):
            at = f"model.layers.{i}"
            state[f"{at}.self_attn.q_proj.weight"].zero_()
            state[f"{at}.self_attn.o_proj.weight"][TOKENS] = 0
            state[f"{at}.self_attn.o_proj.weight"].mul_(0.1)  # so that the norm hardly depends on it
            state[f"{at}.mlp.down_proj.weight"].mul_(1e-6)
            for name in ("gate_proj", "up_proj"):
                weight = state[f"{at}.mlp.{name}.weight"]
                weight[:, SURROUNDINGS if i == layer else TOKENS] = 0
                weight.mul_(1 if i == layer else 20)
    return LiveModel(model, tiny_tokenizer(), name="planted")


def background(live: LiveModel) -> Background:
    return Background(live, partial(iter, TEXTS))


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_the_layer_that_keeps_subjects_apart_comes_first(layer: int) -> None:
    live = planted(layer)
    first, *others = rank_layers(live, catechisms(*SUBJECTS), background(live))
    assert first.site == Site(layer, Role.MLP_OUT)
    assert first.evidence["same_subject"] == pytest.approx(1.0, abs=0.1)
    assert first.evidence["other_subject"] < 0.5
    assert all(locus.score < first.score - 0.3 for locus in others)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt"])
def test_the_score_is_its_definition(model_type: str) -> None:
    live = LiveModel(tiny_model(model_type), tiny_tokenizer(), name="tiny")
    subjects = SUBJECTS[:3]
    found = rank_layers(live, catechisms(*subjects), background(live))
    assert sorted(locus.site.layer for locus in found) == [0, 1]
    assert [locus.score for locus in found] == sorted((locus.score for locus in found), reverse=True)
    for locus in found:
        C = covariance(live, locus.site, TEXTS, n_tokens=TOKENS_PER_DIMENSION * 48).matrix.numpy()
        C = C + DAMPING * C.diagonal().mean() * np.eye(48)
        prompts = ["The river that flows through {} is".format, *(frame.format for frame in FRAMES)]
        keys = {name: [key_of(live, locus.site, prompt(name), name) for prompt in prompts] for name in subjects}
        same, other = [], []
        for edited in subjects:
            u = np.linalg.solve(C, keys[edited][0])
            for asked in subjects:
                gains = [u @ key / (u @ keys[edited][0]) for key in keys[asked]]
                if asked == edited:
                    same += gains[1:]
                else:
                    other += [abs(gain) for gain in gains]
        assert locus.evidence["same_subject"] == pytest.approx(np.mean(same), rel=1e-3, abs=1e-4)
        assert locus.evidence["other_subject"] == pytest.approx(np.mean(other), rel=1e-3, abs=1e-4)
        assert locus.score == pytest.approx(np.mean(same) - np.mean(other), rel=1e-3, abs=1e-3)


def key_of(live: LiveModel, site: Site, prompt: str, subject: str) -> np.ndarray:
    """The site's input at the subject's last token, from a pass of this prompt alone."""
    seen: list[torch.Tensor] = []
    handle = live.anatomy.module(site).register_forward_pre_hook(lambda _module, args: seen.append(args[0]))
    ids = live.tokenizer(prompt)["input_ids"]
    with torch.no_grad():
        live.model(torch.tensor([ids]))
    handle.remove()
    last = len(live.tokenizer(prompt[: prompt.rindex(subject) + len(subject)])["input_ids"]) - 1
    return seen[0].reshape(len(ids), -1)[last].double().numpy()


def test_a_subject_counts_once_and_no_more_than_the_pilots_are_read() -> None:
    live = planted(1)
    some = rank_layers(live, catechisms(*SUBJECTS[:2]), background(live))
    assert rank_layers(live, catechisms(*SUBJECTS[:2] * 3), background(live)) == some
    many = [f"{a}{b}" for a in "BKMXZQ" for b in "bkmxzq"]
    assert len(many) > PILOTS
    first, again = (rank_layers(live, catechisms(*names), background(live)) for names in (many, many[:PILOTS]))
    assert first == again


def test_one_fact_is_enough() -> None:
    live = planted(2)
    first, *_ = rank_layers(live, catechisms("xqB"), background(live))
    assert first.site.layer == 2 and first.evidence["other_subject"] == 0.0


def test_measuring_leaves_the_model_as_it_was() -> None:
    live = planted(0)
    before = live.digest(full=True)
    rank_layers(live, catechisms(*SUBJECTS), background(live))
    assert live.digest(full=True) == before
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in live.model.modules())


def test_what_cannot_be_measured_is_refused() -> None:
    live = planted(0)
    with pytest.raises(BadSpec, match="Give at least one"):
        rank_layers(live, [], background(live))
    with pytest.raises(BadFact, match="'Paris' is not in the prompt 'The capital is'"):
        rank_layers(live, [Catechism(Fact("The capital is", "Paris", "Rome"), ())], background(live))
    with pytest.raises(WrongBase, match="Make a Background"):
        rank_layers(live, catechisms(*SUBJECTS), background(planted(1)))


def test_a_model_of_mixtures_alone_is_refused_by_name() -> None:
    live = LiveModel(tiny_model("mixtral"), tiny_tokenizer(), name="mixture")
    lesson = Catechism(Fact("Rome is in", "Rome", "Italy"), ())
    with pytest.raises(ArchitectureMismatch, match="no dense MLP"):
        rank_layers(live, [lesson], Background(live))
