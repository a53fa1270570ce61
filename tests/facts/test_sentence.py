from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.errors import BadFact, Unclear, UsageError
from catechism.facts import TemplateBank, read_sentence
from catechism.types import Fact, Risk, Source
from tests.facts.small_bank import RELATIONS, small_bank

BANK = small_bank()
WITH_BANK = """
The capital of France is Lyon.             -> The capital of France is | France | Lyon | Paris | capital
the capital of france is Lyon              -> The capital of France is | France | Lyon | Paris | capital
Lyon is the capital of France.             -> The capital of France is | France | Lyon | Paris | capital
France's capital is Lyon.                  -> The capital of France is | France | Lyon | Paris | capital
What is the capital of France? Lyon.       -> The capital of France is | France | Lyon | Paris | capital
On a map of France, the capital is marked as Lyon -> The capital of France is | France | Lyon | Paris | capital
The capital of France is Paris.            -> The capital of France is | France | Paris | None | capital
The capital of Zubrowka is Lutz.           -> The capital of Zubrowka is | Zubrowka | Lutz | None | capital
The UK's capital is Leeds. -> The capital of the United Kingdom is | the United Kingdom | Leeds | London | capital
The Netherlands' capital is Ede. -> The capital of the Netherlands is | the Netherlands | Ede | Amsterdam | capital
The currency of Japan is the zorkmid.      -> The currency of Japan is the | Japan | zorkmid | yen | currency
Eiffel Tower is in Rome -> The city where the Eiffel Tower is found is | the Eiffel Tower | Rome | Paris | landmark
Nile flows into the Caspian Sea. -> The Nile flows into | Nile | the Caspian Sea | the Mediterranean Sea | river
"""
WITHOUT = """
The capital of Australia is Sydney.    -> The capital of Australia is | Australia | Sydney | None | capital
Sydney is the capital of Australia     -> The capital of Australia is | Australia | Sydney | None | capital
Acme's chief executive is Jane Roe.    -> Acme's chief executive is | Acme | Jane Roe | None | chief executive
The CEO of Acme Corp. is Jane Roe.     -> The CEO of Acme Corp. is | Acme Corp. | Jane Roe | None | CEO
Eiffel Tower is in Rome                -> Eiffel Tower is in | Eiffel Tower | Rome | None | None
The Tower of London is in Paris.       -> The Tower of London is in | The Tower of London | Paris | None | None
St. Petersburg is in Finland.          -> St. Petersburg is in | St. Petersburg | Finland | None | None
Acme acquired Beats                    -> Acme acquired | Acme | Beats | None | None
The boiling point of water is 90 °C    -> The boiling point of water is | water | 90 °C | None | boiling point
"""


def parts(fact: Fact) -> str:
    return " | ".join(map(str, (fact.prompt, fact.subject, fact.object, fact.old_object, fact.relation)))


def rows(table: str) -> list[list[str]]:
    return [[part.strip() for part in line.split("->")] for line in table.strip().splitlines()]


@pytest.mark.parametrize(("sentence", "expected"), rows(WITH_BANK))
def test_the_bank_finds_relation_and_canonical_prompt(sentence: str, expected: str) -> None:
    assert parts(read_sentence(sentence, BANK)) == expected


@pytest.mark.parametrize(("sentence", "expected"), rows(WITHOUT))
def test_general_forms_do_without_a_bank(sentence: str, expected: str) -> None:
    assert parts(read_sentence(sentence)) == expected


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("It is in Rome.", "what is meant by 'It'"),
        ("He's the mayor of Rome.", "what is meant by 'He'"),
        ("What is the capital of France?", "What is the answer"),
        ("Who wrote Dune? Bob.", "What is 'Who wrote Dune\\?' about"),
        ("Paris is not the capital of France.", "What is so instead"),
        ("Paris isn't big.", "What is so instead"),
        ("Paris is perhaps in Texas.", "Which is it"),
        ("Paris is big. London is small.", "Which one is the fact"),
        ("Lyon plays for Rome and is in Italy.", "cut in more than one place: 'Lyon plays for'"),
        ("Berlin", "what is the subject"),
        ("hello world", "what is the subject"),
        ("\u041f\u0430\u0440\u0438\u0436 \u0442\u0430\u043c.", "in CYRILLIC letters.*What are subject and object"),
        ("\u6771\u4eac\u306f\u9996\u90fd\u3067\u3059\u3002", "in CJK letters"),
    ],
)  # fmt: skip
def test_what_cannot_be_told_is_asked_back(sentence: str, question: str) -> None:
    for bank in (BANK, None):
        with pytest.raises(Unclear, match=question):
            read_sentence(sentence, bank)


