from __future__ import annotations

import json
import pickle
import tracemalloc
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.errors import BadFact, BadFeed
from catechism.facts import lines, read_feed, write_feed
from catechism.facts.row import KEYS, dump_row, parse_row
from catechism.types import Catechism, Fact, Kind, Question

ROW: dict[str, object] = {
    "prompt": "The capital of {} is",
    "subject": "France",
    "new_object": "Lyon",
    "old_object": "Paris",
    "accept": ["Lyons"],
    "reject": ["Lutetia"],
    "paraphrases": ["France's capital is", "What is the capital of {}?"],
    "aliases": ["the French Republic"],
    "reversed": ["Lyon is the capital of", {"prompt": "Which country has Lyon as capital?", "answer": "France"}],
    "one_hop": [{"prompt": "The river through the capital of {} is the", "answer": ["Rhone", "Rhône"]}],
    "multi_hop": [
        {"prompt": "The sea that the river through the capital of {} runs to is the", "answer": "Mediterranean"}
    ],
    "neighbours": ["The capital of Italy is", {"prompt": "The capital of Spain is", "answer": "Madrid"}],
    "same_subject": [{"prompt": "The currency of {} is the", "answer": "euro"}],
    "unrelated": ["Water boils at"],
    "relation": "capital",
    "id": "Q142",
}
MINIMAL = {"prompt": "A b is", "subject": "b", "new_object": "c"}


def feed_file(folder: Path, *rows: object) -> Path:
    path = folder / "feed.jsonl"
    path.write_text("".join((r if isinstance(r, str) else json.dumps(r)) + "\n" for r in rows), encoding="utf-8")
    return path


def refusal(folder: Path, row: object) -> BadFeed | BadFact:
    with pytest.raises((BadFeed, BadFact)) as caught:
        list(read_feed(feed_file(folder, MINIMAL, row)))
    assert "line 2" in str(caught.value)
    return caught.value


def test_a_full_row_becomes_the_questions_of_its_fact(tmp_path: Path) -> None:
    (catechism,) = read_feed(feed_file(tmp_path, ROW))
    (source,) = catechism.fact.sources
    fact = replace(catechism.fact, sources=())
    assert fact == Fact("The capital of France is", "France", "Lyon", "Paris", "capital", "Q142")
    assert source.uri.endswith("feed.jsonl") and source.retrieved_at.endswith("Z")
    right, wrong = ("Lyon", "Lyons"), ("Paris", "Lutetia")
    assert {q.origin for q in catechism.questions} == {"feed"}
    assert tuple(replace(q, origin="") for q in catechism.questions) == (
        Question("The capital of France is", Kind.REWRITE, right, wrong),
        Question("France's capital is", Kind.PARAPHRASE, right, wrong),
        Question("What is the capital of France?", Kind.PARAPHRASE, right, wrong),
        Question("The capital of the French Republic is", Kind.ALIAS, right, wrong),
        Question("Lyon is the capital of", Kind.REVERSED, ("France", "the French Republic")),
        Question("Which country has Lyon as capital?", Kind.REVERSED, ("France",)),
        Question("The river through the capital of France is the", Kind.ONE_HOP, ("Rhone", "Rhône")),
        Question(
            "The sea that the river through the capital of France runs to is the", Kind.MULTI_HOP, ("Mediterranean",)
        ),
        Question("The capital of Italy is", Kind.NEIGHBOUR),
        Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",)),
        Question("The currency of France is the", Kind.SUBJECT, ("euro",)),
        Question("Water boils at", Kind.UNRELATED),
    )


def test_a_minimal_row_has_its_line_number_as_id(tmp_path: Path) -> None:
    path = feed_file(tmp_path, "", MINIMAL, "   ", {**MINIMAL, "id": 7})
    assert [c.fact.id for c in read_feed(path)] == ["2", "7"]
    assert next(read_feed(path)).questions == (Question("A b is", Kind.REWRITE, ("c",), origin="feed"),)


