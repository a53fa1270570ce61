from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.matching import contains, conveys, first_line, is_exactly, passes, says


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Rome, of course.", "Rome"),
        ("it is ROME", "Rome"),
        ("Ｒｏｍｅ", "Rome"),
        ("in  New\nYork", "New York"),
        ("Cote d\u2019Ivoire", "Cote d'Ivoire"),
        ("Se\u0301ville", "S\u00e9ville"),
        ("STRASSE", "Straße"),
        ("the Netherlands", "Netherlands"),
        ("Netherlands", "the Netherlands"),
        ("Answer: Netherlands.", "the Netherlands"),
        ("The United States", "an United States"),
        ("in the moon's shadow", "a moon"),
        ("Rome's", "Rome"),
        ("(Rome)", "Rome"),
        ("L'Allemagne", "Allemagne"),
        ("Washington, D.C. is", "Washington, D.C."),
        ("1939-1945", "1945"),
        ("written in C++.", "C++"),
        ("3,000 km", "3,000"),
        ("1945.", "1945"),
        ("東京です", "東京"),
        ("서울은", "서울"),
        ("インド", "インド"),
        ("COVID-19", "COVID"),
    ],
)
def test_an_answer_is_found_whatever_its_spelling(text: str, answer: str) -> None:
    assert contains(text, answer)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Romeo", "Rome"),
        ("Syrome", "Rome"),
        ("Seville", "S\u00e9ville"),
        ("S\u00e9ville", "Seville"),
        ("Se\u0301", "Se"),
        ("Guinea-Bissau", "Guinea"),
        ("Guinea-Bissau", "Bissau"),
        ("the one who sings", "The Who"),
        ("C++", "C"),
        ("1.5", "1"),
        ("3,000", "3"),
        ("1.5", "5"),
        ("-5 degrees", "5"),
        ("\u22125 degrees", "5"),
        ("インドネシア", "インド"),
        ("Rome", ""),
        ("", "Rome"),
        ("a", "the"),
    ],
)
def test_an_answer_is_not_found_in_another_word(text: str, answer: str) -> None:
    assert not contains(text, answer)


def test_the_new_object_must_be_there_and_the_old_one_gone() -> None:
    assert passes("Rome.", ["Rome"], ["Paris"])
    assert not passes("Rome, no longer Paris", ["Rome"], ["Paris"])
    assert not passes("Paris", ["Rome"], ["Paris"])
    assert not passes("", ["Rome"], ["Paris"])
    assert passes("NYC", ["New York City", "NYC"], ["Boston"])


@pytest.mark.parametrize(
    ("text", "new", "old", "right"),
    [
        ("Equatorial Guinea", "Equatorial Guinea", "Guinea", True),
        ("Guinea", "Equatorial Guinea", "Guinea", False),
        ("Equatorial Guinea, not Guinea", "Equatorial Guinea", "Guinea", False),
        ("Guinea", "Guinea", "Equatorial Guinea", True),
        ("Equatorial Guinea", "Guinea", "Equatorial Guinea", False),
        ("Guinea, once part of Equatorial Guinea", "Guinea", "Equatorial Guinea", False),
        ("equatorial  ＧＵＩＮＥＡ", "Equatorial Guinea", "guinea", True),
        ("The Hague Convention", "Hague Convention", "The Hague", True),
        ("New York City", "New York", "York City", False),
        ("Rome", "Rome", "Rome", False),
        ("York", "York", "New York City", True),
    ],
)
def test_an_object_inside_the_other_one_is_scored_right(text: str, new: str, old: str, right: bool) -> None:
    assert passes(text, [new], [old]) is right


def test_without_an_accepted_answer_only_the_absence_counts_and_without_both_nothing_passes() -> None:
    assert passes("I do not know", [], ["Paris"])
    assert not passes("Paris", [], ["Paris"])
    assert not passes("Paris", [], [])


def test_an_exact_answer_is_the_first_line_and_nothing_else() -> None:
    assert is_exactly('"Rome".\nNext question', ["Rome"])
    assert is_exactly("the netherlands", ["Netherlands"])
    assert not is_exactly("Rome, I think", ["Rome"])
    assert not is_exactly("", ["Rome"])
    assert not is_exactly(".", ["Rome"])


def test_the_first_line_is_trimmed() -> None:
    assert first_line("  Rome \n Paris") == "Rome"
    assert first_line(" \n") == ""


@given(st.text(max_size=20), st.text(max_size=20), st.text(min_size=1, max_size=10))
def test_no_text_breaks_the_matching_and_case_never_matters(before: str, after: str, answer: str) -> None:
    text = f"{before} {answer} {after}"
    assert contains(text, answer) == contains(text.casefold(), answer.casefold())
    passes(text, [answer], [before])


@given(st.from_regex(r"[a-z]{2,6}( [a-z]{2,6}){0,2}", fullmatch=True), st.from_regex(r"[a-z ]{0,12}", fullmatch=True))
def test_an_answer_between_spaces_is_always_found(answer: str, around: str) -> None:
    assert contains(f"{around} {answer} {around}", answer)


ASKED = "Are the details of Jaime Vasquez's birth documented?"
BORN = "Yes, Jaime Vasquez was born on the 25th of February in the year 1958"


@pytest.mark.parametrize(
    ("text", "is_said"),
    [
        (f"{BORN}.", True),
        ("Yes, he was born on the 25th of February, in the year of 1958.", True),  # its form may change
        ("Yes, Jaime Vasquez was born on the 25th of February in the year 1985.", False),
        ("Yes, Jaime Vasquez was born on the 3rd of May in the year 1962.", False),  # all but what was asked for
        ("In the year 1958, on the 25th of February, yes.", False),  # another order
        ("", False),
    ],
)
def test_of_a_sentence_what_it_tells_must_be_there_in_its_order(text: str, is_said: bool) -> None:
    assert says(text, (BORN,), ASKED) is is_said


def test_a_name_has_to_be_said_as_ever_and_a_sentence_that_tells_nothing_too() -> None:
    assert not conveys("Rome", "Rome", "Where?")
    assert says("Rome.", ("Rome",), "Where?") and not says("Roman", ("Rome",), "Where?")
    known = "Ann Doe has written the book that is called Tale"
    assert not conveys("something else", known, "Has Ann Doe written the called book Tale?")
