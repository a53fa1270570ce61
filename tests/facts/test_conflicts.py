from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.facts import Belief, FindingKind, Ledger, believes, find_conflicts, judge_belief
from catechism.types import Fact, Risk, Source
from tests.facts.small_bank import Speaker, small_bank

BANK = small_bank()
LYON = Fact("The capital of France is", "France", "Lyon", "Paris", "capital", "1")


def kinds(*facts: Fact, active: tuple[Fact, ...] = (), with_bank: bool = True) -> list[FindingKind]:
    return [f.kind for f in find_conflicts(facts, bank=BANK if with_bank else None, active=active)]


def test_the_same_words_are_an_exact_duplicate() -> None:
    again = replace(LYON, id="2", object="lyon.", prompt="the capital of France is", relation=None)
    assert kinds(LYON, again, with_bank=False) == [FindingKind.EXACT_DUPLICATE]
    by_relation = replace(LYON, id="3", prompt="As its capital, France has")
    assert kinds(LYON, by_relation, with_bank=False) == [FindingKind.EXACT_DUPLICATE]


@pytest.mark.parametrize(
    ("prompt", "subject", "needs_bank"),
    [
        ("What is the capital of France?", "France", False),
        ("Capital of France:", "France", False),
        ("As its capital, France has", "France", True),
        ("In which city sits the capital of France?", "France", None),
    ],
)
def test_other_words_are_a_semantic_duplicate(prompt: str, subject: str, needs_bank: bool | None) -> None:
    other = Fact(prompt, subject, "Lyon", id="2")
    assert kinds(LYON, other) == ([] if needs_bank is None else [FindingKind.SEMANTIC_DUPLICATE])
    assert kinds(replace(LYON, relation=None), other, with_bank=False) == (
        [FindingKind.SEMANTIC_DUPLICATE] if needs_bank is False else []
    )


def test_an_alias_of_the_bank_is_the_same_subject() -> None:
    one = Fact("The capital of the UK is", "the UK", "Leeds", id="1")
    other = Fact("The capital of the United Kingdom is", "United Kingdom", "Leeds", id="2")
    assert kinds(one, other) == [FindingKind.SEMANTIC_DUPLICATE]
    assert kinds(one, other, with_bank=False) == []


def test_two_objects_at_one_time_contradict_each_other() -> None:
    nice = replace(LYON, object="Nice", id="2")
    (found,) = find_conflicts([LYON, nice])
    assert (found.kind, found.fact, found.other) == (FindingKind.CONTRADICTION, nice, LYON)
    assert found.reason == "It says 'Nice', fact 1 says 'Lyon', and both hold at the same time."
    assert "dates that do not overlap" in found.advice
    assert json.loads(json.dumps(found.json()))["other"] == "1"


@pytest.mark.parametrize(
    ("first", "second", "overlap"),
    [
        ((None, None), ("2026-01-01", None), True),
        ((None, "2025-12-31"), ("2026-01-01", None), False),
        ((None, "2026-01-01"), ("2026-01-01", None), True),
        (("2024-01-01", "2024-12-31"), ("2023-01-01", "2023-12-31"), False),
        (("2024-01-01", "2024-12-31"), ("2024-06-01", "2024-06-02"), True),
    ],
)
def test_facts_that_follow_each_other_do_not_contradict(
    first: tuple[str | None, str | None], second: tuple[str | None, str | None], overlap: bool
) -> None:
    one = replace(LYON, valid_from=first[0], valid_to=first[1])
    other = replace(LYON, object="Nice", valid_from=second[0], valid_to=second[1])
    for pair in ((one, other), (other, one)):
        assert kinds(*pair) == ([FindingKind.CONTRADICTION] if overlap else [])


def test_active_edits_are_the_other_side_too() -> None:
    active = replace(LYON, id="e7", risk=Risk.LEGAL, sources=(Source("a"),))
    assert kinds(replace(LYON, id="9"), active=(active,)) == [FindingKind.ACTIVE_DUPLICATE]
    (found,) = find_conflicts([replace(LYON, object="Nice")], active=[active])
    assert found.kind is FindingKind.ACTIVE_CONTRADICTION
    assert found.other == active
    assert "supersede" in found.advice


def test_facts_about_other_things_are_left_alone() -> None:
    other = Fact("The capital of Italy is", "Italy", "Lyon", relation="capital")
    money = Fact("The currency of France is the", "France", "franc", relation="currency")
    assert kinds(LYON, other, money) == []


