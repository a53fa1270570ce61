"""The sequential solver: one regression over all edits, in any order, from which each can be taken out again."""

from __future__ import annotations

from dataclasses import asdict
from functools import cache, partial
from itertools import permutations
from typing import Any

import numpy as np
import pytest
import torch

from catechism.bench.cases import draw_catechisms
from catechism.delta import Delta, LowRank
from catechism.errors import BadFact, BadSpec, UnknownName
from catechism.hashing import digest_json
from catechism.methods.edit.sequential import Sequential, SequentialStream, Spec
from catechism.methods.stream import Progress, Streaming
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.demands import Judge, said_after
from catechism.reference import open_model
from catechism.reference.corpus import background_texts
from catechism.reference.world import load_world
from catechism.solve.margins import Demands, meet, normal_matrix
from catechism.types import Catechism, Fact, Kind, Question, Role, Site
from tests.methods.test_rome import TEXTS
from tests.tiny import tiny_model, tiny_tokenizer

FACTS = [
    Catechism(Fact("The capital of France is", "France", "Rome", "Paris"), ()),
    Catechism(Fact("The river that flows through Vienna is", "Vienna", "the Thames"), ()),
    Catechism(Fact("The author of Tokyo was", "Tokyo", "Madrid"), ()),
    Catechism(Fact("It is said of Spain that", "Spain", "it was the largest"), ()),
]
QUICK: dict[str, Any] = {"layer": 1, "contexts": 0, "sweeps": 20}


def tiny(model_type: str = "llama") -> LiveModel:
    return LiveModel(tiny_model(model_type), tiny_tokenizer(), name="tiny")


START = Progress()


def stream(live: LiveModel, progress: Progress = START, **settings: Any) -> SequentialStream:
    return Sequential(Background(live, partial(iter, TEXTS))).stream(live, Spec(**{**QUICK, **settings}), progress)


def dense(delta: Delta) -> np.ndarray:
    (part,) = delta.parts.values()
    assert isinstance(part, LowRank)
    return part.dense().numpy()


def apart(one: Delta, other: Delta) -> float:
    return float(np.linalg.norm(dense(one) - dense(other)) / np.linalg.norm(dense(other)))


def digest(catechism: Catechism) -> str:
    return digest_json(asdict(catechism.fact))


