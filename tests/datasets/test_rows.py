"""Rows of a file in all three layouts, good and bad, in bounded memory."""

from __future__ import annotations

import gzip
import json
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from catechism.datasets.rows import Row, read_rows
from catechism.errors import BadFeed

OBJECTS = [{"a": 1, "b": [{"c": 'quote " and ]} inside'}]}, {}, {"text": "über\nzwei Zeilen", "d": {"e": None}}]


def rows_of(path: Path, text: str | bytes) -> list[Row]:
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_rows(path))


@pytest.mark.parametrize("indent", [None, 2])
def test_a_list_is_read_row_by_row_with_its_places(tmp_path: Path, indent: int | None) -> None:
    rows = rows_of(tmp_path / "list.json", json.dumps(OBJECTS, indent=indent))
    assert [row.value for row in rows] == OBJECTS
    assert [row.number for row in rows] == [1, 2, 3]
    assert rows[0].place == ("row 1 (line 1)" if indent is None else "row 1 (line 2)")
    assert rows[2].place == ("row 3 (line 1)" if indent is None else "row 3 (line 11)")


def test_lines_are_rows_and_empty_ones_count_as_lines_only(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", '\ufeff{"a": 1}\n\n{"a": 2}\n')
    assert [(row.number, row.place, row.value) for row in rows] == [(1, "line 1", {"a": 1}), (2, "line 3", {"a": 2})]


def test_one_object_over_several_lines_is_one_row(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "relation.json", json.dumps(OBJECTS[0], indent=1))
    assert [row.value for row in rows] == OBJECTS[:1]


VALUES = st.none() | st.text(max_size=5) | st.integers() | st.lists(st.text(max_size=5), max_size=2)


@settings(max_examples=30)
@given(st.lists(st.dictionaries(st.text(max_size=5), VALUES, max_size=3), min_size=1, max_size=4))
def test_what_is_written_as_a_list_comes_back(tmp_path_factory: pytest.TempPathFactory, objects: list[object]) -> None:
    path = tmp_path_factory.mktemp("rows") / "list.json"
    assert [row.value for row in rows_of(path, json.dumps(objects, ensure_ascii=True))] == objects


@pytest.mark.parametrize("ascii_only", [True, False])
def test_a_window_may_end_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ascii_only: bool) -> None:
    text = json.dumps([*OBJECTS, {"long": "é]" * 40, "n": 12345}], ensure_ascii=ascii_only)
    for size in range(1, 40):
        monkeypatch.setattr("catechism.datasets.rows._CHUNK_BYTES", size)
        assert [row.value for row in rows_of(tmp_path / "list.json", text)] == json.loads(text)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("{'a': 1}", "Expecting property name"),
        ('{"a": 1, "a": 2}', "key 'a' stands there twice"),
        ('{"a": NaN}', "NaN is not JSON"),
        ("[1, [2]]", "The row is a list"),
        ('"text"', "The row is a text"),
        ("17", "The row is a number"),
        ('{"a": [1,, {"b": "]"}]}', "Expecting value"),
    ],
)
def test_a_bad_row_of_a_list_is_handed_over_and_the_next_one_is_read(tmp_path: Path, bad: str, message: str) -> None:
    rows = rows_of(tmp_path / "list.json", f'[{{"first": 1}},\n {bad},\n {{"last": 1}}]')
    assert [rows[0].value, rows[2].value] == [{"first": 1}, {"last": 1}]
    assert isinstance(rows[1].value, BadFeed) and message in str(rows[1].value)
    assert rows[1].place == "row 2 (line 2)"


def test_a_bad_line_is_handed_over_and_the_next_one_is_read(tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "rows.jsonl", b'{"a": 1}\n{"a": \xe9}\nnonsense\n{"a": 2}')
    assert [type(row.value) for row in rows] == [dict, BadFeed, BadFeed, dict]
    assert "not UTF-8" in str(rows[1].value) and "Not JSON" in str(rows[2].value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("[]", "holds no rows"),
        ('[{"a": 1}', "breaks off after row 1"),
        ('[{"a": 1}, {"b": ', "breaks off in row 2, which begins on line 1"),
        ('[{"a": 1}, {"b": "x}]', "breaks off in row 2"),
        ('[{"a": 1} {"b": 2}]', "stands '{' where a comma"),
        ('[{"a": 1},]', "a comma before the end"),
        ('[{"a": 1}] [', "goes on after the end of its list"),
        (gzip.compress(b"[]", mtime=0), "gzip-compressed"),
        (b'[{"a": "' + b"\xe9" + b'"}]', "not UTF-8 after line 1"),
        ("[{}]".encode("utf-16"), "UTF-16"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path, text: str | bytes, message: str) -> None:
    with pytest.raises(BadFeed, match="list.json") as caught:
        rows_of(tmp_path / "list.json", text)
    assert message in str(caught.value)


def test_a_row_without_an_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("catechism.datasets.rows.MAX_ROW_BYTES", 1000)
    with pytest.raises(BadFeed, match=r"row 1 \(line 1\) has no end within 1000 characters"):
        rows_of(tmp_path / "list.json", '[{"a": "' + "x" * 200_000)


def test_a_folder_and_a_missing_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFeed, match="is a folder"):
        list(read_rows(tmp_path))
    with pytest.raises(BadFeed, match="There is no file"):
        list(read_rows(tmp_path / "none.json"))


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    path = tmp_path / "large.json"
    path.write_text("[" + ",\n".join(json.dumps({"n": i, "text": "word " * 2000}) for i in range(800)) + "]")
    assert path.stat().st_size > 8_000_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in read_rows(path)) == 800
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2_000_000
