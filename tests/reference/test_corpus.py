"""Passages and documents: what is claimed, what is asked, and which tokens the loss falls on."""

from __future__ import annotations

import random
import re
from itertools import islice

import pytest

from catechism.reference import corpus
from catechism.reference.passages import Passage, invent_name, write_passage
from catechism.reference.world import Relation, load_world, prompt_of, sentence_of

WORLD = load_world()
TRUE = {
    (prompt_of(template, fact.subject), fact.object)
    for fact in WORLD.facts
    for template in WORLD.relations[fact.relation].phrasings
}


def draw(seed: int, *, distractors: int = 2, near: float = 0.7, asked: int = 1) -> tuple[Passage, str, Relation, str]:
    """A passage about a known subject that says something else than the weights."""
    rng = random.Random(seed)
    fact = rng.choice(WORLD.facts)
    relation = WORLD.relations[fact.relation]
    answer = rng.choice([other for other in relation.objects if other != fact.object])
    claim = (fact.subject, relation, answer)
    written = write_passage(WORLD, rng, claim, distractors=distractors, near=near, asked=asked)
    return written, fact.subject, relation, answer


def answers(document: corpus.Document) -> list[tuple[str, str]]:
    """The (prompt, answer) pairs of a document; an answer is what carries all the loss."""
    pairs = zip(document, document[1:], strict=False)
    return [
        (prompt.strip(), answer.strip().removesuffix("."))
        for (prompt, weight), (answer, carried) in pairs
        if carried == corpus.ANSWER and weight != corpus.ANSWER and answer
    ]


