"""MEMIT, EMMET and AlphaEdit against their equations, worked out once more in float64 with plain hooks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from catechism.delta import LowRank
from catechism.errors import BadSpec, UnknownName
from catechism.methods import Method, method
from catechism.methods.stream import Progress, open_stream
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.sought import Sought
from catechism.solve import DAMPING
from catechism.solve.values import Found, Search
from catechism.types import Catechism, Fact, Role, Site
from tests.methods.test_rome import TEXTS, last_of
from tests.tiny import tiny_model, tiny_tokenizer

FACTS = [
    Catechism(Fact("The capital of France is", "France", "Rome and Madrid"), ()),
    Catechism(Fact("It is said of Vienna in 1987 that its river is", "Vienna", "the Thames"), ()),
    Catechism(Fact("The author of Tokyo was", "Tokyo", "Madrid"), ()),
]
#: Methods with settings that need no search: one context, no frames.
NAMES = {"memit": {"ridge": 0.7}, "emmet": {"ridge": 0.05, "spread": 2}, "alphaedit": {"energy": 0.8, "ridge": 0.2}}
MODELS = ("llama", "gpt2", "opt", "gptj")


def live_model(model_type: str = "llama") -> LiveModel:
    return LiveModel(tiny_model(model_type).double(), tiny_tokenizer(), name="tiny")


def editor(name: str, live: LiveModel) -> Method:
    return method(name)(Background(live, partial(iter, TEXTS)))


def spec_of(name: str, **settings: Any) -> Any:
    kind: Any = method(name).Spec  # type: ignore[attr-defined]
    quick = {"layer": 1, "contexts": 0, "frames": False, "search": Search(steps=2, stop=0.0)}
    return kind(**{**quick, **NAMES[name], **settings})


def the_values(d: int, n: int = len(FACTS)) -> np.ndarray:
    return 0.3 * np.random.default_rng(0).normal(size=(n, d))


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every search finds the same values: what is tested is what is done with them."""

    def found(live: LiveModel, _share: object, sought: Sought, _search: object) -> Found:
        n, d = len(sought.scale), live.anatomy.matrix(sought.site).shape[0]
        values = torch.tensor(the_values(d)[:n]).to(sought.scale)
        return Found(values, torch.zeros(n), torch.zeros(n, dtype=torch.long))

    for name in NAMES:
        monkeypatch.setattr(f"catechism.methods.edit.{name}.find_target_values", found)


