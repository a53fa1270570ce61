"""The path benchmark on the trained model: stations add up, endings are counted, nothing is left on the weights."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from catechism.bench.path import run
from catechism.service.outcomes import STAGES
from catechism.settings import Settings


def test_a_small_feed_goes_the_whole_path(tmp_path: Path) -> None:
    settings = Settings(cache=tmp_path / "cache", home=tmp_path / "untouched")
    found = run("almanac", 3, 0, settings, Console(quiet=True))
    assert [row["stage"] for row in found["rows"]] == list(STAGES)
    assert sum(row["share"] for row in found["rows"]) == pytest.approx(1.0)
    assert sum(row["seconds"] for row in found["rows"]) == pytest.approx(found["seconds_total"])
    assert sum(found["endings"].values()) == 3
    assert sum(found["methods"].values()) == found["endings"].get("released", 0)
    assert found["weights_exact"] and found["store_verified"]
    assert not settings.home.exists()
