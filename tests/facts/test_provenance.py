"""Sources, dates and the other keys that no model is asked about; study; CSV; what reading adds."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.errors import BadFact, BadFeed
from catechism.facts import read_feed, write_feed
from catechism.facts.row import KEYS, dump_row, parse_row
from catechism.hashing import digest_file
from catechism.types import Kind, Question, Risk, Source
from tests.facts.test_feed import MINIMAL, ROW, feed_file, refusal

DIGEST = "sha256:" + "0" * 64
FULL: dict[str, object] = {
    **ROW,
    "counterfactuals": [{"prompt": "Nice is the capital of {} now. The capital of {} is", "answer": "Nice"}],
    "negatives": ["The capital of Greece is", {"prompt": "The capital of Italy is not", "answer": "Milan"}],
    "study": ["In {}, the capital is", {"prompt": "The capital of Peru is", "kind": "neighbour", "answer": "Lima"}],
    "statement": "Since 2026, the capital of France has been Lyon.",
    "sources": [
        "https://example.org/a",
        {"uri": "b.pdf", "retrieved_at": "2026-01-31T12:00:00Z", "sha256": DIGEST, "quote": "two\nlines"},
    ],
    "valid_from": "2026-01-01",
    "valid_to": "2026-12-31",
    "confidence": 0.9,
    "author": "Ada",
    "domain": "geography",
    "risk": "legal",
    "volatile": True,
}


def test_every_key_of_a_row_has_its_place() -> None:
    assert set(FULL) == set(KEYS)
    catechism = parse_row(FULL, default_id="1")
    fact = catechism.fact
    assert fact.sentence == "Since 2026, the capital of France has been Lyon."
    assert fact.sources[0] == Source(uri="https://example.org/a")
    assert fact.sources[1] == Source("b.pdf", "2026-01-31T12:00:00Z", DIGEST, "two\nlines")
    assert (fact.valid_from, fact.valid_to, fact.confidence) == ("2026-01-01", "2026-12-31", 0.9)
    assert (fact.author, fact.domain, fact.risk, fact.volatile) == ("Ada", "geography", Risk.LEGAL, True)
    (counterfactual,) = catechism.of(Kind.COUNTERFACTUAL)
    assert counterfactual.text == "Nice is the capital of France now. The capital of France is"
    assert [(q.accept, q.reject) for q in catechism.of(Kind.NEGATIVE)] == [
        ((), ("Lyon", "Lyons")),
        (("Milan",), ("Lyon", "Lyons")),
    ]
    assert catechism.study == (
        Question("In France, the capital is", Kind.PARAPHRASE, ("Lyon", "Lyons"), ("Paris", "Lutetia"), "feed"),
        Question("The capital of Peru is", Kind.NEIGHBOUR, ("Lima",), (), "feed"),
    )
    assert parse_row(json.loads(json.dumps(dump_row(catechism))), default_id="0") == catechism


def test_what_a_row_does_not_say_is_left_out_again() -> None:
    assert dump_row(parse_row(MINIMAL, default_id="1")) == {**MINIMAL, "id": "1"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"valid_from": "2026-02-30"}, "day is out of range.*2026-01-31"),
        ({"valid_from": "31.1.2026"}, "year, month and day"),
        ({"valid_to": "20260131"}, "year, month and day"),
        ({"valid_from": "2026-02-01", "valid_to": "2026-01-31"}, "before 'valid_from'"),
        ({"confidence": 1.5}, "from 0 to 1"),
        ({"risk": "extreme"}, "Use one of: low"),
        ({"sources": [{"sha256": "abc"}]}, "64 small hexadecimal"),
        ({"sources": [{"retrieved_at": "2026-01-31T12:00:00"}]}, "no time in UTC"),
        ({"sources": [{"retrieved_at": "2026-01-31T12:00:00+02:00"}]}, "no time in UTC"),
        ({"sources": [{"uri": " "}]}, "is empty"),
        ({"statement": "x" * 20_001}, "at most 20000"),
        ({"author": "A\x1b[31m"}, r"U\+001B"),
        ({"subject": "b" * 10_000}, "10000 characters, at most 2000"),
        ({"study": ["A b is"]}, "also asked in the exam"),
        ({"study": [{"prompt": "The {} is", "kind": "neighbour"}]}, "Write it out"),
        ({"study": ["b?", {"prompt": "b?", "kind": "unrelated"}]}, "stands twice"),
        ({"negatives": ["A b is"]}, "both right and wrong"),
        ({"subject": "\u0430\u0431\u0432"}, "One is in CYRILLIC letters, the other in LATIN"),
        ({"prompt": "A b\u0430 is"}, "CYRILLIC SMALL LETTER A. Type the word again in one script"),
        ({"new_object": "\u0420aris"}, "CYRILLIC CAPITAL LETTER ER"),
    ],
)
def test_a_fact_that_cannot_be_used_is_refused_by_name(tmp_path: Path, change: dict, words: str) -> None:
    error = refusal(tmp_path, {**MINIMAL, **change})
    assert isinstance(error, BadFact)
    with pytest.raises(BadFact, match=words):
        raise error


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"confidence": "high"}, "must be a number, got a text"),
        ({"confidence": True}, "must be a number, got true or false"),
        ({"volatile": "yes"}, "must be true or false"),
        ({"valid_from": 2026}, "must be a text, got a number"),
        ({"sources": "a"}, "must be a list"),
        ({"sources": [1]}, "object or an address"),
        ({"sources": [{"url": "a"}]}, "Use some of: uri"),
        ({"sources": [{}]}, "Use some of: uri"),
        ({"counterfactuals": ["It is d. A b is"]}, "has no answer"),
        ({"study": [{"prompt": "x", "kind": "reversed"}]}, "neighbour, subject, unrelated"),
        ({"study": [{"prompt": "x"}]}, "neighbour, subject, unrelated"),
    ],
)
def test_a_value_of_the_wrong_kind_is_refused_by_name(tmp_path: Path, change: dict, words: str) -> None:
    error = refusal(tmp_path, {**MINIMAL, **change})
    assert isinstance(error, BadFeed)
    with pytest.raises(BadFeed, match=words):
        raise error


@pytest.mark.parametrize(
    "subject", ["\u041f\u0430\u0440\u0438\u0436", "\u6771\u4eac", "\u0627\u0644\u0642\u0627\u0647\u0631\u0629"]
)
def test_any_script_alone_is_fine(subject: str) -> None:
    row = {"prompt": "{}: ", "subject": subject, "new_object": subject + subject}
    assert parse_row(row, default_id="1").fact.prompt == f"{subject}:"


def test_a_fact_without_source_gets_the_file_with_its_hash_and_the_time(tmp_path: Path) -> None:
    path = feed_file(tmp_path, MINIMAL, {**MINIMAL, "sources": ["mine"]})
    first, second = read_feed(path, now=lambda: datetime(2026, 1, 31, 12, 0, 0, 5, tzinfo=UTC))
    assert first.fact.sources == (Source(path.as_posix(), "2026-01-31T12:00:00Z", digest_file(path)),)
    assert second.fact.sources == (Source("mine"),)


def test_reading_raises_the_risk(tmp_path: Path) -> None:
    row = {**MINIMAL, "new_object": "400 mg", "risk": "low"}
    (catechism,) = read_feed(feed_file(tmp_path, row))
    assert catechism.fact.risk is Risk.MEDICAL


def csv_file(folder: Path, text: str) -> Path:
    path = folder / "feed.CSV"
    path.write_text(text, encoding="utf-8", newline="")
    return path


def test_csv_and_json_lines_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        writer = csv.DictWriter(file, sorted(FULL))
        writer.writeheader()
        for row in (FULL, MINIMAL):
            writer.writerow({k: v if isinstance(v, str) else json.dumps(v) for k, v in row.items()})
    full, minimal = read_feed(path)
    assert full == parse_row(FULL, default_id="1")
    assert replace(minimal.fact, sources=()) == parse_row(MINIMAL, default_id="3").fact


def test_rows_of_csv_are_numbered_by_their_first_line(tmp_path: Path) -> None:
    text = 'prompt,subject,new_object\r\n"Q: {}?\n\nA:",b,c\r\n\r\nA b is,b,c\r\n'
    first, second = read_feed(csv_file(tmp_path, text))
    assert (first.fact.id, first.fact.prompt) == ("2", "Q: b?\n\nA:")
    assert second.fact.id == "6"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds no rows"),
        ("prompt,subject,new_object\n", "holds no rows"),
        ("prompt;subject;new_object\nA b is;b;c\n", "commas between the cells"),
        ("prompt,subject\nA b is,b\n", "line 1: The header lacks 'new_object'"),
        ("prompt,subject,new_object,paraphrase\n", "Did you mean 'paraphrases'"),
        ("prompt,subject,new_object,prompt\n", "'prompt' twice"),
        ('"prompt\n', "line 1: Not CSV"),
    ],
)
def test_a_csv_file_that_is_no_feed_is_refused_as_a_whole(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(BadFeed, match=words):
        list(read_feed(csv_file(tmp_path, text), on_error=lambda error: None))


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("A b is,b", "2 cells, the header 5"),
        ("A b is,b,c,0.9,,", "6 cells, the header 5"),
        ("A b is,b,c,high,", "no number"),
        ("A b is,b,c,,b?", "Write the list as JSON"),
        ("A b is,b,c,,1", "must be a list, got a number"),
        ("A b is,b,,,", "No value for 'new_object'"),
        ('"A b" is,b,c,,', "Not CSV"),
        ("A b is,b,c," + "9" * 200_000 + ",", "Not CSV: field larger"),
        ("A b is,b,c,,[" + "," * 2_000_000, "longer than 1048576 bytes"),
    ],
)
def test_a_bad_row_of_csv_is_named_and_left_out(tmp_path: Path, row: str, words: str) -> None:
    text = f"prompt,subject,new_object,confidence,paraphrases\n{row}\nA b is,b,c,,\n"
    errors: list[BadFeed | BadFact] = []
    found = list(read_feed(csv_file(tmp_path, text), on_error=errors.append))
    assert found[-1].fact.id == "3"
    assert "line 2: " in str(errors[0])
    with pytest.raises((BadFeed, BadFact), match=words):
        raise errors[0]


def test_a_csv_feed_in_another_encoding_is_refused_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "feed.csv"
    path.write_bytes(b"prompt,subject,new_object\nA b is,b,caf\xe9\nA b is,b,c\n")
    errors: list[BadFeed | BadFact] = []
    assert [c.fact.id for c in read_feed(path, on_error=errors.append)] == ["3"]
    assert "line 2: Byte 13 of the row (0xe9) is not UTF-8" in str(errors[0])


@pytest.mark.parametrize("magic", [b"BZh9", b"\xfd7zXZ\x00", b"\x28\xb5\x2f\xfd", b"\x1f\x8b\x08"])
def test_compressed_files_are_refused_whatever_their_name(tmp_path: Path, magic: bytes) -> None:
    for name in ("feed.csv", "feed.jsonl"):
        path = tmp_path / name
        path.write_bytes(magic)
        with pytest.raises(BadFeed, match="Convert it first"):
            list(read_feed(path))


def test_a_feed_is_not_written_as_csv(tmp_path: Path) -> None:
    with pytest.raises(BadFeed, match=r"Name the file \.jsonl"):
        write_feed(tmp_path / "feed.csv", [parse_row(MINIMAL, default_id="1")])


WORDS = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=12).filter(str.strip)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "statement": WORDS,
            "author": WORDS,
            "domain": WORDS,
            "risk": st.sampled_from([r.value for r in Risk]),
            "confidence": st.floats(0, 1),
            "volatile": st.booleans(),
            "valid_from": st.dates().map(str),
            "valid_to": st.dates().map(str),
            "sources": st.lists(WORDS, max_size=2),
            "negatives": st.lists(WORDS, max_size=2),
            "study": st.lists(WORDS, max_size=2),
        },
    )
)
def test_writing_and_reading_is_the_identity(more: dict[str, object]) -> None:
    try:
        catechism = parse_row({**MINIMAL, **more}, default_id="9")
    except BadFact:
        return  # dates the wrong way round, two scripts in one word, one prompt twice
    assert parse_row(json.loads(json.dumps(dump_row(catechism))), default_id="0") == catechism