def test_the_documentation_lists_every_key() -> None:
    page = (Path(__file__).parents[2] / "docs" / "feed-format.md").read_text(encoding="utf-8")
    assert [key for key in KEYS if f"`{key}`" not in page] == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"new_object": ""}, "'new_object' is empty"),
        ({"new_object": "  "}, "'new_object' is empty"),
        ({"subject": ""}, "'subject' is empty"),
        ({"subject": "z"}, "write {} in its place"),
        ({"subject": "B"}, "The prompt spells it 'b'"),
        ({"new_object": "c\x00"}, r"U\+0000"),
        ({"new_object": "c\nd"}, r"U\+000A"),
        ({"prompt": "A b\x07 is"}, r"U\+0007"),
        ({"prompt": "A b \u202eis"}, "RIGHT-TO-LEFT OVERRIDE"),
        ({"prompt": "A b \ud800"}, r"U\+D800"),
        ({"new_object": "c" * 2001}, "2001 characters, at most 2000"),
        ({"prompt": "A b" + " is" * 7000}, "at most 20000"),
        ({"old_object": "C"}, "both an answer that passes and one that must be absent"),
        ({"reject": ["ｃ"]}, "both an answer that passes"),
        ({"neighbours": ["A b is"]}, "cannot both change and stay"),
        ({"neighbours": ["The {} is"]}, "stands for the subject in other keys only"),
        ({"paraphrases": ["A b was", " "]}, r"'paraphrases\[1\]' is empty"),
        ({"reversed": [{"prompt": "X", "answer": "1"}, {"prompt": "X", "answer": "2"}]}, "different answers"),
    ],
)
def test_a_fact_that_cannot_be_used_is_refused_by_name(tmp_path: Path, change: dict, words: str) -> None:
    error = refusal(tmp_path, {**MINIMAL, **change})
    assert isinstance(error, BadFact)
    with pytest.raises(BadFact, match=words):
        raise error


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("{", "Not JSON.* column 2"),
        ('{"prompt": NaN}', "NaN is not JSON"),
        ("[1]", "not an object"),
        ('"x"', "not an object"),
        ('{"id": 1, "id": 2}', "'id' stands there twice"),
        ("[" * 100_000, "Not usable as JSON"),
        ('{"id": ' + "9" * 5000 + "}", "Not usable as JSON"),
        ({**MINIMAL, "paraphrase": []}, "Did you mean 'paraphrases'"),
        ({**MINIMAL, "zzz": 1}, "Use one of: prompt"),
        ({"prompt": "A b is", "subject": "b"}, "No value for 'new_object'"),
        ({**MINIMAL, "new_object": None}, "No value for 'new_object'"),
        ({**MINIMAL, "new_object": 1945}, "got a number. Put it in quotes"),
        ({**MINIMAL, "new_object": ["c"]}, "must be a text, got a list"),
        ({**MINIMAL, "paraphrases": "A b was"}, "must be a list, got a text"),
        ({**MINIMAL, "id": True}, "must be a text, got true or false"),
        ({**MINIMAL, "one_hop": ["Who?"]}, "has no answer"),
        ({**MINIMAL, "neighbours": [{"text": "x"}]}, "Give it 'prompt'"),
        ({**MINIMAL, "unrelated": ["x" * (lines.MAX_LINE_BYTES + 1)]}, "longer than 1048576 bytes"),
    ],
)
def test_a_row_that_cannot_be_read_is_refused_by_name(tmp_path: Path, row: object, words: str) -> None:
    error = refusal(tmp_path, row)
    assert isinstance(error, BadFeed)
    with pytest.raises(BadFeed, match=words):
        raise error


def test_bytes_that_are_not_utf8_are_refused_with_their_place(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_bytes(json.dumps(MINIMAL).encode() + b'\n{"prompt": "caf\xe9"}\n')
    with pytest.raises(BadFeed, match=r"line 2: Byte 16 of the row \(0xe9\) is not UTF-8.*iconv"):
        list(read_feed(path))


def test_errors_survive_pickling(tmp_path: Path) -> None:
    error = refusal(tmp_path, {**MINIMAL, "subject": "z"})
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no rows"),
        (b"\n\n", "holds no rows"),
        (b"\x1f\x8b\x08", "gunzip"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b'[{"prompt": "x"}]', "jq -c"),
    ],
)
def test_a_file_that_is_no_feed_is_refused_even_when_bad_rows_are_collected(
    tmp_path: Path, content: bytes, words: str
) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_bytes(content)
    with pytest.raises(BadFeed, match=words):
        list(read_feed(path, on_error=lambda error: None))


def test_a_missing_file_and_a_folder_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadFeed, match="no file"):
        read_feed(tmp_path / "none.jsonl")
    with pytest.raises(BadFeed, match="is a folder"):
        read_feed(tmp_path)


