"""Patching and its first-order estimate: against patches made by hand, and on facts planted at a known layer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch

from catechism.delta import Delta
from catechism.errors import BadFact, UsageError
from catechism.locate.patching import Gain, Where, estimate_gains, mean_gains, patch_gains
from catechism.model import BlockSite, LiveModel, Part
from catechism.types import Fact
from tests.locate.planted import FACT, LAYERS, plant, tiny, untouched

FACTS = [
    Fact("The capital of France is", "France", "Rome"),
    Fact("Which river flows through London? The", "London", "Danube", statement="London stands on the Danube."),
    FACT,
]
SITES = [BlockSite(layer, part) for layer in range(LAYERS) for part in (Part.MLP, Part.ATTENTION)]


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma2"])
def test_patching_and_its_estimate_name_the_layer_where_a_fact_was_planted(model_type: str, layer: int) -> None:
    live = tiny(model_type)
    delta = plant(live, layer)
    (gains,) = patch_gains(live, [FACT], places=SITES, delta=delta)
    best = max(gains, key=lambda gain: gain.logprob_gain)
    assert best.place == BlockSite(layer, Part.MLP)
    assert best.logprob_gain > 0.5 and best.teacher > best.before
    (estimates,) = estimate_gains(live, [FACT], places=SITES, wheres=(Where.PROMPT,), delta=delta)
    assert SITES[estimates.index(max(estimates))] == BlockSite(layer, Part.MLP)
    (blocks,) = patch_gains(
        live, [FACT], places=[BlockSite(n) for n in range(LAYERS)], wheres=(Where.PROMPT,), delta=delta
    )
    assert [gain.logprob_gain > 0.5 for gain in blocks] == [n >= layer for n in range(LAYERS)]
    assert live.digest(full=True) == live.base and untouched(live)


def by_hand(live: LiveModel, fact: Fact, module: torch.nn.Module, where: Where) -> tuple[float, float, float]:
    """Log-probabilities before, patched, and of the teacher, with hooks and rows of this test's own."""
    students = live.tokenizer(f"{fact.prompt} {fact.object}")["input_ids"]
    teachers = live.tokenizer(f"{fact.sentence} {fact.prompt} {fact.object}")["input_ids"]
    head = len(live.tokenizer(fact.prompt)["input_ids"])
    n_answer = len(students) - head
    kept: list[torch.Tensor] = []

    def first(out: Any) -> torch.Tensor:
        return out if isinstance(out, torch.Tensor) else out[0]

    def run(ids: list[int], hook: Callable[..., Any] | None = None) -> float:
        handle = module.register_forward_hook(hook) if hook else None
        logprobs = live.model(torch.tensor([ids])).logits[0].log_softmax(dim=-1)
        if handle:
            handle.remove()
        return float(sum(logprobs[t - 1, ids[t]] for t in range(len(ids) - n_answer, len(ids))))

    def keep(_module: object, _args: object, out: Any) -> None:
        kept.append(first(out)[0].clone())

    def put(_module: object, _args: object, out: Any) -> Any:
        new = first(out).clone()
        for t in at:
            new[0, t - len(students)] = kept[0][t - len(students)]
        return new if isinstance(out, torch.Tensor) else (new, *out[1:])

    last = len(live.tokenizer(fact.prompt[: fact.prompt.rindex(fact.subject) + len(fact.subject)])["input_ids"]) - 1
    at = {
        Where.SUBJECT: [last],
        Where.LAST: range(head - 1, len(students) - 1),
        Where.PROMPT: range(2, len(students) - 1),
    }[where]
    return run(students), (teacher := run(teachers, keep), run(students, put))[1], teacher


@pytest.mark.parametrize("where", [Where.SUBJECT, Where.LAST])
@pytest.mark.parametrize("part", list(Part))
def test_a_gain_is_what_the_answer_gains_from_the_teachers_activation(part: Part, where: Where) -> None:
    live, place = tiny("llama"), BlockSite(1, part)
    parts = live.anatomy
    module = {Part.BLOCK: parts.block, Part.ATTENTION: parts.attention, Part.MLP: parts.mlp}[part](1)
    for fact, (gain,) in zip(FACTS, patch_gains(live, FACTS, places=[place], wheres=[where]), strict=True):
        before, patched, teacher = (torch.tensor(x, dtype=torch.float64) for x in by_hand(live, fact, module, where))
        assert (gain.place, gain.where) == (place, where)
        assert gain.logprob_gain == pytest.approx(float(patched - before), rel=1e-3, abs=1e-5)
        assert gain.gain == pytest.approx(float(patched.exp() - before.exp()), rel=1e-3, abs=1e-9)
        assert gain.before == pytest.approx(float(before.exp()), rel=1e-4)
        assert gain.teacher == pytest.approx(float(teacher.exp()), rel=1e-4)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral"])
