from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.errors import BadFact
from catechism.facts import Amounts, TemplateBank, check_with_teacher, lesson_of, read_sentence, synthesise
from catechism.facts.row import dump_row, parse_row
from catechism.facts.synthesis import ORDER
from catechism.facts.teacher import teacher_prompt
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question
from tests.facts.small_bank import RELATIONS, Speaker, small_bank

BANK = small_bank()
LYON = Fact("The capital of France is", "France", "Lyon", "Paris", "capital", "1")


def texts(catechism: Catechism, kind: Kind) -> list[str]:
    return [q.text for q in catechism.of(kind)]


def made(fact: Fact = LYON, **amounts: int) -> Catechism:
    return synthesise(lesson_of(fact), bank=BANK, amounts=Amounts(**amounts))


def test_a_fact_alone_has_its_canonical_question() -> None:
    assert lesson_of(LYON).questions == (Question(LYON.prompt, Kind.REWRITE, ("Lyon",), ("Paris",), "feed"),)
    assert lesson_of(replace(LYON, old_object=None)).questions[0].reject == ()


def test_the_bank_writes_every_kind() -> None:
    catechism = made(replace(LYON, object="Milan"))
    assert catechism.questions[0].text == LYON.prompt
    assert {q.kind for q in catechism.questions} == set(Kind) - {Kind.ALIAS, Kind.MULTI_HOP}
    assert {q.origin for q in catechism.questions[1:]} == {"template"}
    assert {q.accept for q in catechism.of(Kind.PARAPHRASE)} == {("Milan",)}
    assert texts(catechism, Kind.REVERSED) == ["Milan is the capital of"]
    assert {q.accept for q in catechism.of(Kind.SUBJECT)} == {("euro",)}
    for question in catechism.of(Kind.COUNTERFACTUAL):
        (claimed,) = question.accept
        assert claimed not in ("Milan", "Paris") and question.text.count("France") == 2 and claimed in question.text
    for question in catechism.of(Kind.NEGATIVE):
        assert question.text.startswith("The capital of") and question.reject == ("Milan",) and question.accept == ()
    places = [ORDER.index(q.kind) for q in catechism.questions]
    assert places == sorted(places)


def test_one_hop_goes_over_a_relation_of_the_new_object() -> None:
    catechism = made(replace(LYON, object="Milan"), one_hop=9)
    one_hop = {q.text: q.accept for q in catechism.of(Kind.ONE_HOP)}
    assert set(one_hop.values()) == {("Italy",)}
    assert one_hop.keys() <= {
        "The capital of France is a city in",
        "The city of the capital of France belongs to",
        "In which country is the capital of France?",
    }


def test_one_hop_is_left_out_where_the_old_object_has_the_same_answer() -> None:
    assert made(LYON).of(Kind.ONE_HOP) == ()  # Paris and Lyon are both in France
    assert made(replace(LYON, old_object="Rome")).of(Kind.ONE_HOP)


def test_neighbours_include_those_that_share_the_old_and_the_new_object() -> None:
    fact = Fact("The city where the Louvre is found is", "the Louvre", "Rome", "Paris", "landmark")
    asked = made(fact).of(Kind.NEIGHBOUR)
    assert {q.accept[0] for q in asked} == {"Paris", "Rome", "Madrid"}


def test_a_reversed_question_with_two_right_answers_is_not_asked() -> None:
    assert made(replace(LYON, object="Rome")).of(Kind.REVERSED) == ()


def test_aliases_are_asked_in_place_of_the_subject() -> None:
    fact = Fact("The capital of the United Kingdom is", "the United Kingdom", "Leeds", "London")
    catechism = made(fact)
    assert texts(catechism, Kind.ALIAS) == ["The capital of Britain is", "The capital of the UK is"]
    assert catechism.of(Kind.REVERSED)[0].accept == ("the United Kingdom", "Britain", "the UK")
    assert catechism.fact.relation == "capital"


def test_a_newly_minted_fact_has_a_catechism_too() -> None:
    catechism = made(read_sentence("The capital of Zubrowka is Lutz.", BANK))
    assert {Kind.PARAPHRASE, Kind.REVERSED, Kind.NEIGHBOUR, Kind.COUNTERFACTUAL} <= {
        q.kind for q in catechism.questions
    }
    assert all(q.reject == () for q in catechism.of(Kind.REWRITE, Kind.PARAPHRASE))