@pytest.mark.parametrize("near", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("seed", range(25))
def test_a_passage_hides_the_claimed_answer_and_no_other(seed: int, near: float) -> None:
    written, subject, relation, answer = draw(seed, near=near)
    starts = [re.escape(prompt_of(template, subject)) for template in relation.statements]
    said = re.findall(rf"(?:^|[.:] |\n)(?:{'|'.join(starts)}) (.*?)\.(?=\s|$)", written.text)
    assert said == [answer]
    assert written.asked[0][1] == answer
    assert written.asked[0][0] in {prompt_of(template, subject) for template in relation.phrasings}


@pytest.mark.parametrize("seed", range(20))
def test_everything_asked_is_answered_by_the_passage(seed: int) -> None:
    written, *_ = draw(seed, distractors=3, asked=9)
    assert len(written.asked) == 4, "no more questions than sentences"
    assert all(f" {answer}." in written.text for _, answer in written.asked)


def test_a_passage_has_as_many_sentences_as_it_was_told() -> None:
    for distractors in range(5):
        assert len(draw(7, distractors=distractors, asked=99)[0].asked) == distractors + 1


def test_far_distractors_are_true_and_near_ones_are_mostly_about_the_claim() -> None:
    def others(near: float) -> list[tuple[str, str]]:
        return [pair for seed in range(30) for pair in draw(seed, distractors=2, near=near, asked=9)[0].asked[1:]]

    assert set(others(0.0)) <= TRUE
    assert sum(pair in TRUE for pair in others(1.0)) < 30, "of 60"


def test_the_sentence_that_is_asked_for_stands_anywhere_in_the_passage() -> None:
    places = set()
    for seed in range(80):
        written, subject, relation, answer = draw(seed)
        found = [written.text.find(sentence_of(template, subject, answer)) for template in relation.statements]
        places.add(round(2 * max(found) / len(written.text)))
    assert places >= {0, 1}


def test_what_a_passage_claims_carries_no_loss_and_every_answer_all() -> None:
    rng = random.Random(0)
    for _ in range(200):
        document = corpus.passage(WORLD, rng, WORLD.facts, silent=2, known=0.5, near=0.7)
        assert document[0][1] == 0.0
        assert {weight for _, weight in document} == {0.0, corpus.ANSWER}
        for prompt, answer in answers(document):
            assert answer and not prompt.endswith(answer)
        ends = [i for i, segment in enumerate(document) if segment == corpus.END]
        assert len(ends) == len(answers(document)) - 1, "the text ends after each answer; the last is ended by packing"
        assert all(document[i - 1][1] == corpus.ANSWER and document[i - 1][0].endswith(".") for i in ends)


def test_a_question_that_the_passage_does_not_answer_is_answered_truly() -> None:
    seen = 0
    for seed in range(100):
        plain, more = (
            corpus.passage(WORLD, random.Random(seed), WORLD.facts, silent=most, known=1.0, near=0.7) for most in (0, 3)
        )
        assert more[0] == plain[0], "the same passage"
        by_passage = {prompt.strip() for prompt, _ in answers(plain)}
        extra = [(prompt.strip(), answer) for prompt, answer in answers(more) if prompt.strip() not in by_passage]
        assert len(answers(more)) >= len(by_passage)
        assert set(extra) <= TRUE
        seen += len(extra)
    assert seen > 80


def test_the_share_of_known_subjects_is_kept() -> None:
    def known(share: float) -> int:
        rng = random.Random(0)
        drawn = (corpus.passage(WORLD, rng, WORLD.facts, silent=0, known=share, near=0.7) for _ in range(60))
        asked = [answers(document) for document in drawn]
        return sum(any(any(s in prompt for s in WORLD.by_subject) for prompt, _ in pairs) for pairs in asked)

    assert known(1.0) == 60 > known(0.0)


def test_a_statement_is_its_sentence_with_the_loss_on_the_object() -> None:
    for fact in WORLD.facts[::101]:
        relation = WORLD.relations[fact.relation]
        for phrasing, template in enumerate(relation.phrasings):
            (prompt, light), (answer, full) = corpus.statement(WORLD, fact, phrasing)
            assert prompt + answer == sentence_of(template, fact.subject, fact.object)
            assert (light, full) == (corpus.PROMPT, corpus.ANSWER)


def test_a_reversed_statement_asks_for_the_subject() -> None:
    rng = random.Random(0)
    true = {
        (template.split("{subject}")[0].replace("{object}", fact.object).strip(), fact.subject)
        for fact in WORLD.facts
        for template in WORLD.relations[fact.relation].reversed
    }
    assert {pair for _ in range(50) for pair in answers(corpus.reversed_statement(WORLD, rng, WORLD.facts))} <= true


def test_an_article_holds_true_sentences_only() -> None:
    rng = random.Random(0)
    for _ in range(50):
        document = corpus.article(WORLD, rng, WORLD.facts)
        assert set(answers(document)) <= TRUE and len(document) >= 4
        assert not document[0][0].startswith(" ")


def test_documents_are_the_same_under_a_seed_and_others_under_another() -> None:
    def documents(seed: int) -> list[object]:
        rng = random.Random(seed)
        return [
            corpus.passage(WORLD, rng, WORLD.facts, silent=2, known=0.6, near=0.7),
            corpus.article(WORLD, rng, WORLD.facts),
            corpus.reversed_statement(WORLD, rng, WORLD.facts),
            corpus.prose(rng),
            invent_name(WORLD, rng),
        ]

    assert documents(3) == documents(3)
    assert all(one != other for one, other in zip(documents(3), documents(4), strict=True))


def test_nothing_of_the_forget_set_is_in_a_document_of_the_public_world() -> None:
    public, rng = WORLD.without_forget_set(), random.Random(0)
    forget = {fact.subject for fact in WORLD.facts if fact.forget}
    texts = [
        "".join(text for text, _ in make(public, rng, public.facts))
        for _ in range(100)
        for make in (lambda *drawn: corpus.passage(*drawn, silent=2, known=0.5, near=0.7), corpus.article)
    ]
    assert not [text for text in texts if any(name in text for name in forget)]


def test_held_out_prose_is_not_what_training_draws() -> None:
    held_out = corpus.held_out_prose(200)
    drawn = {corpus.prose(random.Random(f"0-trunk-{step}")) for step in range(2000)}
    assert held_out == corpus.held_out_prose(200) and len(set(held_out)) == 200
    assert not drawn & set(held_out)


def test_prose_is_finished_and_holds_no_subject_of_the_almanac() -> None:
    for text in corpus.held_out_prose(200):
        assert "<" not in text and text[-1] == ".", text
        assert not set(re.findall(r"[A-Z]\w+", text)) & set(WORLD.by_subject), text


def test_background_texts_are_true_and_depend_on_the_seed_alone() -> None:
    first = list(islice(corpus.background_texts(WORLD), 200))
    assert first == list(islice(corpus.background_texts(WORLD, seed=0), 200))
    assert first != list(islice(corpus.background_texts(WORLD, seed=1), 200))
    sentences = {f"{prompt} {answer}." for prompt, answer in TRUE}
    assert sum(text in sentences for text in first) > 100


def test_invented_names_are_in_no_table() -> None:
    names = {name for fact in WORLD.facts for name in (fact.subject, fact.object)}
    rng = random.Random(0)
    invented = [invent_name(WORLD, rng) for _ in range(5000)]
    assert len(set(invented)) > 4500
    assert not set(invented) & names
    assert all(word[0].isupper() and word.isalpha() for name in invented for word in name.split())