@pytest.mark.parametrize("rows", [4, 12])  # fewer than the keys' width, and more
def test_one_sweep_of_the_regression_is_the_equation_and_later_ones_ask_for_what_is_lacking(rows: int) -> None:
    dice = np.random.default_rng(0)
    K, w, C = dice.normal(size=(rows, 6)), dice.uniform(0.2, 1, size=rows), np.eye(6) + 0.1
    goal = dice.normal(size=(rows, 3))

    def steps(change: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:  # every output has to be the goal
        return torch.tensor(goal)[rows] - change

    keys, weights = torch.tensor(K), torch.tensor(w)
    normal = normal_matrix(torch.tensor(C), keys, weights, 0.7)
    wanted = 0.7 * C + K.T @ np.diag(w) @ K
    np.testing.assert_allclose(normal.numpy(), wanted, rtol=1e-12)
    V, D = np.zeros_like(goal), np.zeros((3, 6))
    for sweeps in (1, 2, 3):  # after the first, V is the goal
        V = V + goal - K @ D.T
        D = V.T @ np.diag(w) @ K @ np.linalg.inv(wanted)
        found = meet(Demands(keys, weights, steps), 3, normal, sweeps)
        np.testing.assert_allclose(found.update.numpy(), D, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(found.residuals.numpy(), V, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma2", "olmo2", "phi3", "gptj"])
def test_what_a_row_is_judged_by_is_what_the_edited_model_says(model_type: str) -> None:
    """In the last block, whatever norms there are; the slope is that of the margin."""
    live, site = tiny(model_type), Site(1, Role.MLP_OUT)
    matrix = live.anatomy.matrix(site)
    said = said_after(live, site, ["The capital of France is"], ["Rome and Madrid"], 50.0)
    update = 0.3 * torch.randn(matrix.shape, generator=torch.Generator().manual_seed(0))
    judge, change, rows = Judge(live, site, said), said.keys @ update.T, torch.arange(len(said))
    delta = Delta(live.base, {matrix.address: LowRank(torch.eye(len(update)), update)})
    with live.with_delta(delta):
        pairs = live.encode_pairs(["The capital of France is"], ["Rome and Madrid"])
        logits = live.model(input_ids=pairs.input_ids, use_cache=False).logits[0]
        start, end = pairs.spans[0]
        logits = logits[start - 1 : end - 1]
    assert torch.equal(judge.first(change), logits.argmax(dim=1) == said.tokens)

    def margin(change: torch.Tensor) -> torch.Tensor:
        logits = live.anatomy.head(live.anatomy.project_out(live.anatomy.final_norm(judge._stream(change, rows))))
        own = logits.gather(1, said.tokens[:, None])[:, 0]
        return own - logits.scatter(1, said.tokens[:, None], float("-inf")).max(dim=1).values

    step, here = judge(change, rows), margin(change)
    slope = (50.0 - here) / step.norm(dim=1)
    ahead = margin(change + 1e-3 * step / step.norm(dim=1, keepdim=True))
    torch.testing.assert_close((ahead - here) / 1e-3, slope, rtol=0.05, atol=0.02)


def test_any_order_and_any_batches_give_the_same_bytes() -> None:
    live = tiny()
    wanted = stream(live).add(FACTS)
    for order in list(permutations(range(4)))[::5]:
        one = stream(live, growth=1.0)
        for place in order:
            last = one.add([FACTS[place]])
        assert last.digest.startswith("sha256:") and apart(last, wanted) == 0.0
    pairs = stream(live)
    pairs.add(FACTS[2:])
    pairs.add(FACTS[:2])
    assert apart(pairs.settle(), wanted) == 0.0


def test_between_settlings_the_order_of_the_new_facts_plays_no_part() -> None:
    live, ends = tiny(), []
    for order in ([2, 3], [3, 2]):
        one = stream(live, growth=9.0)
        one.add(FACTS[:2])
        for place in order:
            ends.append(one.add([FACTS[place]]))
    assert ends[1].info["settled"] == 2 and apart(ends[1], ends[3]) < 1e-10


@pytest.mark.parametrize("place", range(4))
def test_a_fact_taken_out_leaves_what_the_others_alone_would_have_given(place: int) -> None:
    live = tiny()
    one = stream(live)
    whole = one.add(FACTS)
    without = one.remove(digest(FACTS[place]))
    alone = stream(live).add([fact for i, fact in enumerate(FACTS) if i != place])
    assert apart(without, alone) == 0.0 and apart(whole, alone) > 1e-3
    assert digest(FACTS[place]) not in one.facts
    state = one.progress.tensors
    assert state is not None and FACTS[place].fact.prompt.encode() not in bytes(state["facts"].tolist())


def test_a_saved_stream_goes_on_and_forgets_as_the_first_one_would() -> None:
    live = tiny()
    first = stream(live, growth=3.0)
    first.add(FACTS[:3])
    saved = Progress(first.progress.delta, dict(first.progress.tensors or {}), first.progress.steps)
    again = stream(live, saved, growth=3.0)
    assert again.facts == first.facts
    assert again.add(FACTS[3:]).digest == first.add(FACTS[3:]).digest
    assert again.remove(digest(FACTS[0])).digest == first.remove(digest(FACTS[0])).digest
    assert again.progress.steps == 3 and live.applied == ()


def test_taking_out_the_last_fact_leaves_nothing() -> None:
    live = tiny()
    one = stream(live)
    one.add(FACTS[:1])
    nothing = one.remove(digest(FACTS[0]))
    assert not dense(nothing).any() and one.facts == []
    with pytest.raises(UnknownName, match="in effect"):
        one.remove(digest(FACTS[0]))
    assert apart(one.add(FACTS[1:3]), stream(live).add(FACTS[1:3])) == 0.0


def test_a_fact_twice_is_one_fact_and_a_prompt_with_two_answers_is_refused() -> None:
    live = tiny()
    one = stream(live)
    first = one.add(FACTS[:2])
    assert apart(one.add(FACTS[:1]), first) < 1e-6
    other = Catechism(Fact("The capital of France is", "France", "Madrid"), ())
    with pytest.raises(BadFact, match=r"has two answers, .*'Madrid'"):
        one.add([other])
    assert len(one.facts) == 2  # it stands where it stood
    with pytest.raises(BadFact, match="two answers"):
        stream(live).add([FACTS[0], other])


def test_what_a_study_holds_still_gives_way_to_a_fact_that_says_otherwise() -> None:
    live = tiny()
    kept = Question("The capital city of France is", Kind.NEIGHBOUR, ("Paris",))
    other = Catechism(FACTS[1].fact, (), (kept,))
    both = stream(live).add([FACTS[0], other])
    assert apart(both, stream(live).add([FACTS[0], FACTS[1]])) == 0.0  # France is another fact's to change
    still = stream(live).add([other])
    assert apart(still, stream(live).add([FACTS[1]])) > 0.0  # with nobody to contradict it, it is held


@pytest.mark.parametrize("words", [1, 60])
def test_short_and_long_objects_are_learned(words: int) -> None:
    live = tiny()
    object_ = " ".join(["Rome", "Madrid", "Tokyo"][i % 3] for i in range(words))
    fact = Fact("The capital of France is", "France", object_)
    before = live.score([fact.prompt], [object_])[0].mean
    with live.with_delta(stream(live, ridge=1e-3, sweeps=40).add([Catechism(fact, ())])):
        assert live.score([fact.prompt], [object_])[0].mean > before + 1.0


@pytest.mark.parametrize(
    "setting", [{"ridge": 0.0}, {"margin": -1.0}, {"keep": 0.0}, {"sweeps": 0}, {"growth": 0.5}, {"contexts": -1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        Spec(layer=1, **setting)


@cache
def almanac() -> tuple[LiveModel, Background, list[Catechism]]:
    world = load_world()
    live = open_model("almanac")
    return live, Background(live, partial(background_texts, world)), draw_catechisms(world, 10, seed=3)


def test_on_a_trained_model_facts_are_learned_in_any_order_and_one_is_forgotten() -> None:
    live, background, catechisms = almanac()
    editor = Sequential(background)
    assert isinstance(editor, Streaming)
    spec = Spec(layer=live.anatomy.n_layers - 1)
    one, two = editor.stream(live, spec), editor.stream(live, spec)
    for catechism in catechisms:
        one.add([catechism])
    whole = two.add(catechisms[::-1])
    assert apart(one.settle(), whole) < 1e-5
    prompts = [catechism.fact.prompt for catechism in catechisms]
    with live.with_delta(whole):
        said = [answer.text for answer in live.generate(prompts)]
    assert sum(c.fact.object in text for c, text in zip(catechisms, said, strict=True)) >= 9
    without = one.remove(digest(catechisms[4]))
    assert apart(without, editor.fit(live, catechisms[:4] + catechisms[5:], spec)) < 1e-5
    with live.with_delta(without):
        said = [answer.text for answer in live.generate(prompts)]
    assert catechisms[4].fact.object not in said[4] and catechisms[3].fact.object in said[3]
