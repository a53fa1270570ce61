"""The study of the editors: its words follow from its figures, and it runs from facts to a page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from catechism.bench.study import say_capacity, say_effects
from catechism.cli.main import main


def row(method: str, n: int = 100, **figures: float) -> dict[str, Any]:
    known = {"reliability": 1.0, "generalisation": 1.0, "locality": 1.0, "seconds_per_edit": 1.0, **figures}
    average = sum(known[name] for name in ("reliability", "generalisation", "locality")) / 3
    return {"method": method, "n": n, "delta_bytes": 2e6, "average": average, **known}


def test_each_method_is_told_by_what_it_missed() -> None:
    words = " ".join(
        say_effects([
            row("good"), row("narrow", generalisation=0.4), row("rough", locality=0.3), row("weak", reliability=0.2),
            {"method": "broken", "n": 100, "error": "E402"},
        ])
    )  # fmt: skip
    assert "good (1.000), narrow (0.800) and rough (0.767)" in words
    assert "good reached reliability 0.95, generalisation 0.9 and locality 0.95 together." in words
    assert "in other words, by generalisation: narrow (0.400)." in words
    assert "by locality: rough (0.300)." in words and "by reliability: weak (0.200)." in words
    assert "Failed as a whole: broken." in words


def test_nothing_is_praised_where_nothing_reached_the_bounds() -> None:
    words = say_effects([row("narrow", generalisation=0.4)])
    assert words[1].startswith("No method reached") and len(words) == 3
    assert say_effects([{"method": "broken", "n": 1, "error": "E402"}]) == ["No method could be measured."]


def test_a_model_is_full_where_its_reliability_falls() -> None:
    rows = [row("closed", 10), row("closed", 100, reliability=0.5, seconds_per_edit=0.5), row("bank", 10)]
    rows.append(row("bank", 100, locality=0.9, seconds_per_edit=2.0))
    closed, bank, both = say_capacity(rows, "closed", "bank")
    assert closed.startswith("closed, the closed form, held 0.9 reliability up to 10 facts, and was full beyond.")
    assert bank.startswith("bank, the bank of adapters, held 0.9 reliability up to 100 facts, the most that was tried.")
    assert "At 100 facts closed takes in 4.0 times as many facts a second, and closed is the more specific" in both
    assert "closed (1.000) and bank (0.900)" in both


def test_what_could_not_be_measured_is_said() -> None:
    rows = [{"method": "bank", "n": 10, "error": "E402"}, row("closed", 10, reliability=0.1)]
    closed, bank = say_capacity(rows, "closed", "bank")
    assert "never held 0.9 reliability. At 10 facts" in closed
    assert bank == "bank, the bank of adapters, could not be measured."


def test_a_study_writes_its_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "study.html"
    words = "study editors --facts 3 --methods ft_l --sizes 2,3 --closed-form ultraedit --bank ft_l --json --report"
    with pytest.raises(SystemExit) as end:
        main([*words.split(), str(page)])
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert [(r["experiment"], r["method"], r["n"]) for r in found["rows"]] == [
        ("side effects", "ft_l", 3),
        ("capacity", "ultraedit", 2), ("capacity", "ft_l", 2), ("capacity", "ultraedit", 3), ("capacity", "ft_l", 3),
    ]  # fmt: skip
    assert all(word in page.read_text() for word in ("The editors side by side", "A stream of edits"))
    assert len(found["conclusions"]) >= 4