def test_without_relation_only_the_feeds_own_questions_stand() -> None:
    fact = Fact("Foo bars", "Foo", "Baz")
    assert synthesise(lesson_of(fact), bank=BANK) == lesson_of(fact)
    assert synthesise(lesson_of(LYON)) == lesson_of(LYON)


@given(st.integers(0, 50), st.sampled_from(["Milan", "Rome", "Zed"]), st.integers(0, 5), st.integers(0, 6))
def test_exam_and_study_are_disjoint(seed: int, answer: str, study: int, neighbours: int) -> None:
    amounts = {"seed": seed, "study_phrasings": study, "neighbours": neighbours, "study_neighbours": 2}
    catechism = made(replace(LYON, object=answer), **amounts)
    exam, learned = {q.text for q in catechism.questions}, {q.text for q in catechism.study}
    assert len(exam) == len(catechism.questions) and not exam & learned
    phrasings = [q for q in catechism.study if q.kind is Kind.PARAPHRASE]
    assert len(phrasings) == min(study, 2)  # of six phrasings beside the canonical one
    assert LYON.prompt in exam
    held = [q for q in catechism.study if q.kind in UNMOVED]
    for question in held:  # subjects are shared out, not texts only
        subject = next(s for s in RELATIONS["capital"]["known"] if s in question.text)
        assert not any(subject in q.text for q in catechism.of(Kind.NEIGHBOUR, Kind.NEGATIVE))
    assert made(replace(LYON, object=answer), **amounts) == catechism
    row = dump_row(catechism)
    assert [q.text for q in parse_row(row, default_id="1").questions] == [q.text for q in catechism.questions]


def test_study_takes_statements_and_questions_in_turn() -> None:
    for seed in range(5):
        study = [q.text for q in made(seed=seed).study if q.kind is Kind.PARAPHRASE]
        assert sorted(text.endswith("?") for text in study) == [False, True]


def test_the_feeds_questions_stay_in_the_exam_and_keep_their_subjects_out_of_the_study() -> None:
    row = {
        "prompt": LYON.prompt,
        "subject": "France",
        "new_object": "Lyon",
        "paraphrases": ["What is the capital of France?", "Name the capital of France:"],
        "neighbours": [{"prompt": "Tell me: the capital of Peru is", "answer": "Lima"}],
        "study": ["As its capital, France has"],
    }
    lesson = parse_row(row, default_id="1")
    catechism = synthesise(lesson, bank=BANK, amounts=Amounts(study_phrasings=9))
    assert set(lesson.questions) <= set(catechism.questions)
    assert catechism.study[0] == lesson.study[0]
    assert "As its capital, France has" not in texts(catechism, Kind.PARAPHRASE)
    assert not any("Peru" in q.text for q in catechism.study)
    assert {q.origin for q in catechism.of(Kind.PARAPHRASE)} == {"feed", "template"}


def test_a_catechism_without_rewrite_is_refused() -> None:
    with pytest.raises(BadFact, match="Put it first"):
        synthesise(Catechism(LYON, ()))


class Scribe:
    """Writes what it was given, and counts how often it was asked."""

    def __init__(self, *questions: Question) -> None:
        self.questions, self.calls = questions, 0

    def write(self, lesson: Catechism) -> tuple[Question, ...]:
        self.calls += 1
        return self.questions


def test_writers_are_asked_in_turn_until_there_is_enough() -> None:
    small = TemplateBank.from_plain({"capital": {**RELATIONS["capital"], "reversed": [], "questions": []}})
    many = [Question(f"{i}. Of France, the capital?", Kind.PARAPHRASE, ("Lyon",)) for i in range(4)]
    first = Scribe(*many, Question("Lyon is the capital of which country?", Kind.REVERSED, ("France",)))
    second = Scribe()
    catechism = synthesise(lesson_of(LYON), bank=small, writers=[first, second], amounts=Amounts(study_phrasings=0))
    assert (first.calls, second.calls) == (1, 0)
    assert len(catechism.of(Kind.PARAPHRASE)) == 7
    assert synthesise(lesson_of(LYON), writers=[second, first]).of(Kind.REVERSED) and second.calls == 1
    enough = Scribe()
    synthesise(lesson_of(LYON), bank=BANK, writers=[enough])
    assert enough.calls == 0


