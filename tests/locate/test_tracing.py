"""Causal tracing against a trace made by hand, on a planted fact, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

from catechism.errors import BadFact, BadSpec, UsageError
from catechism.locate.tracing import Tracing, trace_cause
from catechism.model import LiveModel, Part
from tests.locate.planted import LAYERS, tiny, untouched

PROMPT, SUBJECT, ANSWER = "The river that flows through Vienna is", "Vienna", "the"
SPEC = Tracing(samples=3, window=2)


def test_tokens_and_probabilities_are_those_of_the_prompt() -> None:
    live = tiny()
    trace = trace_cause(live, PROMPT, SUBJECT, ANSWER, spec=SPEC)
    assert "".join(trace.tokens) == f"<bos>{PROMPT}"
    first, last = trace.subject
    assert "".join(trace.tokens[first : last + 1]).strip() == SUBJECT and last > first
    ids = live.tokenizer(f"{PROMPT} {ANSWER}")["input_ids"]
    chances = live.model(torch.tensor([ids])).logits[0, -2].softmax(dim=-1)
    assert trace.clean == pytest.approx(float(chances[ids[-1]]), rel=1e-4)
    assert trace.corrupted != trace.clean
    embedded = live.anatomy.embed(torch.tensor(ids))[first : last + 1]
    assert trace.sigma == pytest.approx(3 * float(embedded.std()), rel=1e-5)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "mixtral"])
def test_the_last_block_at_the_last_token_restores_everything(model_type: str) -> None:
    trace = trace_cause(tiny(model_type), PROMPT, SUBJECT, ANSWER, spec=SPEC)
    assert trace.effects[-1][-1] == pytest.approx(trace.total, abs=1e-7)
    assert all(abs(effect) < 1e-7 for effect in trace.effects[-1][:-1])


def test_what_stands_before_the_subject_has_no_effect() -> None:
    trace = trace_cause(tiny(), PROMPT, SUBJECT, ANSWER, spec=SPEC)
    assert all(effect == 0.0 for row in trace.effects for effect in row[: trace.subject[0]])
    assert any(effect != 0.0 for row in trace.effects for effect in row[trace.subject[0] :])


def by_hand(live: LiveModel, layers: range, token: int, first: int, last: int, sigma: float) -> tuple[float, float]:
    """Mean probability corrupted and restored at the MLPs of these layers, one row at a time."""
    ids = torch.tensor([live.tokenizer(f"{PROMPT} {ANSWER}")["input_ids"]])
    noise = torch.randn(3, last + 1 - first, 32, generator=torch.Generator().manual_seed(0)) * sigma
    clean: dict[int, torch.Tensor] = {}

    def chance(sample: int | None, restored: range) -> float:
        handles = []

        def corrupt(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
            out = out.clone()
            out[0, first : last + 1] += noise[sample]
            return out

        def keep(layer: int) -> Any:
            return lambda _module, _args, out: clean.__setitem__(layer, out.clone())

        def restore(layer: int) -> Any:
            def put(_module: object, _args: object, out: torch.Tensor) -> torch.Tensor:
                out = out.clone()
                out[0, token] = clean[layer][0, token]
                return out

            return put

        if sample is None:
            handles += [live.anatomy.mlp(n).register_forward_hook(keep(n)) for n in range(LAYERS)]
        else:
            handles.append(live.anatomy.embed.register_forward_hook(corrupt))
            handles += [live.anatomy.mlp(n).register_forward_hook(restore(n)) for n in restored]
        logits = live.model(ids).logits[0, -2]
        for handle in handles:
            handle.remove()
        return float(logits.softmax(dim=-1)[ids[0, -1]])

    chance(None, range(0))
    corrupted = [chance(sample, range(0)) for sample in range(3)]
    restored = [chance(sample, layers) for sample in range(3)]
    return sum(corrupted) / 3, sum(restored) / 3


def test_an_indirect_effect_is_that_of_a_trace_by_hand() -> None:
    live = tiny()
    trace = trace_cause(live, PROMPT, SUBJECT, ANSWER, part=Part.MLP, spec=SPEC)
    first, last = trace.subject
    for layer, around in ((0, range(0, 1)), (2, range(1, 3)), (3, range(2, 4))):  # a window of two ends at its layer
        for token in (first, last, len(trace.tokens) - 1):
            corrupted, restored = by_hand(live, around, token, first, last, trace.sigma)
            assert trace.corrupted == pytest.approx(corrupted, rel=1e-4)
            assert trace.effects[layer][token] == pytest.approx(restored - corrupted, rel=1e-2, abs=1e-7)


def test_the_subjects_end_alone_is_a_column_of_the_whole_map() -> None:
    live = tiny()
    whole = trace_cause(live, PROMPT, SUBJECT, ANSWER, part=Part.ATTENTION, spec=SPEC)
    column = trace_cause(live, PROMPT, SUBJECT, ANSWER, part=Part.ATTENTION, subject_end_only=True, spec=SPEC)
    at = whole.subject[1]
    for all_tokens, one in zip(whole.effects, column.effects, strict=True):
        assert one[at] == pytest.approx(all_tokens[at], abs=1e-7)
        assert not any(effect for t, effect in enumerate(one) if t != at)


def test_the_seed_decides_and_nothing_else_is_touched() -> None:
    live = tiny()
    state, digest = torch.random.get_rng_state(), live.digest(full=True)
    one, again, small, other = (
        trace_cause(live, PROMPT, SUBJECT, ANSWER, spec=spec)
        for spec in (SPEC, SPEC, replace(SPEC, batch_size=7), replace(SPEC, seed=1))
    )
    assert one == again and one.effects != other.effects
    for row, same in zip(one.effects, small.effects, strict=True):
        assert row == pytest.approx(same, abs=1e-7)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert live.digest(full=True) == digest and untouched(live)


def test_blocks_are_restored_alone_and_a_window_is_a_fifth_of_the_layers() -> None:
    live = tiny(n_layers=10)
    assert trace_cause(live, PROMPT, SUBJECT, ANSWER, subject_end_only=True, spec=Tracing(samples=1)).window == 1
    mlp = trace_cause(live, PROMPT, SUBJECT, ANSWER, part=Part.MLP, subject_end_only=True, spec=Tracing(samples=1))
    assert mlp.window == 2


def test_the_peak_and_the_json_are_those_of_the_effects() -> None:
    trace = trace_cause(tiny(), PROMPT, SUBJECT, ANSWER, spec=SPEC)
    layer, token = trace.peak
    assert trace.effects[layer][token] == max(effect for row in trace.effects for effect in row)
    assert trace.json() == {
        "part": "block",
        "window": 1,
        "tokens": list(trace.tokens),
        "subject": list(trace.subject),
        "clean": trace.clean,
        "corrupted": trace.corrupted,
        "effects": [list(row) for row in trace.effects],
        "sigma": trace.sigma,
    }


def test_a_subject_that_comes_twice_is_taken_where_it_comes_last() -> None:
    prompt = "Vienna is old, and the river in Vienna is"
    trace = trace_cause(tiny(), prompt, "Vienna", ANSWER, subject_end_only=True, spec=SPEC)
    first, last = trace.subject
    assert "".join(trace.tokens[first : last + 1]) == " Vienna" and "".join(trace.tokens[last + 1 :]) == " is"


def test_what_cannot_be_traced_is_refused() -> None:
    live = tiny()
    with pytest.raises(BadFact, match="'Paris' is not in the prompt"):
        trace_cause(live, PROMPT, "Paris", ANSWER)
    with pytest.raises(BadFact, match="Give a target that is not empty"):
        trace_cause(live, PROMPT, SUBJECT, " ")
    with pytest.raises(UsageError, match="Shorten the text"):
        trace_cause(live, "a long story " * 200 + PROMPT, SUBJECT, ANSWER)
    for wrong in ({"samples": 0}, {"window": 0}, {"batch_size": 0}, {"noise": 0.0}, {"noise": float("nan")}):
        with pytest.raises(BadSpec, match="Use|use"):
            Tracing(**wrong)
    assert untouched(live)
