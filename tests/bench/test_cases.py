"""Facts to edit, with everything that has to be asked about them."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from catechism.bench.cases import NEIGHBOURS, STUDIED, UNRELATED, catechism_of, draw_catechisms, other_catechisms
from catechism.reference.world import World, WorldFact, load_world, prompt_of
from catechism.types import UNMOVED, Catechism, Kind

WORLD = load_world()
TRUE = {
    prompt_of(template, fact.subject): fact
    for fact in WORLD.facts
    for template in WORLD.relations[fact.relation].phrasings
}
DRAWN = draw_catechisms(WORLD, 2 * len(WORLD.relations), seed=3)


def true_fact(catechism: Catechism) -> WorldFact:
    relation, subject = catechism.fact.relation, catechism.fact.subject
    return next(fact for fact in WORLD.by_subject[subject] if fact.relation == relation)


def true_of(prompt: str) -> WorldFact:
    return TRUE[prompt]


def test_the_facts_are_spread_evenly_over_the_relations() -> None:
    assert Counter(c.fact.relation for c in DRAWN) == dict.fromkeys(WORLD.relations, 2)
    assert len({c.fact.id for c in DRAWN}) == len(DRAWN)


def test_the_same_seed_draws_the_same_and_another_seed_others() -> None:
    assert draw_catechisms(WORLD, len(DRAWN), seed=3) == DRAWN
    assert draw_catechisms(WORLD, len(DRAWN), seed=4) != DRAWN


def test_few_facts_are_of_relations_drawn_by_the_seed() -> None:
    drawn = [{catechism.fact.relation for catechism in draw_catechisms(WORLD, 5, seed=seed)} for seed in (0, 1)]
    assert [len(relations) for relations in drawn] == [5, 5] and drawn[0] != drawn[1]


def test_every_fact_is_true_before_and_moves_to_another_object_of_its_relation() -> None:
    for catechism in DRAWN:
        fact, true = catechism.fact, true_fact(catechism)
        assert fact.old_object == true.object != fact.object
        assert fact.object in WORLD.relations[true.relation].objects
        assert fact.subject in fact.prompt and fact.prompt == fact.prompt.rstrip()


def test_every_trained_phrasing_is_asked_or_studied_and_the_canonical_one_comes_first() -> None:
    for catechism in DRAWN:
        relation = WORLD.relations[str(catechism.fact.relation)]
        asked = [question.text for question in catechism.of(Kind.REWRITE, Kind.PARAPHRASE)]
        studied = [question.text for question in catechism.study if question.kind is Kind.PARAPHRASE]
        phrasings = [prompt_of(template, catechism.fact.subject) for template in relation.phrasings]
        assert asked == [text for text in phrasings if text not in studied]
        assert len(studied) == STUDIED and len(asked) + len(studied) == len(phrasings)
        assert {text.endswith("?") for text in studied} == {True, False}, "a statement and a question at the least"
        assert catechism.questions[0].kind is Kind.REWRITE and asked[0] == catechism.fact.prompt
        for question in (*catechism.of(Kind.REWRITE, Kind.PARAPHRASE), *catechism.study[:STUDIED]):
            assert question.accept == (catechism.fact.object,) and question.reject == (catechism.fact.old_object,)


def test_nothing_that_is_studied_is_in_the_exam() -> None:
    for catechism in DRAWN:
        assert not {question.text for question in catechism.study} & {q.text for q in catechism.questions}
        asked = {true_of(question.text) for question in catechism.of(*UNMOVED)}
        assert not {true_of(question.text) for question in catechism.study[STUDIED:]} & asked, "in no phrasing"


def test_the_neighbours_to_study_are_true_and_near_ones_are_shared_evenly() -> None:
    for catechism in DRAWN:
        true = true_fact(catechism)
        studied = catechism.study[STUDIED:]
        for question in studied:
            fact = true_of(question.text)
            assert question.kind is Kind.NEIGHBOUR and question.accept == (fact.object,) and not question.reject
            assert fact.relation == true.relation and fact.subject != true.subject
        near = sum(question.accept == (true.object,) for question in studied)
        assert 0 <= sum(q.accept == (true.object,) for q in catechism.of(Kind.NEIGHBOUR)) - near <= 1
        assert len(studied) <= 2 * NEIGHBOURS


def test_what_must_not_move_is_another_fact_that_is_true() -> None:
    expected = {  # the same subject, the same relation
        Kind.NEIGHBOUR: (False, True),
        Kind.SUBJECT: (True, False),
        Kind.UNRELATED: (False, False),
    }
    for catechism in DRAWN:
        for question in catechism.of(*UNMOVED):
            fact = true_of(question.text)
            same = fact.subject == catechism.fact.subject, fact.relation == catechism.fact.relation
            assert same == expected[question.kind]
            assert question.accept == (fact.object,) and not question.reject


def test_neighbours_hold_some_with_the_same_object_where_there_are_any() -> None:
    for catechism in DRAWN:
        true = true_fact(catechism)
        kin = [fact for fact in WORLD.by_relation[true.relation] if fact.subject != true.subject]
        near = sum(fact.object == true.object for fact in kin)
        asked = catechism.of(Kind.NEIGHBOUR)
        share = min((near + 1) // 2, NEIGHBOURS)
        assert sum(question.accept == (true.object,) for question in asked) == share
        assert len(asked) == share + min((len(kin) - near + 1) // 2, NEIGHBOURS)
        assert len(catechism.of(Kind.UNRELATED)) == UNRELATED
        assert len(catechism.of(Kind.SUBJECT)) == len(WORLD.by_subject[true.subject]) - 1


def test_the_reversed_question_names_the_new_object_and_wants_the_subject() -> None:
    seen = 0
    for catechism in DRAWN:
        relation, asked = WORLD.relations[str(catechism.fact.relation)], catechism.of(Kind.REVERSED)
        assert len(asked) == len(relation.reversed)
        for question in asked:
            assert catechism.fact.object in question.text and question.accept == (catechism.fact.subject,)
            assert not question.text.endswith((" ", ".")) and "{" not in question.text
        seen += len(asked)
    assert seen


def test_no_question_is_asked_twice() -> None:
    assert all(len(set(c.questions)) == len(c.questions) for c in DRAWN)


def test_a_small_world_gives_every_fact_and_no_more() -> None:
    small = World(WORLD.relations, WORLD.by_relation["pet"][:5] + WORLD.by_relation["capital"][:2])
    drawn = draw_catechisms(small, 100, seed=0)
    assert Counter(c.fact.relation for c in drawn) == {"pet": 5, "capital": 2}
    assert {c.fact.subject for c in drawn} == {fact.subject for fact in small.facts}


@pytest.mark.parametrize("n", [0, 1, 30])
def test_as_many_come_as_were_asked_for(n: int) -> None:
    assert len(draw_catechisms(WORLD, n, seed=0)) == n


def test_the_questions_follow_the_random_numbers_they_are_given() -> None:
    fact = WORLD.by_relation["capital"][0]
    one, same = (catechism_of(WORLD, fact, "Oslo", random.Random(7)) for _ in range(2))
    assert one == same
    assert one.fact.object == "Oslo" and one.fact.id == f"capital/{fact.subject}"


def test_what_methods_learn_to_edit_from_is_about_others_and_not_in_the_exam() -> None:
    taught = DRAWN[:10]
    others = other_catechisms(WORLD, taught, seed=3)
    assert len(others) > 1000 and others == other_catechisms(WORLD, taught, seed=3)
    assert not {c.fact.subject for c in others} & {c.fact.subject for c in taught}
    studied = {q.text for c in others for q in c.study}
    assert studied and not studied & {q.text for c in taught for q in c.questions}