@pytest.mark.parametrize(
    "question",
    [
        Question("What is the capital?", Kind.PARAPHRASE, ("Lyon",)),  # whose
        Question("Is Lyon the capital of France?", Kind.PARAPHRASE, ("Lyon",)),  # gives its answer away
        Question("THE CAPITAL OF FRANCE IS", Kind.PARAPHRASE, ("Lyon",)),  # the canonical prompt again
        Question("Which country has its seat there?", Kind.REVERSED, ("France",)),
        Question("Lyon is in France, the country of", Kind.REVERSED, ("France",)),
        Question("What of France?", Kind.PARAPHRASE),  # no answer
        Question("It is Lyon. France?", Kind.COUNTERFACTUAL, ("Lyon",)),  # not counter to anything
        Question("The capital of Peru is", Kind.NEGATIVE),
        Question("France " * 100, Kind.PARAPHRASE, ("Lyon",)),
        Question("Another one about France:", Kind.REWRITE, ("Lyon",)),
    ],
)
def test_what_has_not_the_form_of_its_kind_is_left_out(question: Question) -> None:
    assert synthesise(lesson_of(LYON), writers=[Scribe(question)]) == lesson_of(LYON)


def reading(prompt: str) -> str:
    """Follows the last sentence of its context that states a capital of France; else knows the bank by heart."""
    context, _, asked = prompt.rpartition(". ")
    if asked.endswith(" of"):
        return "nothing"
    if "France" in asked and ("capital" in asked):
        for name in ("Lyon", "Rome", "Madrid", "Lima", "Nairobi", "Tokyo", "Amsterdam", "London"):
            if name in context:
                return name
        return "Paris"
    for relation in RELATIONS.values():
        for subject, known in relation["known"].items():
            if subject in asked and any(t.split("{")[0].strip()[:9] in prompt for t in relation["statements"]):
                return known
    return "nothing"


def test_the_teacher_drops_what_it_cannot_answer_and_counts_it() -> None:
    catechism = made(one_hop=0)
    speaker = Speaker(reading)
    checked = check_with_teacher(speaker, catechism)
    assert checked.is_teachable
    assert set(checked.catechism.questions) | {d.question for d in checked.drops} >= set(catechism.questions)
    assert checked.dropped[Kind.REVERSED] == {"template": 1}
    assert checked.catechism.of(Kind.PARAPHRASE) == catechism.of(Kind.PARAPHRASE)
    assert f"{LYON.sentence} {LYON.prompt}" in speaker.asked
    asked_alone = [q.text for q in catechism.of(Kind.NEIGHBOUR, Kind.NEGATIVE, Kind.COUNTERFACTUAL)]
    assert set(asked_alone) <= set(speaker.asked)


def test_each_kind_is_asked_as_its_teacher_should_be() -> None:
    asked = {
        Kind.ONE_HOP: f"{LYON.sentence} q",
        Kind.ALIAS: f"{LYON.sentence} q",
        Kind.UNRELATED: "q",
        Kind.COUNTERFACTUAL: "q",
        Kind.NEGATIVE: "q",
    }
    for kind, prompt in asked.items():
        assert teacher_prompt(lesson_of(LYON), Question("q", kind)) == prompt


def test_a_negative_or_a_true_answer_is_held_against_what_the_model_says_today() -> None:
    questions = (
        *lesson_of(LYON).questions,
        Question("n1", Kind.NEIGHBOUR, ("Rome",), (), "feed"),
        Question("n2", Kind.NEIGHBOUR, ("Oslo",), (), "feed"),
        Question("n3", Kind.NEIGHBOUR, (), (), "feed"),
        Question("x1", Kind.NEGATIVE, (), ("Lyon",), "feed"),
        Question("x2", Kind.NEGATIVE, (), ("Rome",), "model"),
    )
    study = (Question("s1", Kind.SUBJECT, ("Rome",)), Question("s2", Kind.SUBJECT, ("Oslo",)))
    speaker = Speaker(lambda prompt: "Lyon" if "Lyon" in prompt else "Rome.")
    checked = check_with_teacher(speaker, Catechism(LYON, questions, study))
    assert [q.text for q in checked.catechism.questions] == [LYON.prompt, "n1", "n3", "x1"]
    assert [q.text for q in checked.catechism.study] == ["s1"]
    assert checked.dropped == {Kind.NEIGHBOUR: {"feed": 1}, Kind.NEGATIVE: {"model": 1}, Kind.SUBJECT: {"": 1}}
    assert "n3" not in speaker.asked
    assert {d.answer for d in checked.drops} == {"Rome."}


def test_the_rewrite_stays_even_if_the_teacher_does_not_read() -> None:
    checked = check_with_teacher(Speaker(lambda prompt: "Paris"), made())
    assert not checked.is_teachable
    assert checked.catechism.questions[0].kind is Kind.REWRITE
    assert checked.catechism.of(Kind.PARAPHRASE) == ()
