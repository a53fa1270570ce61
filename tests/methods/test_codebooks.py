"""GRACE and WISE against their rules, worked out by hand; streams that are taken up again."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from catechism.delta import Delta, Gated, load, save
from catechism.delta.addresses import ActivationAddress, RadiusAddress, activation_distance
from catechism.delta.effects import Matrices, Vectors
from catechism.errors import BadFact, BadSpec
from catechism.methods import Method
from catechism.methods.edit.grace import BORDER, Grace
from catechism.methods.edit.grace import Spec as GraceSpec
from catechism.methods.edit.wise import SideMemories, Wise
from catechism.methods.edit.wise import Spec as WiseSpec
from catechism.methods.stream import Progress, Streaming
from catechism.model import LiveModel, record
from catechism.model.background import Background
from catechism.solve.ties import ties
from catechism.solve.values import Search
from catechism.types import JSON, Role, Site
from tests.methods.test_contract import FACTS, catechism, live_model, texts

THIRD = catechism("The author of the book is", "the book", "Tokyo")
CODEBOOK = GraceSpec(0, search=Search(steps=25, lr=1.0, stop=0.05, clamp=50.0))
SIDE = WiseSpec(1, steps=3, contexts=1, context_tokens=3)


def grace(live: LiveModel) -> Grace:
    return Grace(Background(live, lambda: iter(texts())))


def wise(live: LiveModel) -> Wise:
    return Wise(Background(live, lambda: iter(texts())))


def part_of(delta: Delta) -> Gated:
    (part,) = delta.parts.values()
    assert isinstance(part, Gated)
    return part


def balls(delta: Delta) -> RadiusAddress:
    address = part_of(delta).address
    assert isinstance(address, RadiusAddress)
    return address


def edits(delta: Delta) -> list[dict[str, JSON]]:
    found: Any = delta.info["edits"]
    return found


def placed(
    live: LiveModel, radius: float, keys: list[list[float]], answers: list[str]
) -> tuple[RadiusAddress, list[int]]:
    """Algorithm 1 on keys that are given, with this first radius."""
    codebook = grace(live).stream(live, CODEBOOK)
    codebook._radius = radius
    empty = RadiusAddress(torch.zeros(0, 2), torch.zeros(0), 0)
    return codebook._placed(empty, torch.tensor(keys), answers, [])


def test_a_far_key_gets_a_ball_of_its_own() -> None:
    address, entries = placed(live_model(), 1.0, [[0.0, 0.0], [3.0, 0.0]], ["a", "b"])
    assert entries == [0, 1] and address.radii.tolist() == [1.0, 1.0]


def test_a_near_key_with_the_same_answer_widens_the_ball() -> None:
    address, entries = placed(live_model(), 1.0, [[0.0, 0.0], [1.5, 0.0], [0.5, 0.0]], ["a", "a", "a"])
    assert entries == [0, 0, 0] and address.radii.tolist() == [1.5]


def test_a_near_key_with_another_answer_parts_the_ball() -> None:
    address, entries = placed(live_model(), 1.0, [[0.0, 0.0], [1.5, 0.0]], ["a", "b"])
    assert entries == [0, 1]
    assert address.radii.tolist() == pytest.approx([0.75 - BORDER, 0.75])


def test_a_ball_that_is_parted_does_not_grow() -> None:
    address, _ = placed(live_model(), 1.0, [[0.0, 0.0], [0.2, 0.0], [0.0, 1.0]], ["a", "b", "c"])
    assert address.radii.tolist() == pytest.approx([0.1 - BORDER, 0.1, 0.5])


def test_of_two_answers_at_one_key_the_newest_speaks() -> None:
    address, _ = placed(live_model(), 1.0, [[1.0, 0.0], [1.0, 0.0]], ["a", "b"])
    assert address.radii[0] < 0 < address.radii[1] < 1e-3


def test_a_key_is_what_enters_the_matrix_at_the_last_token_and_the_value_is_put_there() -> None:
    live = live_model()
    delta = grace(live).fit(live, FACTS, CODEBOOK)
    site, prompts = Site(0, Role.MLP_OUT), [given.fact.prompt for given in FACTS]
    for row, prompt in enumerate(prompts):
        with record(live, [site]) as seen, torch.no_grad():
            live.model(**live.encode([prompt]), use_cache=False)
        assert torch.allclose(balls(delta).keys[row], seen[site][0, -1], atol=1e-5)
        with live.with_delta(delta), record(live, [site], what="output") as given, torch.no_grad():
            live.model(**live.encode([prompt]), use_cache=False)
        effect = part_of(delta).effect
        assert isinstance(effect, Vectors)
        assert torch.allclose(given[site][0, -1], effect.values[row], atol=1e-4)
    with live.with_delta(delta):
        scores = live.score(prompts, [given.fact.object for given in FACTS])
    for edit, score in zip(edits(delta), scores, strict=True):
        assert edit["nll"] == pytest.approx(-score.mean, abs=1e-3)


def test_values_everywhere_and_from_a_random_start() -> None:
    live = live_model()
    before = live.score([FACTS[0].fact.prompt], [FACTS[0].fact.object])[0]
    for spec in (replace(CODEBOOK, where="all"), replace(CODEBOOK, start="cold")):
        delta = grace(live).fit(live, FACTS[:1], spec)
        with live.with_delta(delta):
            after = live.score([FACTS[0].fact.prompt], [FACTS[0].fact.object])[0]
        assert after.mean > before.mean and edits(delta)[0]["nll"] == pytest.approx(-after.mean, abs=1e-3)


def test_an_edit_is_taken_out_by_its_fact_and_a_shared_key_with_its_last() -> None:
    live = live_model()
    twin = catechism(THIRD.fact.prompt, "the book", "Rome")
    codebook = grace(live).stream(live, replace(CODEBOOK, radius=1e6))  # every key lies in every ball
    same = catechism(FACTS[0].fact.prompt + " now", "France", FACTS[0].fact.object)
    codebook.add([FACTS[0], same])
    assert part_of(codebook.progress.delta).entries == 1  # type: ignore[arg-type]
    assert [edit["entry"] for edit in edits(codebook.remove([same.fact]))] == [0]
    codebook.add([twin])
    left = codebook.remove([FACTS[0].fact])
    if part_of(left).entries == 1:
        assert [edit["entry"] for edit in edits(left)] == [0]
    with pytest.raises(BadFact, match="holds no edit"):
        codebook.remove([FACTS[0].fact])
    assert codebook.remove([twin.fact]).parts == {}


@pytest.mark.parametrize(
    ("make", "spec"), [(grace, CODEBOOK), (wise, SIDE), (wise, replace(SIDE, shard=1, retrieve=True))]
)
def test_an_interrupted_stream_ends_with_the_same_bytes(make: Any, spec: Any, tmp_path: Path) -> None:
    live = live_model()
    facts = [*FACTS, THIRD]
    whole = make(live).stream(live, spec)
    for given in facts:
        whole.add([given])
    first = make(live).stream(live, spec)
    path = save(first.add(facts[:2]) if make is wise else _one_by_one(first, facts[:2]), tmp_path / "a")
    again = make(live).stream(live, spec, Progress(load(path), None, 2))
    assert again.add([THIRD]).digest == whole.progress.delta.digest
    assert isinstance(make(live), Method) and isinstance(make(live), Streaming)


def _one_by_one(stream: Any, facts: list[Any]) -> Delta:
    for given in facts:
        delta = stream.add([given])
    return delta


def test_a_question_that_gets_another_answer_has_the_newest() -> None:
    live = live_model()
    other = catechism(FACTS[0].fact.prompt, "France", "London")
    codebook = grace(live).stream(live, CODEBOOK)
    codebook.add(FACTS)
    delta = codebook.add([other])
    assert sorted(str(edit["answer"]) for edit in edits(delta)) == ["London", "the Thames"]
    with pytest.raises(BadFact, match="answer already"):
        grace(live).fit(live, [FACTS[0], other], replace(CODEBOOK, again="refuse"))


# -- WISE ------------------------------------------------------------------------------------------------------------


def test_ties_trims_elects_a_sign_and_takes_the_mean_of_those_that_agree() -> None:
    a = torch.tensor([[4.0, -3.0, 0.1, 2.0]])
    b = torch.tensor([[2.0, 1.0, -0.2, -3.0]])
    # of each the two largest: 4 -3 . . and . . . -3 with 2: signs + - . -
    assert torch.equal(ties(torch.stack([a, b]), 0.5), torch.tensor([[3.0, -3.0, 0.0, -3.0]]))
    assert torch.equal(ties(torch.stack([a, b]), 1.0), torch.tensor([[3.0, -3.0, -0.2, -3.0]]))
    assert torch.equal(ties(a[None], 1.0), a)


def sides(delta: Delta) -> tuple[Tensor, Tensor]:
    part = part_of(delta)
    assert isinstance(part.effect, Matrices) and isinstance(part.address, ActivationAddress)
    return part.effect.changes, part.address.thresholds


def test_only_the_entries_of_the_mask_are_trained_and_none_beyond_the_clamp() -> None:
    live = live_model()
    spec = replace(SIDE, clamp=0.01)
    memory = wise(live).stream(live, spec)
    assert isinstance(memory, SideMemories)
    changes, _ = sides(memory.add(FACTS))
    mask = memory._mask(0)
    assert not changes[0][~mask].any() and changes[0][mask].any()
    assert float(mask.float().mean()) == pytest.approx(0.2, abs=0.05)
    assert float(changes.abs().max()) == pytest.approx(0.01)


def test_the_router_asks_for_a_share_of_what_the_least_edit_changes() -> None:
    live = live_model()
    changes, thresholds = sides(wise(live).fit(live, FACTS, SIDE))
    memory = wise(live).stream(live, SIDE)
    site, found, before = Site(1, Role.MLP_OUT), [], None
    for given in FACTS:  # the distance of an edit is taken when it is trained
        before, _ = sides(memory.add([given]))
        with record(live, [site]) as x, record(live, [site], what="output") as y, torch.no_grad():
            live.model(**live.encode([given.fact.prompt]), use_cache=False)
        act = torch.nn.functional.silu
        found.append(float((act(y[site] + x[site] @ before[0].T) - act(y[site])).norm(dim=2).mean()))
    assert before is not None and torch.equal(before, changes), "one after the other or at once is the same"
    assert float(thresholds[0]) == pytest.approx(0.8 * min(found), rel=1e-4)


def test_the_loss_of_the_margins_is_the_published_one() -> None:
    live = live_model()
    memory = wise(live).stream(live, SIDE)
    unit = memory._unit
    inside, outside = torch.tensor(0.3 * unit), torch.tensor(0.2 * unit)
    wanted = (0.2 - 0.3 + 0.5) + (0.2 - 0.1) + (1.0 - 0.3)
    assert float(memory._margins(inside, outside)) == pytest.approx(wanted * unit, rel=1e-5)
    assert float(memory._margins(torch.tensor(9.0 * unit), torch.tensor(0.0))) == 0.0
    y = torch.randn(1, 3, 4)
    prompt = torch.tensor([[True, True, False]])
    assert float(activation_distance(y, torch.ones(1, 3, 4), prompt, "identity")) == pytest.approx(2.0)


def test_full_shards_become_one_side_memory_or_are_all_kept() -> None:
    live = live_model()
    fourth = catechism("The city of Vienna is in", "Vienna", "Italy")
    facts = [*FACTS, THIRD, fourth]
    kept, _ = sides(wise(live).fit(live, facts, replace(SIDE, shard=1, retrieve=True)))
    merged, thresholds = sides(wise(live).fit(live, facts, replace(SIDE, shard=1, merge=2)))
    assert len(kept) == 4 and len(merged) == len(thresholds) == 3
    assert torch.equal(merged[0], ties(kept[:2], 0.53)) and torch.equal(merged[1:], kept[2:])


@pytest.mark.parametrize(
    ("spec", "bad"),
    [
        (GraceSpec, {"radius": 0.0}), (WiseSpec, {"density": 0.0}), (WiseSpec, {"keep": 1.5}),
        (WiseSpec, {"ratio": 0.0}), (WiseSpec, {"shard": 0}), (WiseSpec, {"merge": 0}), (WiseSpec, {"lr": 0.0}),
        (WiseSpec, {"contexts": -1}),
    ],
)  # fmt: skip
def test_settings_out_of_range_are_refused(spec: Any, bad: dict[str, Any]) -> None:
    with pytest.raises(BadSpec):
        spec(0, **bad)