class Plain:
    """The model once more in numpy: keys and states by hooks, one prompt at a time, with weights written by hand."""

    def __init__(self, live: LiveModel) -> None:
        self.live = live
        background = Background(live, partial(iter, TEXTS))
        self.C: dict[int, np.ndarray] = {}
        for layer in (0, 1):
            self.C[layer] = background.covariance(Site(layer, Role.MLP_OUT)).matrix.numpy()
        self.updates: dict[int, np.ndarray] = {}

    def damped(self, layer: int) -> np.ndarray:
        C = self.C[layer]
        return C + DAMPING * C.diagonal().mean() * np.eye(len(C))

    def look(self, facts: Sequence[Catechism], layer: int) -> tuple[np.ndarray, np.ndarray]:
        """Keys of a layer and states after the last block, at each bare prompt's subject."""
        keys, states = [], []
        for catechism in facts:
            seen: dict[str, Any] = {}
            module = self.live.anatomy.module(Site(layer, Role.MLP_OUT))
            hooks = [
                module.register_forward_pre_hook(lambda _m, args, seen=seen: seen.update(key=args[0])),
                self.live.anatomy.block(1).register_forward_hook(
                    lambda _m, _a, out, seen=seen: seen.update(state=out if torch.is_tensor(out) else out[0])
                ),
            ]
            saved = {at: self.live.anatomy.matrix(Site(at, Role.MLP_OUT)).read().clone() for at in self.updates}
            for at, update in self.updates.items():
                self.live.anatomy.matrix(Site(at, Role.MLP_OUT)).read().add_(torch.tensor(update))
            fact = catechism.fact
            ids = self.live.tokenizer(fact.prompt)["input_ids"]
            with torch.no_grad():
                self.live.model(torch.tensor([ids]))
            for at, weight in saved.items():
                self.live.anatomy.matrix(Site(at, Role.MLP_OUT)).read().copy_(weight)
            for hook in hooks:
                hook.remove()
            at = last_of(self.live, fact.prompt, fact.subject)
            keys.append(seen["key"].reshape(len(ids), -1)[at].numpy())
            states.append(seen["state"].reshape(len(ids), -1)[at].numpy())
        return np.array(keys), np.array(states)

    def solve(self, name: str, layer: int, K: np.ndarray, R: np.ndarray, past: np.ndarray) -> np.ndarray:
        """Delta (d_out, d_in) in the papers' own form, keys as columns."""
        C, d, settings = self.damped(layer), K.shape[1], NAMES[name]
        if name == "memit":
            return R.T @ K @ np.linalg.inv(settings["ridge"] * d * C + K.T @ K)
        if name == "emmet":
            D = K @ np.linalg.inv(C) @ K.T + settings["ridge"] * d * np.eye(len(K))
            return R.T @ np.linalg.inv(D) @ K @ np.linalg.inv(C)
        C = self.C[layer]
        values, vectors = np.linalg.eigh(C)
        share = np.cumsum(values) / values.sum()
        U = vectors[:, share <= 1 - settings["energy"]]
        P = U @ U.T
        left = P @ (K.T @ K + past) + settings["ridge"] * np.trace(C) * np.eye(d)
        return np.linalg.solve(left, P @ K.T @ R).T  # the official code's line

    def write(
        self, name: str, facts: Sequence[Catechism], V: np.ndarray, past: dict[int, np.ndarray]
    ) -> dict[int, np.ndarray]:
        before = dict(self.updates)
        _, clean = self.look(facts, 1)
        for number, layer in enumerate((0, 1)):
            K, state = self.look(facts, layer)
            R = (V - (state - clean)) / (2 - number)
            update = self.solve(name, layer, K, R, past[layer])
            self.updates[layer] = before.get(layer, 0) + update
        return {layer: self.updates[layer] - before.get(layer, 0) for layer in (0, 1)}


@pytest.mark.usefixtures("given")
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("model_type", MODELS)
def test_two_layers_are_written_by_the_papers_equation(name: str, model_type: str) -> None:
    live = live_model(model_type)
    delta = editor(name, live).fit(live, FACTS, spec_of(name, spread=2))
    nothing = {layer: np.zeros((48, 48)) for layer in (0, 1)}
    wanted = Plain(live).write(name, FACTS, the_values(32), nothing)
    assert len(delta.parts) == 2
    for layer, update in wanted.items():
        part = delta.parts[live.anatomy.matrix(Site(layer, Role.MLP_OUT)).address]
        assert isinstance(part, LowRank)
        np.testing.assert_allclose(part.dense().numpy(), update, rtol=1e-3, atol=1e-5 * np.abs(update).max())


@pytest.mark.usefixtures("given")
def test_emmets_constraints_hold_and_alphaedits_write_stays_in_the_null_space() -> None:
    live = live_model()
    plain = Plain(live)
    K, _ = plain.look(FACTS, 1)
    (exact,) = editor("emmet", live).fit(live, FACTS, spec_of("emmet", spread=1, ridge=0.0)).parts.values()
    assert isinstance(exact, LowRank)
    np.testing.assert_allclose(exact.dense().numpy() @ K.T, the_values(32).T, rtol=1e-4, atol=1e-5)
    delta = editor("alphaedit", live).fit(live, FACTS, spec_of("alphaedit", spread=1))
    (inside,) = delta.parts.values()
    assert isinstance(inside, LowRank)
    _, vectors = np.linalg.eigh(plain.C[1])
    rank = delta.info["rank"]["1"]  # type: ignore[index, call-overload]
    assert isinstance(rank, int) and 0 < rank < 48
    outside = vectors[:, rank:]
    assert np.abs(inside.dense().numpy() @ outside).max() < 1e-6 * np.abs(inside.dense().numpy()).max()


