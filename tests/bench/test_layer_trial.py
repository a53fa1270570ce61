"""The layer for many facts is the one that holds them, and a layer that cannot take them comes last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from catechism.bench import layer_trial
from catechism.bench.layer_trial import layer_by_trial
from catechism.delta import Delta
from catechism.errors import NoConvergence
from catechism.methods.train.lora import Lora
from catechism.model import LiveModel
from catechism.types import Kind, Question
from tests.methods.forget_requests import FORGET, background, live_model


class Scripted:
    """Learns by LoRA in one layer, does nothing in another, and fails where it is told to."""

    name = "scripted"
    Spec = Lora.Spec
    fails: ClassVar[int] = -1

    def __init__(self, live: LiveModel) -> None:
        self._lora = Lora(background(live))

    def fit(self, live: LiveModel, catechisms: Any, spec: Any) -> Delta:
        if spec.layer == self.fails:
            raise NoConvergence("told to")
        if spec.layer == 0:
            return Delta(live.base, {})
        return self._lora.fit(live, catechisms, replace(spec, rank=8, steps=150, lr=2e-2))


def test_the_layer_that_holds_the_facts_is_taken() -> None:
    live = live_model("llama")
    before = live.digest(full=True)
    facts = [replace(one, study=()) for one in FORGET]
    layer, ranking = layer_by_trial(Scripted(live), live, facts, seed=0)  # type: ignore[arg-type]
    rows: Any = ranking
    assert layer == 1 and [row["layer"] for row in rows][0] == 1
    assert rows[0]["learned"] == 1.0 and rows[-1]["learned"] == 0.0
    assert live.digest(full=True) == before and not live.applied


def test_what_is_not_left_as_it_was_counts_against_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model("llama")

    def said(live: LiveModel, pairs: Sequence[tuple[str, str]]) -> list[bool]:
        """What is to be learned always is; what must not move is there until something is changed."""
        changed = any(one.delta.parts for one in live.applied)
        return [answer != "kept" or not changed for _, answer in pairs]

    monkeypatch.setattr(layer_trial, "_said", said)
    study = (Question("Something else is", Kind.NEIGHBOUR, ("kept",)),)
    facts = [replace(one, study=study) for one in FORGET]
    layer, ranking = layer_by_trial(Scripted(live), live, facts, seed=0)  # type: ignore[arg-type]
    scores = {row["layer"]: (row["learned"], row["kept"], row["score"]) for row in ranking}  # type: ignore[index,call-overload]
    assert layer == 0 and scores == {0: (1.0, 1.0, 1.0), 1: (1.0, 0.0, 0.0)}


def test_a_layer_in_which_the_method_fails_comes_to_nothing() -> None:
    class Fails(Scripted):
        fails = 1

    live = live_model("llama")
    layer, ranking = layer_by_trial(Fails(live), live, FORGET, seed=0)  # type: ignore[arg-type]
    assert layer == 0 and all(row["score"] == 0.0 for row in ranking)  # type: ignore[index,call-overload]