def test_bad_rows_can_be_collected(tmp_path: Path) -> None:
    long = json.dumps({**MINIMAL, "unrelated": ["x" * (3 * lines.MAX_LINE_BYTES)]})
    path = feed_file(tmp_path, MINIMAL, "{", long, {**MINIMAL, "subject": "z"}, MINIMAL)
    errors: list[BadFeed | BadFact] = []
    assert [c.fact.id for c in read_feed(path, on_error=errors.append)] == ["1", "5"]
    assert [type(e) for e in errors] == [BadFeed, BadFeed, BadFact]
    assert [f"line {n}" in str(e) for n, e in zip((2, 3, 4), errors, strict=True)] == [True] * 3


def test_windows_line_ends_and_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    path = tmp_path / "feed.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(MINIMAL).encode() + b"\r\n\r\n" + json.dumps(MINIMAL).encode())
    assert [c.fact.id for c in read_feed(path)] == ["1", "3"]


def test_reading_needs_no_more_memory_for_a_longer_feed(tmp_path: Path) -> None:
    def peak_bytes(rows: int) -> int:
        path = feed_file(tmp_path, *[{**MINIMAL, "unrelated": ["x" * 20_000]}] * rows)
        tracemalloc.start()
        count = sum(1 for _ in read_feed(path))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count == rows
        return peak

    assert peak_bytes(200) < 2 * peak_bytes(10)


def test_a_question_asked_twice_is_kept_once(tmp_path: Path) -> None:
    row = {**MINIMAL, "paraphrases": ["A b is", "b is a", "{} is a"], "unrelated": ["x", "x"]}
    (catechism,) = read_feed(feed_file(tmp_path, row))
    assert [q.text for q in catechism.questions] == ["A b is", "b is a", "x"]


def test_a_prompt_may_hold_line_breaks_and_texts_lose_white_space_at_their_ends(tmp_path: Path) -> None:
    row = {"prompt": "Q: what is {}?\nA: ", "subject": " b ", "new_object": " c"}
    (catechism,) = read_feed(feed_file(tmp_path, row))
    assert (catechism.fact.prompt, catechism.fact.subject, catechism.fact.object) == ("Q: what is b?\nA:", "b", "c")


def test_a_written_feed_is_read_back_the_same(tmp_path: Path) -> None:
    catechisms = list(read_feed(feed_file(tmp_path, ROW, MINIMAL)))
    path = tmp_path / "again.jsonl"
    assert write_feed(path, catechisms) == 2
    assert list(read_feed(path)) == catechisms
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".")] == []


def test_what_a_row_cannot_hold_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "again.jsonl"
    fact = Fact("A b is", "b", "c")
    with pytest.raises(BadFact, match="not one that a feed row can hold"):
        write_feed(path, [Catechism(fact, (Question("A b is", Kind.REWRITE, ("d",)),))])
    with pytest.raises(BadFact, match="not in the prompt"):
        write_feed(path, [Catechism(Fact("A b is", "z", "c"), (Question("A b is", Kind.REWRITE, ("c",)),))])
    with pytest.raises(BadFeed, match="no catechism to write"):
        write_feed(path, [])
    assert list(tmp_path.iterdir()) == []


TEXTS = st.text(st.characters(categories=("L", "N", "P", "Zs")), min_size=1, max_size=12).filter(str.strip)


@given(
    subject=TEXTS,
    objects=st.lists(TEXTS, min_size=1, max_size=3, unique=True),
    paraphrases=st.lists(TEXTS, max_size=3),
    aliases=st.lists(TEXTS, max_size=2),
    unrelated=st.lists(TEXTS, max_size=2),
)
def test_writing_and_reading_is_the_identity(
    subject: str, objects: list[str], paraphrases: list[str], aliases: list[str], unrelated: list[str]
) -> None:
    row = {"prompt": "of {} or {} is", "subject": subject, "new_object": objects[0], "reject": objects[1:]}
    try:
        catechism = parse_row(
            {**row, "paraphrases": paraphrases, "aliases": aliases, "unrelated": unrelated}, default_id="9"
        )
    except BadFact:
        return  # equal after folding, or one text that must change and stay
    assert parse_row(json.loads(json.dumps(dump_row(catechism))), default_id="0") == catechism
