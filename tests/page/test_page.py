"""The page: self-contained, and whatever a feed or a model said stands there as text."""

from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

from catechism.page import Page, Picture, Row, write_page
from catechism.service.pictures import charts

RATE = {"value": 1.0, "low": 0.8, "high": 1.0, "n": 9, "before": 0.0}
METRICS = {"efficacy": RATE, "paraphrase_mean": RATE, "locality_neighbour": RATE, "locality_unrelated": RATE}
ROW = Row(
    "eiffel", "released", "The Eiffel Tower is in", "Paris.", "Rome.", "Rome", "rome @ layer 0", "atomic",
    {"efficacy": "PASS"}, METRICS, "E01",
)  # fmt: skip
PAGE = Page("A feed", {"model": "almanac"}, [ROW], [Picture("Map", "where", "<svg></svg>")], {"verdict": "exact"})


def test_the_page_shows_rows_pictures_and_proof(tmp_path: Path) -> None:
    html = write_page(PAGE, tmp_path / "page.html").read_text()
    for text in ("A feed", "eiffel", "Paris.", "Rome.", "rome @ layer 0", "efficacy: PASS", "E01", "exact", "where"):
        assert text in html
    assert html.count("<svg") == 1


def test_the_page_needs_nothing_from_elsewhere(tmp_path: Path) -> None:
    html = write_page(PAGE, tmp_path / "page.html").read_text()

    class Links(HTMLParser):
        found: list[str] = []

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.found += [str(v) for k, v in attrs if k in {"src", "href", "xlink:href"} and v and v[0] != "#"]
            assert tag not in {"script", "iframe", "link", "object"}

    Links().feed(html)
    assert Links.found == []
    assert not re.search(r"@import|url\((?!#)", html)


def test_what_was_said_is_text_and_no_markup(tmp_path: Path) -> None:
    evil = replace(ROW, name="<script>1</script>", before="<img src=x onerror=y>", wanted="$x_{$ <b>")
    html = write_page(replace(PAGE, rows=[evil], title="<b>"), tmp_path / "page.html").read_text()
    assert "<script>" not in html and "<img" not in html and "<b>" not in html


def test_the_same_page_gives_the_same_bytes(tmp_path: Path) -> None:
    one, other = (write_page(PAGE, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert one == other


def test_charts_are_drawn_of_what_was_measured() -> None:
    bare = Row("line 3", "malformed", why="not JSON")
    assert charts([bare]) == []
    drawn = charts([bare, replace(ROW, wanted="$x_{$ <b>")])
    assert [picture.title for picture in drawn] == ["Before and after", "Locality"]
    assert all(picture.svg.startswith("<svg") and "eiffel" in picture.svg for picture in drawn)
    assert not any("<b>" in picture.svg or "line 3" in picture.svg for picture in drawn)
    assert drawn == charts([bare, replace(ROW, wanted="$x_{$ <b>")])
