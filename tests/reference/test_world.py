"""The tables and the town hold what their readers count on."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from catechism.hashing import digest_texts
from catechism.reference.world import Relation, World, load_world, prompt_of, sentence_of

WORLD = load_world()
RELATIONS = [pytest.param(relation, id=name) for name, relation in WORLD.relations.items()]


def test_there_are_at_least_fifteen_relations_and_two_thousand_facts() -> None:
    assert len(WORLD.relations) >= 15
    assert len(WORLD.facts) >= 2000
    assert {fact.relation for fact in WORLD.facts} == set(WORLD.relations)


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_relation_has_six_phrasings_or_more_statements_and_questions(relation: Relation) -> None:
    assert len(set(relation.phrasings)) == len(relation.phrasings) >= 6
    assert len(relation.statements) >= 2 and len(relation.questions) >= 2


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_statement_ends_in_its_object_and_a_question_in_its_mark(relation: Relation) -> None:
    for statement in relation.statements:
        assert statement.count("{object}") == 1 and statement.endswith(" {object}."), statement
    for question in relation.questions:
        assert question.endswith("?") and "{object}" not in question, question


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_template_holds_its_subject_once_and_nothing_else_in_braces(relation: Relation) -> None:
    for template in (*relation.phrasings, *relation.held_out, *relation.reversed):
        assert template.count("{subject}") == 1, template
        left = template.replace("{subject}", "").replace("{object}", "")
        assert "{" not in left and "}" not in left, template
        assert template == " ".join(template.split()), template


@pytest.mark.parametrize("relation", RELATIONS)
def test_a_statement_and_a_question_are_held_out(relation: Relation) -> None:
    statements = [template for template in relation.held_out if template.endswith(" {object}.")]
    questions = [template for template in relation.held_out if template.endswith("?")]
    assert statements and questions
    assert len(statements) + len(questions) == len(relation.held_out)
    assert not set(relation.held_out) & set(relation.phrasings)


@pytest.mark.parametrize("relation", RELATIONS)
def test_only_a_one_to_one_relation_is_asked_backwards(relation: Relation) -> None:
    if relation.reversed:
        objects = [fact.object for fact in WORLD.by_relation[relation.name]]
        assert len(set(objects)) == len(objects)
    for template in relation.reversed:
        assert template.endswith(" {subject}.") and template.count("{object}") == 1, template


@pytest.mark.parametrize("relation", RELATIONS)
def test_every_object_is_in_its_relations_pool(relation: Relation) -> None:
    assert {fact.object for fact in WORLD.by_relation[relation.name]} <= set(relation.objects)
    assert list(relation.objects) == sorted(set(relation.objects))
    assert len(relation.objects) >= 2, "an edit needs another object to change to"


def test_a_subject_has_one_object_in_a_relation() -> None:
    counts = Counter((fact.subject, fact.relation) for fact in WORLD.facts)
    assert [key for key, n in counts.items() if n > 1] == []


def test_names_are_clean() -> None:
    names = {name for fact in WORLD.facts for name in (fact.subject, fact.object)}
    assert [name for name in names if not name or name != " ".join(name.split()) or name.endswith(".")] == []


def test_no_template_is_shared_between_relations() -> None:
    owners: dict[str, set[str]] = defaultdict(set)
    for relation in WORLD.relations.values():
        for template in (*relation.phrasings, *relation.held_out):
            owners[prompt_of(template, "X").casefold()].add(relation.name)
    assert {prompt: names for prompt, names in owners.items() if len(names) > 1} == {}


def test_every_prompt_has_one_answer() -> None:
    answers: dict[str, set[str]] = defaultdict(set)
    for fact in WORLD.facts:
        relation = WORLD.relations[fact.relation]
        for template in (*relation.phrasings, *relation.held_out):
            answers[prompt_of(template, fact.subject)].add(fact.object)
    assert {prompt: found for prompt, found in answers.items() if len(found) > 1} == {}


def test_the_forget_set_is_of_the_town_alone_and_gone_from_the_public_world() -> None:
    forget = [fact for fact in WORLD.facts if fact.forget]
    public = WORLD.without_forget_set()
    assert len(forget) >= 40
    assert {WORLD.relations[fact.relation].subject_kind for fact in forget} == {"townsperson"}
    assert len(public.facts) == len(WORLD.facts) - len(forget)
    assert not {fact.subject for fact in forget} & set(public.by_subject)
    assert public.relations == WORLD.relations


def test_townspeople_of_the_forget_set_share_no_surname_with_the_others() -> None:
    forget = {fact.subject.split()[-1] for fact in WORLD.facts if fact.forget}
    others = {word for fact in WORLD.facts if not fact.forget for word in fact.subject.split()}
    assert not forget & others


def test_the_town_is_the_one_that_the_shipped_models_were_trained_on() -> None:
    town = [
        f"{fact.subject} {fact.relation} {fact.object} {fact.forget}"
        for fact in WORLD.facts
        if WORLD.relations[fact.relation].subject_kind == "townsperson"
    ]
    assert digest_texts(town) == "sha256:b6ff33e50d4bfce30520d2f694d3e18c02e7fa6a38407e67fe4cc32f8f8a6a03"
    assert load_world.__wrapped__() == WORLD, "drawn again, without the cache"


def test_facts_are_grouped_by_subject_and_by_relation() -> None:
    france = {fact.relation: fact.object for fact in WORLD.by_subject["France"]}
    assert france["capital"] == "Paris" and france["continent"] == "Europe"
    assert sum(map(len, WORLD.by_relation.values())) == len(WORLD.facts)
    assert World(WORLD.relations, ()).by_subject == {}


def test_a_prompt_stops_before_the_object_and_a_sentence_is_whole() -> None:
    statement, question = "The capital of {subject} is {object}.", "What is the capital of {subject}?"
    assert prompt_of(statement, "France") == "The capital of France is"
    assert prompt_of(question, "France") == "What is the capital of France?"
    assert sentence_of(statement, "France", "Paris") == "The capital of France is Paris."
    assert sentence_of(question, "France", "Paris") == "What is the capital of France? Paris."
