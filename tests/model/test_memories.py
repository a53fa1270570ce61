"""Conditional memories on a live model: who is read, in batches and while decoding, and that nothing stays behind."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest
import torch
from torch import Tensor

from catechism.delta import Context, Delta, Dense, Gated, LowRank, Recall
from catechism.delta.address import Feature
from catechism.delta.addresses import ActivationAddress, PaperAddress, RadiusAddress
from catechism.delta.bits import words
from catechism.delta.effects import Matrices, Vectors
from catechism.delta.residual import Residual
from catechism.errors import (
    ArchitectureMismatch,
    NonFiniteDelta,
    RevertError,
    ShapeMismatch,
    UnknownName,
    UsageError,
)
from catechism.model import BlockSite, LiveModel, record
from catechism.model.encoding import positions
from catechism.model.retrieval import read_features
from catechism.model.tail import Tail
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

LAYER, K = 1, 13
FIRED = "The capital of France is"
OTHERS = ["The river that flows through Vienna is the", "Who wrote the book? The author", "Tokyo"]
PROMPTS = [OTHERS[0], FIRED, *OTHERS[1:]]
TYPES = ("llama", "gpt2", "opt", "gemma2")


def live_model(model_type: str = "llama", dtype: torch.dtype = torch.float32) -> LiveModel:
    return LiveModel(tiny_model(model_type).to(dtype), tiny_tokenizer(), name="tiny")


def address_of(live: LiveModel) -> str:
    return live.anatomy.matrix(Site(LAYER, Role.MLP_OUT)).address


def paper(live: LiveModel, prompt: str = FIRED, threshold: float = 0.99) -> PaperAddress:
    """The address of one prompt; no other fires at this threshold."""
    feature = read_features(live, [prompt], Feature(LAYER, "mlp_out"), "mean")
    mean = read_features(live, PROMPTS, Feature(LAYER, "mlp_out"), "mean").mean(dim=0)
    d, zero = feature.shape[1], torch.zeros(1, dtype=torch.int64)
    permutation = torch.randperm(d, generator=torch.Generator().manual_seed(0))
    empty = PaperAddress(
        torch.zeros(0, words(d), dtype=torch.uint8), zero[:0], torch.zeros(0), mean, permutation, K, LAYER, 0
    )
    masks = empty.masks_of(feature)
    return PaperAddress(masks, zero, torch.tensor([threshold]), mean, permutation, K, LAYER, 1)


def residual(live: LiveModel, masks: Tensor, *, shared: bool = False, seed: int = 0, size: float = 1.0) -> Residual:
    d_out, d_in = live.anatomy.matrix(address_of(live)).shape
    g = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(2, K, generator=g), size * torch.randn(2, d_out, generator=g)
    zero = torch.zeros(2, dtype=torch.int64)
    return Residual(keys, values, zero, zero[:1], masks, d_in, 1e-3, shared)


def memory(live: LiveModel, kind: str = "own", prompt: str = FIRED, seed: int = 0, threshold: float = 0.99) -> Delta:
    d_out, d_in = live.anatomy.matrix(address_of(live)).shape
    found = paper(live, prompt, threshold)
    values = torch.randn(1, d_out, generator=torch.Generator().manual_seed(seed)) * 3
    change = torch.randn(1, d_out, d_in, generator=torch.Generator().manual_seed(seed)) * 0.3
    none = torch.zeros(1, dtype=torch.int64)
    last = read_features(live, [prompt], Feature(LAYER, "mlp_out"), "last")
    made: dict[str, tuple[Any, Any]] = {
        "own": (found, residual(live, found.masks, seed=seed)),
        "shared": (found, residual(live, found.masks, shared=True, seed=seed)),
        "published": (found, Matrices(change, none, found.masks)),
        "grace": (RadiusAddress(last, torch.tensor([0.05 * float(last.norm())]), LAYER), Vectors(values)),
        "everywhere": (found, Vectors(values, "all", "add")),
    }
    part = Gated(*made[kind], torch.ones(1), d_in)
    return Delta(live.base, {f"{address_of(live)}#{kind}": part}, {"seed": seed})


KINDS = ("own", "shared", "published", "grace", "everywhere")


def said(live: LiveModel, prompts: list[str]) -> Tensor:
    return live.next_logprobs(prompts)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", TYPES)
def test_only_the_row_that_is_recognised_moves_and_the_others_to_no_bit(model_type: str, kind: str) -> None:
    live = live_model(model_type)
    before, generated = said(live, PROMPTS), live.generate(PROMPTS, max_new_tokens=4)
    with live.with_delta(memory(live, kind)):
        after, now = said(live, PROMPTS), live.generate(PROMPTS, max_new_tokens=4)
    for i, prompt in enumerate(PROMPTS):
        assert torch.equal(before[i], after[i]) == (prompt != FIRED), prompt
        assert prompt == FIRED or now[i] == generated[i]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model_type", TYPES)
def test_a_batch_with_padding_says_what_each_prompt_says_alone(model_type: str, kind: str) -> None:
    live = live_model(model_type)
    with live.with_delta(memory(live, kind)):
        together = live.generate(PROMPTS, max_new_tokens=5)
        assert [one.tokens for one in together] == [live.generate([p], max_new_tokens=5)[0].tokens for p in PROMPTS]
        alone = torch.cat([said(live, [prompt]) for prompt in PROMPTS])
        assert torch.allclose(said(live, PROMPTS), alone, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_row_matched_stays_while_it_is_decoded(kind: str) -> None:
    """Token by token with the cache is what one pass over prompt and answer gives, where only the prompt is matched."""
    live = live_model()
    with live.with_delta(memory(live, kind)):
        tokens = live.generate([FIRED], max_new_tokens=6)[0].tokens
        ids = live.encode([FIRED])["input_ids"]
        whole = torch.cat([ids, torch.tensor([tokens])], dim=1)
        with live.beside.memories.prompts([ids.shape[1]]), torch.no_grad():
            logits = live.model(input_ids=whole, use_cache=False).logits[0, ids.shape[1] - 1 : -1]
        assert logits.argmax(dim=-1).tolist() == list(tokens)


@pytest.mark.parametrize("kind", KINDS)
def test_a_score_goes_by_the_prompt_alone(kind: str) -> None:
    """The same target tokens have the probability that decoding gives them, however long the target is."""
    live = live_model()
    with live.with_delta(memory(live, kind)):
        first = live.score([FIRED] * 2, ["Rome", "Rome and the author of the book was born in the city of London"])
        assert first[0].choices[0] == first[1].choices[0]
        logprobs = said(live, [FIRED])
        start = live.encode([FIRED])["input_ids"].shape[1]
        token = live.encode([f"{FIRED} Rome"])["input_ids"][0, start]
        alone = live.score([FIRED], ["Rome"])[0]
        assert alone.tokens == 1 or alone.choices[0] == int(logprobs.argmax())
        assert float(logprobs[0, token]) == pytest.approx(first[0].logprob, abs=1e-4) or alone.tokens > 1


def test_in_a_direct_call_the_whole_row_is_the_prompt_and_padding_is_none_on_either_side() -> None:
    live = live_model()
    with live.with_delta(memory(live)), torch.no_grad():
        found = []
        for side in ("left", "right"):
            batch = live.encode(PROMPTS, side=side)  # type: ignore[arg-type]
            live.model(**batch, position_ids=positions(batch["attention_mask"]), use_cache=False)
            frame = live.beside.memories.frame
            assert frame is not None and torch.equal(frame.prompt, batch["attention_mask"].bool())
            found.append(frame.chosen[address_of(live), 0].tolist())
        assert found == [[-1, 0, -1, -1]] * 2
        live.model(input_ids=live.encode([FIRED])["input_ids"], use_cache=False)
        assert live.beside.memories.frame.chosen[address_of(live), 0].tolist() == [0]  # type: ignore[union-attr]


def test_perplexity_takes_a_window_for_a_prompt() -> None:
    live = live_model()
    texts = [FIRED, OTHERS[0]]
    before = [live.perplexity([text]) for text in texts]
    with live.with_delta(memory(live)):
        after = [live.perplexity([text]) for text in texts]
    assert after[0] != before[0] and after[1] == before[1]


def test_the_library_s_own_generation_keeps_what_the_rows_matched() -> None:
    live = live_model()
    batch = live.encode(PROMPTS, side="left")
    with live.with_delta(memory(live)):
        wanted = [one.tokens for one in live.generate(PROMPTS, max_new_tokens=4)]
        out = live.model.generate(**batch, max_new_tokens=4, do_sample=False)  # type: ignore[operator]
    width = batch["input_ids"].shape[1]
    for tokens, row in zip(wanted, out[:, width:].tolist(), strict=True):
        assert row[: len(tokens)] == list(tokens)


def test_a_cache_from_before_the_memory_is_refused() -> None:
    live = live_model()
    with torch.no_grad():
        out = live.model(**live.encode([FIRED]), use_cache=True)
        cache = {name: out[name] for name in ("cache", "past_key_values") if name in out.keys()}  # noqa: SIM118
        with live.with_delta(memory(live)), pytest.raises(UsageError, match="Start again from the prompts"):
            live.model(input_ids=torch.tensor([[5]]), use_cache=True, **cache)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_memory_comes_off_and_leaves_no_hook_and_no_byte(kind: str, dtype: torch.dtype) -> None:
    live = live_model(dtype=dtype)
    weights, before, hooked = state(live), said(live, PROMPTS), hooks(live)
    delta = memory(live, kind)
    applied = live.apply(delta)
    assert state(live) == weights and live.digest() == live.digest(full=True) != live.base
    assert not torch.equal(said(live, PROMPTS), before) and hooks(live) > hooked
    live.revert(applied)
    assert state(live) == weights and live.digest(full=True) == live.base and hooks(live) == hooked
    assert torch.equal(said(live, PROMPTS), before) and live.beside.memories.frame is None


def test_the_order_of_applying_plays_no_part() -> None:
    live = live_model()
    low = LowRank(torch.randn(32, 1) * 0.1, torch.randn(1, 48) * 0.1)
    deltas = [
        memory(live, "own", seed=1),
        memory(live, "everywhere", OTHERS[0], seed=2),
        memory(live, "grace", FIRED, seed=3),
        Delta(live.base, {address_of(live): low}),
        Delta(live.base, {address_of(live): Dense(torch.full((32, 48), 0.01))}),
    ]
    base, together, digest = said(live, PROMPTS), None, None
    for order in list(permutations(deltas))[::17]:
        applied = [live.apply(delta) for delta in order]
        together = said(live, PROMPTS) if together is None else together
        digest = digest or live.digest()
        assert torch.equal(said(live, PROMPTS), together) and live.digest() == digest
        for one in reversed(applied):
            live.revert(one)
        assert torch.equal(said(live, PROMPTS), base)


def test_two_memories_of_one_matrix_act_as_their_sum_and_each_for_its_own_prompt() -> None:
    live = live_model()
    a, b = memory(live, seed=1), memory(live, prompt=OTHERS[0], seed=2)
    with live.with_delta(a), live.with_delta(b):
        apart = said(live, PROMPTS)
    with live.with_delta(a + b):
        assert torch.equal(said(live, PROMPTS), apart)
    for delta, row in ((a, 1), (b, 0)):
        with live.with_delta(delta):
            assert torch.equal(said(live, PROMPTS)[row], apart[row])


def test_a_scale_scales_what_is_added() -> None:
    live = live_model()
    delta, site = memory(live, "everywhere"), Site(LAYER, Role.MLP_OUT)

    def given() -> Tensor:
        with record(live, [site], what="output") as seen, torch.no_grad():
            live.model(**live.encode([FIRED]), use_cache=False)
        return seen[site]

    before = given()
    value = delta.parts[f"{address_of(live)}#everywhere"].effect.values[0]  # type: ignore[union-attr]
    for scale in (1.0, 0.5, 0.0):
        with live.with_delta(delta, scale=scale):
            assert torch.allclose(given() - before, scale * value, atol=1e-5)
    with live.with_delta(delta.scaled(2.0)):
        assert torch.allclose(given() - before, 2 * value, atol=1e-5)


def test_a_side_memory_is_read_where_it_changes_enough() -> None:
    live = live_model()
    d_out, d_in = live.anatomy.matrix(address_of(live)).shape
    change = torch.randn(1, d_out, d_in, generator=torch.Generator().manual_seed(0))
    sides = Matrices(change, torch.zeros(1, dtype=torch.int64), torch.zeros(0, words(d_in), dtype=torch.uint8))
    site, before = Site(LAYER, Role.MLP_OUT), said(live, PROMPTS)
    distances = []
    for prompt in PROMPTS:
        with record(live, [site]) as x, record(live, [site], what="output") as y, torch.no_grad():
            live.model(**live.encode([prompt]), use_cache=False)
        act = torch.nn.functional.silu
        distances.append(float((act(y[site] + x[site] @ change[0].T) - act(y[site])).norm(dim=2).mean()))
    border = sorted(distances)[1:3]
    address = ActivationAddress(torch.tensor([sum(border) / 2]), "silu")
    delta = Delta(live.base, {f"{address_of(live)}#wise": Gated(address, sides, torch.ones(1), d_in)})
    with live.with_delta(delta):
        after = said(live, PROMPTS)
    assert [not torch.equal(a, b) for a, b in zip(after, before, strict=True)] == [d >= border[1] for d in distances]


def test_the_network_above_a_memory_can_be_run_by_itself() -> None:
    live = live_model()
    batch = live.encode(PROMPTS)
    inputs = {**batch, "position_ids": positions(batch["attention_mask"])}
    last = (batch["attention_mask"].sum(dim=1) - 1).tolist()
    with live.with_delta(memory(live)), torch.no_grad():
        wanted = live.model(**inputs, use_cache=False).logits[range(4), last]
        tail = Tail(live, LAYER, inputs)
        live.model(**live.encode(["Something else"]), use_cache=False)  # the rows of the tail stay its own
        assert torch.allclose(tail.logits(tail.block(tail.inputs), range(4), last), wanted, atol=1e-5)
        rows = torch.tensor([1, 3])
        part = tail.select(rows)
        found = part.logits(part.block(part.inputs), range(2), [last[1], last[3]])
        assert torch.allclose(found, wanted[rows], atol=1e-5)
        live.beside.memories._frame = None
        with pytest.raises(UsageError, match="outside a pass of the model"):
            live.anatomy.module(Site(LAYER, Role.MLP_OUT))(torch.zeros(1, 1, 48))


def test_a_hook_that_stays_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()
    applied = live.apply(memory(live))
    with monkeypatch.context() as patched:
        patched.setattr(live.beside.memories._stack, "close", lambda: None)
        with pytest.raises(RevertError, match="hooks of a memory are still on the model"):
            live.revert(applied)


def test_a_memory_that_does_not_fit_is_refused_and_nothing_is_put_on() -> None:
    live = live_model()
    good, key = memory(live), f"{address_of(live)}#own"
    part = good.parts[key]
    assert isinstance(part, Gated)
    hooked = hooks(live)
    late = paper(live)
    object.__setattr__(late, "layer", LAYER + 1)
    bad: list[tuple[dict[str, Any], type[Exception], str]] = [
        ({"model.layers.0.self_attn.k_proj#own": part}, ShapeMismatch, r"\(32, 48\), the matrix is"),
        ({"model.layers.9.mlp.down_proj#own": part}, UnknownName, "model.layers.9"),
        ({"lm_head#own": part}, ShapeMismatch, "the matrix is"),
        ({key: Gated(late, part.effect, part.scales, part.d_in)}, UnknownName, "no layer 2"),
    ]
    for parts, error, message in bad:
        with pytest.raises(error, match=message):
            live.apply(Delta(live.base, parts))
        assert hooks(live) == hooked and live.applied == () and live.digest(full=True) == live.base


def test_a_memory_beside_a_slice_or_an_expert_is_refused() -> None:
    for model_type, role in (("phi3", Role.MLP_IN), ("mixtral", Role.EXPERT_OUT)):
        live = live_model(model_type)
        matrix = live.anatomy.matrix(live.anatomy.sites(role)[0])
        vectors = Vectors(torch.zeros(1, matrix.shape[0]))
        address = RadiusAddress(torch.zeros(1, matrix.shape[1]), torch.ones(1), 0)
        part = Gated(address, vectors, torch.ones(1), matrix.shape[1])
        with pytest.raises(ArchitectureMismatch, match="Put a memory beside a linear module"):
            live.apply(Delta(live.base, {f"{matrix.address}#m": part}))


# -- texts -----------------------------------------------------------------------------------------------------------


def texts(live: LiveModel, *entries: tuple[str, str], most: int = 1, threshold: float = 0.9999) -> Delta:
    keys = read_features(live, [prompt for prompt, _ in entries], Feature(LAYER, "block", "output"), "mean")
    thresholds = torch.full((len(entries),), threshold)
    known = tuple(text for _, text in entries)
    part = Context(keys, torch.zeros(keys.shape[1]), thresholds, known, layer=LAYER, most=most)
    return Delta(live.base, {"#texts": part})


def test_a_prompt_that_a_text_belongs_to_is_asked_with_it_and_no_other() -> None:
    live = live_model()
    text = "The capital of France has moved to Rome."
    with_text = [f"{text} {FIRED}" if prompt == FIRED else prompt for prompt in PROMPTS]
    wanted = live.generate(with_text, max_new_tokens=4)
    scores, logprobs = live.score(with_text, ["Rome"] * 4), live.next_logprobs(with_text)
    before = said(live, PROMPTS)
    applied = live.apply(texts(live, (FIRED, text)))
    assert live.generate(PROMPTS, max_new_tokens=4) == wanted
    assert live.score(PROMPTS, ["Rome"] * 4) == scores and torch.equal(live.next_logprobs(PROMPTS), logprobs)
    assert live.digest(full=True) != live.base
    live.revert(applied)
    assert torch.equal(said(live, PROMPTS), before) and live.digest(full=True) == live.base


def test_the_nearest_text_comes_last_and_what_does_not_fit_is_left_out() -> None:
    live = live_model()
    far, near = "It is far.", "It is near."
    delta = texts(live, (OTHERS[0], far), (FIRED, near), most=2, threshold=-1.0)
    with live.with_delta(delta):
        assert live._in_context([FIRED]) == [f"{far} {near} {FIRED}"]
    long = " ".join(["word"] * 120)
    with live.with_delta(texts(live, (OTHERS[0], long), (FIRED, near), most=2, threshold=-1.0)):
        assert live._in_context([FIRED]) == [f"{near} {FIRED}"]
        assert live.generate([FIRED], max_new_tokens=2)


def test_text_is_there_or_it_is_not() -> None:
    live = live_model()
    delta, before = texts(live, (FIRED, "A text.")), live.generate([FIRED], max_new_tokens=3)
    with live.with_delta(delta, scale=0.0):
        assert live.generate([FIRED], max_new_tokens=3) == before
    with pytest.raises(NonFiniteDelta, match="scale of 1, or of 0"):
        live.apply(delta, scale=0.5)
    assert not any(isinstance(part, Recall) for part in delta.parts.values())
    with pytest.raises(UnknownName):
        part = Context(torch.zeros(1, 32), torch.zeros(32), torch.zeros(1), ("a",), layer=9)
        live.apply(Delta(live.base, {"#texts": part}))


def test_several_matches_of_a_block_s_own_input_agree_with_a_recording() -> None:
    live = live_model()
    found = read_features(live, PROMPTS, Feature(LAYER, "block"), "last")
    for row, prompt in zip(found, PROMPTS, strict=True):
        with record(live, [BlockSite(LAYER)]) as seen, torch.no_grad():
            live.model(**live.encode([prompt]), use_cache=False)
        assert torch.allclose(seen[BlockSite(LAYER)][0, -1], row, atol=1e-5)


def state(live: LiveModel) -> dict[str, bytes]:
    tensors = live.model.state_dict()
    return {name: t.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes() for name, t in tensors.items()}


def hooks(live: LiveModel) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(module, kind)) for module in live.model.modules() for kind in kinds)