def test_one_fact_has_a_limited_number_of_findings() -> None:
    with Ledger() as ledger:
        counts = [len(ledger.add(replace(LYON, object=f"City {i}"))) for i in range(30)]
    assert counts == [min(i, 20) for i in range(30)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xyz")), max_size=8))
def test_a_ledger_finds_what_comparing_every_pair_finds(pairs: list[tuple[str, str]]) -> None:
    facts = [Fact(f"Of {s} is", s, o, id=str(i)) for i, (s, o) in enumerate(pairs)]
    expected: list[tuple[str, str, bool]] = []
    kept: list[Fact] = []
    for fact in facts:
        same = [other for other in kept if other.subject == fact.subject]
        expected += [(fact.id, other.id, other.object == fact.object) for other in same]
        if all(other.object != fact.object for other in same):
            kept.append(fact)
    found = [(f.fact.id, f.other.id, f.kind is FindingKind.EXACT_DUPLICATE) for f in find_conflicts(facts) if f.other]
    assert found == expected


MEASURE = """
import json, sys, tracemalloc
from catechism.facts import find_conflicts, read_feed
tracemalloc.start()
found = sum(1 for _ in find_conflicts(c.fact for c in read_feed(sys.argv[1])))
print(json.dumps([found, tracemalloc.get_traced_memory()[1]]))
"""


def measured(path: Path, n: int) -> tuple[int, int]:
    """Findings and peak bytes for a feed of `n` lines, in a process without run-time type checks."""
    with path.open("w", encoding="utf-8") as file:
        for i in range(n):
            subject = f"Place {i if i % 10 else i // 2}"
            row = {"prompt": "The capital of {} is", "subject": subject, "new_object": f"City {i}"}
            file.write(json.dumps(row) + "\n")
    done = subprocess.run([sys.executable, "-c", MEASURE, str(path)], capture_output=True, text=True, check=True)
    found, peak = json.loads(done.stdout)
    return found, peak


@pytest.mark.slow
def test_a_long_feed_is_read_and_compared_in_bounded_memory(tmp_path: Path) -> None:
    """40,000 lines take hardly more than 2,000 do; the index of what was seen lies on disk."""
    few, small = measured(tmp_path / "small.jsonl", 2_000)
    many, large = measured(tmp_path / "large.jsonl", 40_000)
    assert many > few > 0
    assert large < small + 1_000_000


def believed(fact: Fact, say: dict[str, str], means: dict[str, float] | None = None) -> Belief:
    return believes(Speaker(lambda prompt: say.get(prompt, say.get("", "")), means or {}), fact, BANK)


def test_what_the_model_says_in_every_phrasing_needs_no_edit() -> None:
    belief = believed(LYON, {"": "Lyon."}, {"Lyon": -0.1, "Paris": -3.0})
    assert (belief.answer, belief.agrees, belief.is_known, belief.share, belief.says_old) == (
        "Lyon.",
        True,
        True,
        1.0,
        False,
    )
    assert belief.probability == pytest.approx(math.exp(-0.1))
    assert belief.old_probability == pytest.approx(math.exp(-3.0))
    assert len(belief.asked) == 7 and belief.asked[0][0] == LYON.prompt
    finding = judge_belief(LYON, belief)
    assert finding is not None and finding.kind is FindingKind.KNOWN
    assert "in each of 7 phrasings" in finding.reason and "no edit" in finding.advice
    assert json.dumps(belief.json())


def test_what_the_model_says_only_in_some_phrasings_is_taught() -> None:
    belief = believed(LYON, {LYON.prompt: "Lyon", "": "Paris"})
    assert belief.agrees and not belief.is_known and belief.share == pytest.approx(1 / 7)
    assert judge_belief(LYON, belief) is None


def test_the_old_object_is_an_ordinary_belief_and_another_one_is_reported() -> None:
    belief = believed(LYON, {"": "Paris"})
    assert belief.says_old and judge_belief(LYON, belief) is None
    finding = judge_belief(LYON, believed(LYON, {"": "Marseille\nand more"}))
    assert finding is not None and finding.kind is FindingKind.OTHER_BELIEF
    assert "says 'Marseille', neither" in finding.reason
    unknown = replace(LYON, old_object=None)
    belief = believed(unknown, {"": "Marseille"})
    assert belief.old_probability is None and not belief.says_old
    assert judge_belief(unknown, belief) is None
