"""Many edits on one model: which questions still have the answer that they had."""

from __future__ import annotations

import torch

from catechism.bench.cases import draw_catechisms
from catechism.evaluate.divergence import mean_kl, neighbour_prompts
from catechism.evaluate.effect import in_effect
from catechism.reference.world import load_world, prompt_of
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question

WORLD = load_world()


def capital(subject: str, new: str, old: str, *asked: Question, study: tuple[Question, ...] = ()) -> Catechism:
    fact = Fact(f"The capital of {subject} is", subject, new, old, "capital")
    return Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (new,), (old,)), *asked), study)


def asked(one: Catechism) -> list[str]:
    return [question.text for question in one.questions[1:]]


FRANCE = capital(
    "France",
    "Rome",
    "Paris",
    Question("The capital of Italy is", Kind.NEIGHBOUR, ("Rome",)),
    Question("Which city governs Italy?", Kind.NEIGHBOUR),
    Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",)),
    Question("Rome is the capital of", Kind.REVERSED, ("France",)),
    Question("The mayor of the capital of France is", Kind.ONE_HOP, ("Gualtieri",)),
    Question("Paris lies on the", Kind.UNRELATED, ("Seine",)),
)


def test_alone_every_question_of_an_edit_counts() -> None:
    found = in_effect([FRANCE])
    assert found.catechisms == (FRANCE,) and found.dropped == {} and found.superseded == ()


def test_a_neighbour_that_another_edit_changes_is_not_asked_to_stay() -> None:
    found = in_effect([FRANCE, capital("Italy", "Turin", "Rome")])
    assert "The capital of Italy is" not in asked(found.catechisms[0]), "it is the other edit's own prompt"
    assert "Which city governs Italy?" not in asked(found.catechisms[0]), "it names the other edit's subject"
    assert "The capital of Spain is" in asked(found.catechisms[0])
    assert found.dropped == {"neighbour": 2}


def test_the_study_is_held_against_the_other_edits_as_well() -> None:
    kept = Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",))
    france = capital("France", "Rome", "Paris", study=(Question("Italy's capital is", Kind.NEIGHBOUR, ("Rome",)), kept))
    italy = capital("Italy", "Turin", "Rome", study=(Question("Italy's capital is", Kind.PARAPHRASE, ("Turin",)),))
    assert in_effect([france, italy]).catechisms[0].study == (kept,)


def test_a_reversed_question_of_two_edits_passes_with_either_subject() -> None:
    spain = capital("Spain", "Rome", "Madrid", Question("Rome is the capital of", Kind.REVERSED, ("Spain",)))
    found = in_effect([FRANCE, spain])
    assert [one.of(Kind.REVERSED)[0].accept for one in found.catechisms] == [("France", "Spain")] * 2


def test_what_goes_on_over_an_edited_fact_is_not_asked() -> None:
    mayor = Fact("The mayor of Rome is", "Rome", "Raggi", "Gualtieri", "mayor")
    other = Catechism(mayor, (Question(mayor.prompt, Kind.REWRITE, ("Raggi",)),))
    assert in_effect([FRANCE, other]).dropped == {"one_hop": 1}
    river = Fact("Through Paris flows the", "Paris", "Loire", "Seine", "river")
    other = Catechism(river, (Question(river.prompt, Kind.REWRITE, ("Loire",)),))
    assert in_effect([FRANCE, other]).dropped == {"unrelated": 1}, "its subject is named and its old object expected"


def test_the_later_of_two_facts_about_the_same_thing_counts() -> None:
    found = in_effect([FRANCE, capital("Italy", "Turin", "Rome"), capital("France", "Lyon", "Rome")])
    assert found.superseded == (0,) and found.places == (1, 2)
    assert [one.fact.object for one in found.catechisms] == ["Turin", "Lyon"]
    assert in_effect([FRANCE, FRANCE]).superseded == (), "a repetition contradicts nothing"


def test_in_the_almanac_exactly_the_questions_of_edited_facts_go() -> None:
    drawn = draw_catechisms(WORLD, 600, seed=1)
    edited = {(c.fact.relation, c.fact.subject) for c in drawn}
    of_prompt = {
        prompt_of(template, fact.subject): (fact.relation, fact.subject)
        for fact in WORLD.facts
        for template in WORLD.relations[fact.relation].phrasings
    }
    found = in_effect(drawn)
    left = [q for one in found.catechisms for q in one.of(*UNMOVED)]
    assert left and not [q.text for q in left if of_prompt[q.text] in edited]
    wrongly = sum(
        of_prompt[q.text] not in edited
        for one, kept in zip(drawn, found.catechisms, strict=True)
        for q in set(one.of(*UNMOVED)) - set(kept.of(*UNMOVED))
    )
    assert wrongly < 0.03 * len(left), "names inside longer names, on the side of caution"


def test_the_divergence_is_that_of_the_distributions() -> None:
    before = torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()
    after = torch.tensor([[0.25, 0.75], [0.9, 0.1]]).log()
    first = 0.5 * torch.tensor(2.0).log() + 0.5 * torch.tensor(0.5 / 0.75).log()
    assert abs(mean_kl(before, after) - float(first) / 2) < 1e-6
    assert mean_kl(before, before) == 0.0
    assert neighbour_prompts([FRANCE, FRANCE], most=2) == ["The capital of Italy is", "Which city governs Italy?"]