@pytest.mark.usefixtures("given")
def test_alphaedit_keeps_the_keys_of_past_edits_as_the_edited_model_has_them() -> None:
    live, name = live_model(), "alphaedit"
    stream = open_stream(editor(name, live), live, spec_of(name, spread=2))
    plain, past = Plain(live), {layer: np.zeros((48, 48)) for layer in (0, 1)}
    for facts in (FACTS[:2], FACTS[2:]):
        stream.add(facts)
        plain.write(name, facts, the_values(32, len(facts)), past)
        for layer in (0, 1):
            K, _ = plain.look(facts, layer)
            past[layer] = past[layer] + K.T @ K
    assert stream.progress.delta is not None and stream.progress.tensors is not None and stream.progress.steps == 2
    for layer in (0, 1):
        np.testing.assert_allclose(stream.progress.tensors[f"keys.{layer}"].numpy(), past[layer], rtol=1e-4, atol=1e-6)
        part = stream.progress.delta.parts[live.anatomy.matrix(Site(layer, Role.MLP_OUT)).address]
        assert isinstance(part, LowRank)
        np.testing.assert_allclose(part.dense().numpy(), plain.updates[layer], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_a_stream_goes_on_from_its_progress_with_the_same_bytes(name: str) -> None:
    live = live_model()
    spec = spec_of(name, spread=2, anchor=2)
    whole = open_stream(editor(name, live), live, spec)
    for catechism in FACTS:
        whole.add([catechism])
    first = open_stream(editor(name, live), live, spec)
    first.add(FACTS[:1])
    second = open_stream(editor(name, live), live, spec, Progress(first.progress.delta, first.progress.tensors, 1))
    second.add(FACTS[1:2])
    assert second.add(FACTS[2:]).digest == whole.progress.delta.digest  # type: ignore[union-attr]
    assert second.progress.steps == 3 and live.applied == ()


@pytest.mark.usefixtures("given")
def test_the_anchor_brings_later_outputs_to_the_norm_of_the_first() -> None:
    live, name = live_model(), "emmet"
    spec = spec_of(name, spread=1, ridge=0.0, anchor=1)
    plain = Plain(live)
    K, _ = plain.look(FACTS, 1)
    (part,) = editor(name, live).fit(live, FACTS, spec).parts.values()
    assert isinstance(part, LowRank)
    W = live.anatomy.matrix(Site(1, Role.MLP_OUT)).read().numpy()
    before, after = K @ W.T, K @ (W + part.dense().numpy()).T
    norm = np.linalg.norm(before[0] + the_values(32)[0])
    np.testing.assert_allclose(np.linalg.norm(after, axis=1), norm, rtol=1e-4)
    towards = before + the_values(32)
    cosine = (after * towards).sum(axis=1) / np.linalg.norm(after, axis=1) / np.linalg.norm(towards, axis=1)
    np.testing.assert_allclose(cosine, 1, rtol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_one_fact_in_one_layer_says_what_its_search_reached(name: str) -> None:
    """With the update's own gain at every token the search sees the edited model, if the write is exact."""
    live = LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    exact = {"memit": {"ridge": 1e-6}, "emmet": {}, "alphaedit": {"energy": 0.0, "ridge": 1e-9}}[name]
    spec = spec_of(name, layer=0, spread=1, gain="update", **exact)
    delta = editor(name, live).fit(live, FACTS[:1], spec)
    fact = FACTS[0].fact
    with live.with_delta(delta):
        said = -live.score([fact.prompt], [fact.object])[0].mean
    assert said == pytest.approx(delta.info["nll"][0], abs=2e-3)  # type: ignore[index, call-overload]


def test_layers_that_are_not_there_are_left_out_and_the_last_one_is_not() -> None:
    live = LiveModel(tiny_model("qwen3_moe"), tiny_tokenizer(), name="tiny")  # one dense layer between two mixtures
    delta = editor("memit", live).fit(live, FACTS[:1], spec_of("memit", spread=3))
    assert list(delta.parts) == [live.anatomy.matrix(Site(1, Role.MLP_OUT)).address]
    with pytest.raises(UnknownName, match="has no mlp_out"):
        editor("memit", live).fit(live, FACTS[:1], spec_of("memit", layer=2, spread=3))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("setting", [{"spread": 0}, {"contexts": -1}, {"anchor": -1}, {"ridge": -1.0}])
def test_settings_out_of_range_are_refused(name: str, setting: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        spec_of(name, **setting)
    assert replace(spec_of(name), seed=3).seed == 3
