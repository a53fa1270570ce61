"""MEMOIR against its equations, worked out apart; streams, deletion, and what its settings do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from catechism.bench.cases import draw_catechisms
from catechism.delta import Delta, Gated, load, save
from catechism.delta.addresses import PaperAddress
from catechism.delta.bits import unpack
from catechism.delta.effects import Matrices
from catechism.delta.residual import Residual
from catechism.errors import BadFact, BadSpec
from catechism.matching import passes
from catechism.methods.edit.memoir import Memoir, Spec, published
from catechism.methods.stream import Progress
from catechism.model import LiveModel, record
from catechism.model.address import Reach
from catechism.model.background import Background
from catechism.model.exercise import Exercise
from catechism.model.masks import IRRELEVANT, Masks, beginnings
from catechism.model.residual import Descent, ResidualValues, descend_residual
from catechism.reference import open_model
from catechism.reference.corpus import background_texts
from catechism.reference.world import load_world
from catechism.solve.values import Search
from catechism.types import JSON, Catechism, Kind, Role, Site
from tests.methods.test_contract import FACTS, catechism, live_model, texts

LAYER = 1
SITE = Site(LAYER, Role.MLP_OUT)
THIRD = catechism("The author of the book is", "the book", "Tokyo")
PLAIN = Spec(
    LAYER, "paper", contexts=0, threshold=0.9, reach=Reach(contexts=1, context_tokens=3), search=Search(12, 0.3, 0.05)
)
PROMPTS = [given.fact.prompt for given in [*FACTS, THIRD]]


def editor(live: LiveModel) -> Memoir:
    return Memoir(Background(live, lambda: iter(texts())))


def part_of(delta: Delta) -> Gated:
    (part,) = delta.parts.values()
    assert isinstance(part, Gated)
    return part


def residual_of(delta: Delta) -> Residual:
    effect = part_of(delta).effect
    assert isinstance(effect, Residual)
    return effect


def roll_of(delta: Delta) -> list[JSON]:
    edits: Any = delta.info["edits"]
    return [edit["fact"] for edit in edits]


def states(live: LiveModel, text: str) -> Tensor:
    """What enters the matrix at every token of one text, float64."""
    with record(live, [SITE]) as seen, torch.no_grad():
        live.model(**live.encode([text]), use_cache=False)
    return seen[SITE][0].double()


def test_a_mask_is_the_permuted_top_of_the_centred_mean_feature() -> None:
    live = live_model()
    masks = Masks(live, Background(live, lambda: iter(texts())), LAYER, share=0.25, pooling="mean", seed=3)
    table = masks.table(PROMPTS, 0.5)
    first = beginnings(texts()[: (len(texts()) + 1) // 2])
    mu = torch.stack([states(live, text).mean(dim=0) for text in first]).mean(dim=0)
    assert torch.allclose(table.mean.double(), mu, atol=1e-5)
    permutation = torch.randperm(48, generator=torch.Generator().manual_seed(3))
    for prompt, mask in zip(PROMPTS, unpack(table.masks, 48), strict=True):
        top = (states(live, prompt).mean(dim=0) - mu).abs().topk(12).indices
        assert set(mask.nonzero()[:, 0].tolist()) == set(permutation[top].tolist())
    assert IRRELEVANT >= 100


def test_keys_are_means_over_the_contexts_at_each_place_of_the_answer() -> None:
    live = live_model()
    prompts = [["The capital of France is", "Tokyo. The capital of France is"], ["Who wrote"]]
    targets = ["Rome.", "the book."]
    exercise = Exercise(live, SITE, prompts, targets)
    masks = torch.rand(2, 48, generator=torch.Generator().manual_seed(0)) < 0.5
    sought = ResidualValues(exercise, masks, 1e-3)
    written = sought.written(torch.zeros(2, sought.width))
    row = 0
    for fact, (asked, target) in enumerate(zip(prompts, targets, strict=True)):
        pairs = [live.encode_pairs([prompt], [target]) for prompt in asked]
        spans = [pair.spans[0] for pair in pairs]
        for place in range(spans[0][1] - spans[0][0] + 1):
            at = [states(live, f"{p} {target}")[start - 1 + place] for p, (start, _) in zip(asked, spans, strict=True)]
            wanted = torch.stack(at).mean(dim=0) * masks[fact]
            assert torch.allclose(written.keys[row].double(), wanted, atol=1e-5)
            assert int(written.owner[row]) == fact
            row += 1
    assert row == len(written.keys) and not written.values.any()


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma2"])
def test_what_is_searched_is_what_acts(model_type: str) -> None:
    """The likelihood that the search ended with is that of the model with the delta on."""
    live = live_model(model_type)
    delta = editor(live).fit(live, FACTS, replace(PLAIN, study=False))
    targets = [f"{given.fact.object}." for given in FACTS]
    before = live.score(PROMPTS[:2], targets)
    with live.with_delta(delta):
        after = live.score(PROMPTS[:2], targets)
    for edit, then, now in zip(delta.info["edits"], before, after, strict=True):  # type: ignore[arg-type]
        assert edit["nll"] == pytest.approx(-now.mean, abs=1e-3)
        assert edit["nll"] < -then.mean


def test_a_value_stands_at_its_own_place_and_nothing_after_the_answer() -> None:
    """In float64: W key_p = value_p up to the ridge, and zero at the last token."""
    live = live_model()
    found = residual_of(editor(live).fit(live, FACTS, PLAIN))
    rows = (found.owner == 0).nonzero()[:, 0]
    K, V = found.keys[rows].double(), found.values[rows].double()
    damping = 1e-3 * K.square().sum() / len(K)
    readers = torch.linalg.inv(K @ K.T + damping * torch.eye(len(K)).double()) @ K
    assert not V[-1].any() and V[:-1].any(dim=1).all()
    own_readers, own_values = found._own
    assert torch.allclose(own_readers[0, : len(K)].double(), readers, atol=1e-5)
    assert torch.equal(own_values[0, : len(K)], found.values[rows])


def test_one_step_of_the_descent_is_the_gradient_of_the_published_loss() -> None:
    live = live_model(dtype=torch.float64)
    fact = FACTS[0].fact
    mask = torch.rand(48, generator=torch.Generator().manual_seed(0)) < 0.5
    exercise = Exercise(live, SITE, [[fact.prompt]], [fact.object])
    start = torch.randn(32, 48, generator=torch.Generator().manual_seed(1)) * 0.01
    W, _, steps = descend_residual(exercise, start, mask, Descent(lr=0.5, steps=1, stop=0.0, clip=1e9, decay=0.1))
    residual = start.double().requires_grad_()
    pair = live.encode_pairs([fact.prompt], [fact.object])
    module = live.anatomy.module(SITE)
    handle = module.register_forward_hook(lambda _m, args, out: out + (args[0] * mask) @ residual.T)
    logits = live.model(input_ids=pair.input_ids, use_cache=False).logits[0].log_softmax(dim=-1)
    handle.remove()
    at = range(pair.spans[0][0], pair.spans[0][1])
    loss = -torch.stack([logits[t - 1, pair.input_ids[0, t]] for t in at]).mean()
    (gradient,) = torch.autograd.grad(loss, residual)
    wanted = start.double() - 0.5 * (gradient + 0.1 * start * mask)
    assert steps == 1 and torch.allclose(W.double(), wanted.detach(), atol=1e-5)
    assert torch.equal(W[:, ~mask], start[:, ~mask]), "what is not written does not decay"
    everywhere, _, _ = descend_residual(
        exercise, start, mask, Descent(lr=0.5, steps=1, stop=0.0, clip=1e9, decay=0.1, decay_all=True)
    )
    assert torch.allclose(everywhere[:, ~mask], 0.95 * start[:, ~mask], atol=1e-7)
    clipped, _, _ = descend_residual(exercise, start, mask, Descent(lr=0.5, steps=1, stop=0.0, clip=0.01, decay=0.0))
    assert float((clipped - start).norm()) == pytest.approx(0.5 * 0.01, rel=1e-4)


def test_the_published_settings_write_one_residual_column_by_column() -> None:
    live = live_model()
    spec = replace(published(LAYER), contexts=1, context_tokens=3)
    assert (spec.descent.lr, spec.descent.steps, spec.descent.decay, spec.threshold) == (1.0, 30, 1e-5, 0.4)
    assert spec.share * 14336 == 4096 and spec.descent.decay_all and spec.shared
    delta = editor(live).fit(live, FACTS, spec)
    effect = part_of(delta).effect
    assert isinstance(effect, Matrices) and len(effect.changes) == 1
    written = unpack(effect.masks, 48).any(dim=0)
    assert effect.changes[0][:, written].any() and not effect.changes[0][:, ~written].any()
    before = live.score(PROMPTS[:2], [given.fact.object for given in FACTS])
    assert all(e["nll"] < -b.mean for e, b in zip(delta.info["edits"], before, strict=True))  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{}, {"shared": True}, {"threshold": None}, {"address": "keyed"}])
def test_one_fact_taken_out_leaves_what_there_would_be_without_it(settings: dict[str, Any]) -> None:
    live = live_model()
    spec, made = replace(PLAIN, **settings), editor(live)
    memory = made.stream(live, spec)
    memory.add([*FACTS, THIRD])
    left = memory.remove([FACTS[1].fact])
    never = made.fit(live, [FACTS[0], THIRD], spec)
    ours, theirs = part_of(left).tensors(), part_of(never).tensors()
    assert list(ours) == list(theirs)
    for name in ours:
        assert torch.allclose(ours[name].double(), theirs[name].double(), atol=1e-3), name
    with live.with_delta(left):
        found = live.next_logprobs(PROMPTS)
    with live.with_delta(never):
        assert torch.allclose(live.next_logprobs(PROMPTS), found, atol=1e-3)
    assert roll_of(left) == roll_of(never)
    with pytest.raises(BadFact, match="holds no edit of 'The river"):
        memory.remove([FACTS[1].fact])
    memory.remove([FACTS[0].fact])
    assert memory.remove([THIRD.fact]).parts == {}
    assert memory.add([THIRD]).parts, "an empty memory goes on"


@pytest.mark.parametrize("settings", [{}, {"shared": True}, {"threshold": None}, {"address": "keyed"}])
def test_the_order_of_the_facts_plays_no_part(settings: dict[str, Any]) -> None:
    live = live_model()
    spec, made, said = replace(PLAIN, **settings), editor(live), []
    for facts in ([*FACTS, THIRD], [THIRD, *reversed(FACTS)]):
        with live.with_delta(made.fit(live, facts, spec)):
            said.append(live.next_logprobs(PROMPTS))
    assert torch.allclose(said[0], said[1], atol=1e-3)


@pytest.mark.parametrize("settings", [{}, {"threshold": None}, {"address": "keyed"}, {"write": "descent"}])
def test_an_interrupted_stream_ends_with_the_same_bytes(settings: dict[str, Any], tmp_path: Path) -> None:
    live = live_model()
    spec = replace(PLAIN, **settings)
    whole = editor(live).stream(live, spec)
    for given in [*FACTS, THIRD]:
        whole.add([given])
    first = editor(live).stream(live, spec)
    first.add([FACTS[0]])
    path = save(first.add([FACTS[1]]), tmp_path / "a")
    again = editor(live).stream(live, spec, Progress(load(path), None, 2))
    assert again.add([THIRD]).digest == whole.progress.delta.digest  # type: ignore[union-attr]
    assert again.progress.steps == whole.progress.steps == 3


def test_a_step_that_fails_leaves_the_stream_where_it_was() -> None:
    live = live_model()
    memory = editor(live).stream(live, PLAIN)
    before = memory.add(FACTS)
    with pytest.raises(BadFact):
        memory.add([catechism("The capital of Italy is", "Atlantis", "Rome")])
    assert memory.progress.delta is before and memory.progress.steps == 1


def test_a_question_that_gets_another_answer_has_the_newest() -> None:
    live = live_model()
    other = catechism(FACTS[0].fact.prompt, "France", "London")
    memory = editor(live).stream(live, PLAIN)
    memory.add(FACTS)
    delta = memory.add([other])
    assert part_of(delta).entries == 2
    assert torch.equal(residual_of(delta).masks[1], residual_of(editor(live).fit(live, [other], PLAIN)).masks[0])
    with live.with_delta(delta):
        new, old = live.score([other.fact.prompt] * 2, ["London", FACTS[0].fact.object])
    assert new.argmax_match and new.mean > old.mean + 1
    assert part_of(editor(live).fit(live, [FACTS[0], other], PLAIN)).entries == 1
    related = [replace(one.fact, relation="capital") for one in (FACTS[0], other)]
    asked = [Catechism(replace(f, prompt=p), ()) for f, p in zip(related, ("France has as", "France is"), strict=True)]
    assert part_of(editor(live).fit(live, asked, PLAIN)).entries == 1, "the relation says that it is one question"
    strict = replace(PLAIN, again="refuse")
    with pytest.raises(BadFact, match="answer already"):
        editor(live).fit(live, [FACTS[0], other], strict)
    memory = editor(live).stream(live, strict)
    memory.add(FACTS)
    with pytest.raises(BadFact, match="1 of 1 facts"):
        memory.add([other])


def test_a_calibrated_threshold_lets_through_no_more_than_was_asked_for() -> None:
    live = live_model()
    background = Background(live, lambda: iter(texts()))
    masks = Masks(live, background, LAYER, share=0.25, pooling="mean", seed=0)
    table = masks.table(PROMPTS, 1.0)
    held_out = beginnings(texts()[(len(texts()) + 1) // 2 :])
    last = 1.1
    for rate in (0.0, 0.1, 0.5):
        threshold = float(masks.calibrated(table, ["#"] * 3, rate).thresholds[0])
        R = torch.tensor([max(_overlap(masks, table, text)) for text in held_out])
        assert float((threshold <= R).float().mean()) <= rate and threshold <= last
        last = threshold
    named = masks.calibrated(table, [text.split()[0] for text in texts()[15:18]], 0.0)
    assert named.thresholds.max() <= masks.calibrated(table, ["#"] * 3, 0.0).thresholds.max()


def _overlap(masks: Masks, table: PaperAddress, text: str) -> Sequence[float]:
    mine = unpack(masks.table([text], 1.0).masks, 48)
    return (unpack(table.masks, 48).int() @ mine[0].int() / table.k).tolist()


@pytest.mark.parametrize(
    "bad",
    [
        {"contexts": -1}, {"context_tokens": 0}, {"batch": 0}, {"threshold": 0.0}, {"threshold": 1.5},
        {"false_alarms": 1.0}, {"ridge": 0.0},
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        Spec(0, **bad)
    for descent in ({"lr": 0.0}, {"clip": 0.0}, {"decay": -1.0}):
        with pytest.raises(BadSpec, match="does not descend"):
            Descent(**descent)
    live = live_model()
    with pytest.raises(BadSpec, match="share"):
        editor(live).fit(live, FACTS, replace(PLAIN, share=0.0))


def test_on_a_model_that_knows_things_an_edit_is_found_in_other_words_and_nowhere_else() -> None:
    world = load_world()
    live = open_model("almanac", device_map=None)
    catechisms = draw_catechisms(world, 8, seed=5)
    delta = Memoir(Background(live, lambda: background_texts(world))).fit(live, catechisms, Spec(3))
    told = [q for c in catechisms for q in c.of(Kind.REWRITE, Kind.PARAPHRASE)]
    near = [q for c in catechisms for q in c.of(Kind.NEIGHBOUR, Kind.SUBJECT)][:120]
    before = live.generate([q.text for q in near], max_new_tokens=10)
    with live.with_delta(delta):
        answers = live.generate([q.text for q in told], max_new_tokens=10)
        after = live.generate([q.text for q in near], max_new_tokens=10)
    right = sum(passes(a.text, q.accept, q.reject) for a, q in zip(answers, told, strict=True))
    assert right >= 0.9 * len(told) and right > len(catechisms)
    assert sum(a == b for a, b in zip(after, before, strict=True)) >= 0.98 * len(near)
