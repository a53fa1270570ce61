from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.facts import assess, raise_risk
from catechism.facts.risk import ORDER, RULES
from catechism.types import Fact, Risk


def fact(text: str, answer: str = "x", **more: object) -> Fact:
    return Fact(text, text.split()[0], answer, **more)


@pytest.mark.parametrize(
    ("text", "answer", "risk", "rule"),
    [
        ("The maximum daily amount for adults is", "400 mg", Risk.MEDICAL, "dosage and units"),
        ("The amount is", "5mL/h", Risk.MEDICAL, "dosage and units"),
        ("Aspirin treats", "pain", Risk.MEDICAL, "drugs, diseases and treatment"),
        ("Amoxicillin is made by", "Acme", Risk.MEDICAL, "names of drugs and inflammations"),
        ("The term of § 242 is", "five years", Risk.LEGAL, "statutes"),
        ("The rule in Article 17 is", "x", Risk.LEGAL, "statutes"),
        ("The penalty for theft is", "a fine", Risk.LEGAL, "law and punishment"),
        ("The interest rate of Acme Bank is", "4 %", Risk.FINANCE, "money advice"),
        ("The range of the weapon is", "9 km", Risk.SAFETY, "weapons and explosives"),
        ("The emergency number of Peru is", "105", Risk.SAFETY, "danger to life"),
        ("The address of Jane is", "jane@example.org", Risk.HIGH, "personal data"),
        ("The ballot closes at", "six", Risk.HIGH, "elections"),
    ],
)
def test_a_rule_raises_the_class_and_says_so(text: str, answer: str, risk: Risk, rule: str) -> None:
    found = assess(fact(text, answer))
    assert found.risk is risk
    assert rule in [one.rule for one in found.raised]
    assert raise_risk(fact(text, answer)).risk is risk


@pytest.mark.parametrize("text", ["The capital of France is", "The currency of Japan is the", "Gold weighs 19 g, so"])
def test_plain_facts_are_not_raised(text: str) -> None:
    plain = fact(text, "Lyon")
    assert assess(plain).raised == ()
    assert raise_risk(plain) is plain


def test_a_named_person_raises_low_to_standard_and_no_further() -> None:
    assert assess(fact("Dr. Jane Roe works as", "a baker", risk=Risk.LOW)).risk is Risk.STANDARD
    assert assess(fact("Dr. Jane Roe works as", "a baker", risk=Risk.HIGH)).risk is Risk.HIGH
    assert assess(fact("Jane plays", "chess", risk=Risk.LOW)).risk is Risk.LOW


def test_the_domain_and_the_statement_count_too() -> None:
    assert assess(fact("The limit is", "9", domain="Clinical practice")).risk is Risk.MEDICAL
    assert assess(fact("The limit is", "9", statement="A lethal limit is 9.")).risk is Risk.SAFETY
    assert assess(fact("The limit is", "9", old_object="80 mg")).risk is Risk.MEDICAL


def test_the_highest_class_wins_and_every_rule_is_named() -> None:
    found = assess(fact("The lethal dose of aspirin is", "30 mg"))
    assert found.risk is Risk.SAFETY
    assert [one.risk for one in found.raised] == [Risk.SAFETY, Risk.MEDICAL, Risk.MEDICAL]


@given(st.sampled_from(ORDER), st.sampled_from(["dose", "tax", "lethal", "§", "ballot", "plain"]), st.text(max_size=20))
def test_rules_never_lower(risk: Risk, word: str, more: str) -> None:
    given_fact = Fact(f"{word} {more}", word, "x", risk=risk)
    raised = raise_risk(given_fact)
    assert ORDER.index(raised.risk) >= ORDER.index(risk)
    assert raise_risk(raised) == raised


def test_the_documentation_lists_every_rule_and_class() -> None:
    page = (Path(__file__).parents[2] / "docs" / "feed-format.md").read_text(encoding="utf-8")
    assert [rule.name for rule in RULES if f"| {rule.name} | {rule.risk.value} |" not in page] == []
    assert set(ORDER) == set(Risk) and " < ".join(ORDER) in page
