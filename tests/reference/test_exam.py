"""The examination, taken by scripted examinees on a world of two relations."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest

from catechism.reference.exam import examine_facts, examine_reading, guessing, is_right
from catechism.reference.world import Relation, World, WorldFact, prompt_of

COUNTRIES = [f"{name}land" for name in ("Arr", "Bell", "Corr", "Dunn", "Err", "Fenn", "Goss", "Hull", "Irr", "Juss")]
CITIES = [f"{name}ville" for name in ("Ada", "Bea", "Cleo", "Dora", "Eva", "Flo", "Gigi", "Hedi", "Ida", "Judy")]
COINS = ["crown", "crown", "crown", "crown", "florin", "florin", "groat", "groat", "ducat", "ducat"]


def relation(name: str, objects: Sequence[str]) -> Relation:
    return Relation(
        name=name,
        subject_kind="country",
        object_kind=name,
        statements=(f"The {name} of {{subject}} is {{object}}.", f"Say the {name} of {{subject}} is {{object}}."),
        questions=(f"What is the {name} of {{subject}}?",),
        held_out=(f"I hear the {name} of {{subject}} is {{object}}.", f"Who knows the {name} of {{subject}}?"),
        reversed=(),
        objects=tuple(sorted(set(objects))),
    )


WORLD = World(
    {"capital": relation("capital", CITIES), "currency": relation("currency", COINS)},
    (
        *(WorldFact(country, "capital", city) for country, city in zip(COUNTRIES, CITIES, strict=True)),
        *(WorldFact(country, "currency", coin) for country, coin in zip(COUNTRIES, COINS, strict=True)),
    ),
)
MEMORY = {(fact.relation, fact.subject): fact.object for fact in WORLD.facts}
ASKED = re.compile(r"(capital|currency) of ([\w ]+?)(?: is|\?)(?: (\w[\w ]*)\.)?")


def recall(prompt: str) -> str:
    """Answers from the weights, whatever was read."""
    name, subject, _ = ASKED.findall(prompt)[-1]
    return f"{MEMORY.get((name, subject), 'nobody knows')}."


def read(prompt: str) -> str:
    """Answers by the passage, and from the weights where it is silent."""
    *said, (name, subject, _) = ASKED.findall(prompt)
    found = {(n, s): answer for n, s, answer in said}
    return f"{found[name, subject]}." if (name, subject) in found else recall(prompt)


def parrot(prompt: str) -> str:
    """Repeats the passage's first object without looking at what is asked."""
    return ASKED.findall(prompt)[0][2] or "nothing"


def all_of(answer: Callable[[str], str]) -> Callable[[Sequence[str]], list[str]]:
    return lambda prompts: [answer(prompt) for prompt in prompts]


def values(figures: dict[str, dict[str, float | int]]) -> dict[str, float]:
    return {name: figure["value"] for name, figure in figures.items()}


def test_who_knows_everything_has_every_figure_at_one() -> None:
    figures = examine_facts(WORLD, all_of(recall), WORLD.facts)
    assert set(figures) == {"canonical", "worst", "statements", "questions", "held_out"}
    assert set(values(figures).values()) == {1.0}
    assert {name: figure["n"] for name, figure in figures.items()} == {
        "canonical": 20,
        "worst": 20,
        "statements": 40,
        "questions": 20,
        "held_out": 40,
    }


def test_who_knows_nothing_has_every_figure_at_zero() -> None:
    assert set(values(examine_facts(WORLD, all_of(lambda _: "I do not know."), WORLD.facts)).values()) == {0.0}


def test_one_phrasing_missed_costs_the_fact_its_worst_and_not_its_canonical() -> None:
    missed = prompt_of(WORLD.relations["capital"].questions[0], COUNTRIES[3])
    figures = examine_facts(WORLD, all_of(lambda p: "?" if p == missed else recall(p)), WORLD.facts)
    assert values(figures) == {
        "canonical": 1.0,
        "worst": 19 / 20,
        "statements": 1.0,
        "questions": 19 / 20,
        "held_out": 1.0,
    }


