"""The selector: each rule decides where it should, and says why."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catechism.methods import METHODS
from catechism.methods.select import (
    BULKY_CHARS,
    CROWDED,
    EXPLICIT,
    LONG_OBJECT_TOKENS,
    NOT_TAKEN,
    SEPARABLE,
    Evidence,
    instead,
    select,
)
from catechism.types import Fact

FACT = Fact("The capital of France is", "France", "Lyon")
EVIDENCE = Evidence(object_tokens=2, closed_form_layer=1, separability=0.8, distill_layer=3)


@pytest.mark.parametrize(
    ("fact", "evidence", "method", "layer", "rule"),
    [
        (FACT, EVIDENCE, "rome", 1, "atomic"),
        (FACT, replace(EVIDENCE, separability=None), "rome", 1, "atomic"),
        (FACT, replace(EVIDENCE, separability=SEPARABLE), "rome", 1, "atomic"),
        (FACT, replace(EVIDENCE, separability=SEPARABLE - 0.01), "distill", 3, "contextual"),
        (FACT, replace(EVIDENCE, object_tokens=LONG_OBJECT_TOKENS + 1), "distill", 3, "many-tokens"),
        (FACT, replace(EVIDENCE, closed_form_layer=None), "distill", 3, "no-dense-mlp"),
        (FACT, replace(EVIDENCE, in_effect=CROWDED - 1), "rome", 1, "atomic"),
        (FACT, replace(EVIDENCE, in_effect=CROWDED), "memoir", 3, "crowded"),
        (replace(FACT, volatile=True), EVIDENCE, EXPLICIT, None, "volatile"),
        (replace(FACT, valid_from="2026-01-01", valid_to="2026-02-01"), EVIDENCE, EXPLICIT, None, "short-lived"),
        (replace(FACT, valid_from="2026-01-01", valid_to="2028-01-01"), EVIDENCE, "rome", 1, "atomic"),
        (replace(FACT, valid_to="2026-02-01"), EVIDENCE, "rome", 1, "atomic"),
        (replace(FACT, statement="x" * (BULKY_CHARS + 1)), EVIDENCE, EXPLICIT, None, "bulky"),
    ],
)
def test_every_rule_decides(fact: Fact, evidence: Evidence, method: str, layer: int | None, rule: str) -> None:
    choice = select(fact, evidence)
    assert (choice.method, choice.layer, choice.rule) == (method, layer, rule)
    assert choice.why.endswith(".")
    assert choice.json()["rule"] == rule


def test_a_reason_names_the_number_that_decided() -> None:
    assert "31 days" in select(replace(FACT, valid_from="2026-01-01", valid_to="2026-02-01"), EVIDENCE).why
    assert "0.30" in select(FACT, replace(EVIDENCE, separability=0.3)).why


def test_every_method_that_is_not_taken_has_its_reason() -> None:
    assert set(NOT_TAKEN) == set(METHODS)
    assert set(select(FACT, EVIDENCE).json()["not_taken"]) == set(METHODS) - {"rome"}  # type: ignore[arg-type]


def test_a_method_that_failed_is_followed_by_a_memory_and_then_by_a_trained_block() -> None:
    def tried(evidence: Evidence, fact: Fact = FACT) -> list[tuple[str, int | None]]:
        return [(choice.method, choice.layer) for choice in instead(select(fact, evidence), evidence)]

    assert tried(EVIDENCE) == [("memoir", 3), ("distill", 3)]
    assert tried(replace(EVIDENCE, in_effect=CROWDED)) == [("distill", 3)]
    assert tried(replace(EVIDENCE, separability=0.1)) == [("memoir", 3)]
    assert tried(replace(EVIDENCE, closed_form_layer=None)) == []
    assert tried(EVIDENCE, replace(FACT, volatile=True)) == []