def test_the_last_block_where_the_answer_is_said_is_all_that_the_teacher_knows(model_type: str) -> None:
    live = tiny(model_type)
    place = BlockSite(LAYERS - 1)
    for last, prompt in patch_gains(live, FACTS, places=[place], wheres=[Where.LAST, Where.PROMPT]):
        assert last.gain == pytest.approx(last.teacher - last.before, rel=1e-3, abs=1e-9)
        assert prompt.gain == pytest.approx(last.gain, rel=1e-3, abs=1e-9)


def test_a_teacher_that_is_the_student_has_nothing_to_give() -> None:
    live = tiny("llama")
    nothing = Delta(live.base, {})
    assert all(abs(gain.logprob_gain) < 1e-5 for gain in patch_gains(live, FACTS[:1], delta=nothing)[0])
    assert all(abs(x) < 1e-5 for x in estimate_gains(live, FACTS[:1], delta=nothing)[0])


def test_the_estimate_is_the_gain_of_a_small_change() -> None:
    live = tiny("llama")
    delta = plant(live, 2, size=1e-2)
    (gains,), (estimates,) = patch_gains(live, [FACT], delta=delta), estimate_gains(live, [FACT], delta=delta)
    assert max(estimates) > 1e-2
    for gain, estimate in zip(gains, estimates, strict=True):
        assert gain.logprob_gain == pytest.approx(estimate, rel=0.05, abs=1e-4)


def test_facts_together_and_alone_in_any_batch_say_the_same() -> None:
    live = tiny("llama")
    together = patch_gains(live, FACTS)
    assert [len(row) for row in together] == [LAYERS * len(Part) * len(Where)] * len(FACTS)
    assert estimate_gains(live, FACTS) == [
        pytest.approx(row, rel=1e-3, abs=1e-5) for row in estimate_gains(live, FACTS, batch_size=1)
    ]
    for fact, row in zip(FACTS, together, strict=True):
        (alone,) = patch_gains(live, [fact], batch_size=5)
        for one, other in zip(row, alone, strict=True):
            assert (one.place, one.where) == (other.place, other.where)
            assert one.logprob_gain == pytest.approx(other.logprob_gain, rel=1e-3, abs=1e-5)
    assert untouched(live)


def test_the_mean_is_taken_place_by_place() -> None:
    rows = [[Gain(BlockSite(0), Where.LAST, x, 2 * x, 3 * x, 4 * x)] for x in (1.0, 3.0)]
    assert mean_gains(rows) == [Gain(BlockSite(0), Where.LAST, 2.0, 4.0, 6.0, 8.0)]


def test_a_gain_as_json() -> None:
    assert Gain(BlockSite(2, Part.MLP), Where.SUBJECT, 0.1, 0.2, 0.3, 0.4).json() == {
        "layer": 2, "part": "mlp", "where": "subject", "gain": 0.1, "logprob_gain": 0.2, "before": 0.3, "teacher": 0.4
    }  # fmt: skip


def test_what_cannot_be_patched_is_refused_and_leaves_no_trace() -> None:
    live = tiny("llama")
    for measure in (patch_gains, estimate_gains):
        with pytest.raises(BadFact, match="'Paris' is not in the prompt 'The capital is'"):
            measure(live, [Fact("The capital is", "Paris", "Rome")])
        with pytest.raises(BadFact, match="Give a target that is not empty"):
            measure(live, [replace(FACT, object="")])
        with pytest.raises(UsageError, match="Shorten the text"):
            measure(live, [replace(FACT, statement="a long story " * 200)])
        with pytest.raises(UsageError, match="batch_size=0"):
            measure(live, [FACT], batch_size=0)
    assert untouched(live)


def test_a_prompt_that_is_cut_otherwise_after_its_context_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tokenizer at hand does that, so another word stands for it in the teacher's row."""
    live = tiny("llama")
    encode = live.encode_pairs
    calls: list[int] = []

    def otherwise(prompts: list[str], targets: list[str]) -> Any:
        calls.append(len(prompts))
        return encode([prompt.replace("flows", "runs") for prompt in prompts] if len(calls) == 2 else prompts, targets)

    monkeypatch.setattr(live, "encode_pairs", otherwise)
    with pytest.raises(BadFact, match="Give the fact a statement that ends with a full stop"):
        patch_gains(live, [Fact("The river of Vienna flows", "Vienna", "the")])