def test_held_out_phrasings_do_not_count_for_the_worst() -> None:
    figures = values(
        examine_facts(WORLD, all_of(lambda p: "?" if p.startswith(("I hear", "Who")) else recall(p)), WORLD.facts)
    )
    assert figures["worst"] == 1.0 and figures["held_out"] == 0.0


def test_the_facts_that_are_asked_are_those_that_were_handed_in() -> None:
    asked: list[str] = []
    examine_facts(WORLD, lambda prompts: asked.extend(prompts) or [recall(p) for p in prompts], WORLD.facts[2:4])
    assert len(asked) == len(set(asked)) == 10
    assert all(COUNTRIES[2] in prompt or COUNTRIES[3] in prompt for prompt in asked)


def test_guessing_is_what_the_commonest_object_scores() -> None:
    coins = WORLD.by_relation["currency"]
    assert guessing(WORLD, coins) == 4 / 10
    assert values(examine_facts(WORLD, all_of(lambda _: "crown"), coins))["canonical"] == guessing(WORLD, coins)
    assert guessing(WORLD, WORLD.facts) == (1 + 4) / 20


def test_a_reader_follows_the_passage_and_falls_back_on_what_it_knows() -> None:
    figures = examine_reading(WORLD, all_of(read), n=40)
    assert list(figures) == ["known", "unseen", "known_near", "unseen_near", "silent"]
    assert set(values(figures).values()) == {1.0}
    assert {figure["n"] for figure in figures.values()} == {40}


def test_who_does_not_read_is_right_only_where_the_passage_is_silent() -> None:
    figures = values(examine_reading(WORLD, all_of(recall), n=40))
    assert figures.pop("silent") == 1.0
    assert set(figures.values()) == {0.0}


def test_who_repeats_the_passage_without_the_question_does_not_pass() -> None:
    figures = values(examine_reading(WORLD, all_of(parrot), n=60))
    assert figures.pop("silent") < 0.3
    assert max(figures.values()) < 0.7


def test_the_reading_cases_are_those_of_the_seed() -> None:
    def cases(seed: int) -> list[str]:
        asked: list[str] = []
        examine_reading(WORLD, lambda ps: asked.extend(ps) or [""] * len(ps), n=20, seed=seed)
        return asked

    assert cases(0) == cases(0) != cases(1)
    for prompt in cases(0):
        assert len([answer for _, _, answer in ASKED.findall(prompt)[:-1] if answer]) == 3, "the claim and two others"
    known, unseen, *_ = groups = [cases(0)[start : start + 20] for start in range(0, 100, 20)]
    assert [len(group) for group in groups] == [20] * 5
    assert all(ASKED.findall(prompt)[-1][1] in COUNTRIES for prompt in known)
    assert not any(ASKED.findall(prompt)[-1][1] in COUNTRIES for prompt in unseen)


def test_far_distractors_are_true_and_no_passage_contradicts_itself() -> None:
    asked: list[str] = []
    examine_reading(WORLD, lambda ps: asked.extend(ps) or [""] * len(ps), n=30)
    for i, prompt in enumerate(asked):
        *said, (name, subject, _) = ASKED.findall(prompt)
        assert len({(n, s) for n, s, _ in said}) == 3, prompt
        others = [(n, s, answer) for n, s, answer in said if (n, s) != (name, subject)]
        if i < 60 or i >= 120:  # known and unseen with far distractors; silent
            assert all(MEMORY[n, s] == answer for n, s, answer in others), prompt
        assert len(others) == (2 if i < 120 else 3), prompt


@pytest.mark.parametrize("reply", ["Paris", "Paris.", " paris. ", "PARIS"])
def test_an_answer_is_right_apart_from_case_and_full_stop(reply: str) -> None:
    assert is_right(reply, "Paris")


@pytest.mark.parametrize("reply", ["", ".", "Paris, I think.", "the Paris", "Paris. London.", "Pari"])
def test_an_answer_with_anything_else_in_it_is_wrong(reply: str) -> None:
    assert not is_right(reply, "Paris")