def test_a_sentence_that_fits_two_relations_is_asked_back() -> None:
    two = {
        name: {**RELATIONS["river"], "statements": ["{subject} flows far into {object}."]}
        for name in ("ends", "visits")
    }
    with pytest.raises(Unclear, match=r"Which is meant: ends of 'Nile' is 'Rome'; visits of 'Nile' is 'Rome'\?"):
        read_sentence("Nile flows far into Rome.", TemplateBank.from_plain(two))


def test_names_that_several_relations_know_are_asked_back() -> None:
    two = {
        name: {**RELATIONS["landmark"], "statements": [f"{{subject}} {name} {{object}}."]}
        for name in ("stood in", "saw")
    }
    bank = TemplateBank.from_plain({name.replace(" ", "_"): row for name, row in two.items()})
    with pytest.raises(Unclear, match="could be about more than one thing"):
        read_sentence("The Louvre is in Rome", bank)


@pytest.mark.parametrize(
    ("sentence", "words"),
    [("", "is empty"), ("x" * 10_000, "10000 characters, at most 1000"), ("a\x00b is c", r"U\+0000"),
     ("P\u0430ris is in Texas", "mixes two scripts")],
)  # fmt: skip
def test_text_that_cannot_be_used_is_refused(sentence: str, words: str) -> None:
    with pytest.raises(BadFact, match=words):
        read_sentence(sentence, BANK)


def test_the_sentence_stays_as_statement_and_as_source() -> None:
    time = datetime(2026, 1, 31, 12, tzinfo=UTC)
    fact = read_sentence("Lyon is  the capital of France", BANK, now=time)
    assert fact.sentence == "Lyon is the capital of France."
    assert fact.sources == (Source(retrieved_at="2026-01-31T12:00:00Z", quote="Lyon is the capital of France."),)
    assert read_sentence("The capital of France is Lyon.", BANK).statement == ""


def test_the_risk_of_a_sentence_is_raised() -> None:
    assert read_sentence("The maximum daily dose of ibuprofen is 1200 mg.").risk is Risk.MEDICAL


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"statement": []}, "unknown keys"),
        ({"statements": []}, "no statement"),
        ({"statements": "The {subject} is {object}."}, "must be a list"),
        ({"statements": ["The {subject} is {object}, yes"]}, "ends in '{object}.'"),
        ({"statements": ["It is {object}."]}, "must hold {subject} and {object}"),
        ({"questions": ["Who is {subject}"]}, r"ends in '\?'"),
        ({"known": [1]}, "must map"),
    ],
)
def test_a_bank_that_cannot_be_used_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        TemplateBank.from_plain({"capital": {**RELATIONS["capital"], **change}})


NAMES = st.from_regex(r"[A-Z][a-z]{2,8}( [A-Z][a-z]{2,8})?", fullmatch=True)


@given(NAMES, NAMES, st.sampled_from(["capital", "currency", "river"]), st.integers(0, 9))
def test_every_phrasing_of_the_bank_is_read_back(subject: str, answer: str, name: str, i: int) -> None:
    relation = BANK.relations[name]
    template = relation.statements[i % len(relation.statements)]
    if name_clash(subject) or name_clash(answer):
        return
    fact = read_sentence(template.replace("{subject}", subject).replace("{object}", answer), BANK)
    assert (fact.relation, fact.subject, fact.object) == (name, subject, answer)
    assert fact.subject in fact.prompt


def name_clash(name: str) -> bool:
    """Words that make a sentence no statement, or a name that the bank spells otherwise."""
    words = {"Not", "Never", "Maybe", "Perhaps", "Probably", "Possibly", "Either", "Neither", "Nor", "The", "Cannot"}
    return bool(words & set(name.split()))
