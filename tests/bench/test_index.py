"""The index benchmark on small numbers of masks."""

from __future__ import annotations

import json

import pytest

from catechism.bench.index import Sizes, run
from catechism.cli.main import main
from catechism.errors import UsageError


def test_rows_are_powers_of_ten_up_to_the_number_of_masks(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main("bench index --masks 1500 --json".split())
    found = json.loads(capsys.readouterr().out)
    assert end.value.code == 0
    assert [row["masks"] for row in found["rows"]] == [1000, 1500]
    for row in found["rows"]:
        assert row["recall"]["value"] >= 0.99 and row["agreement_unrelated"]["value"] >= 0.99
        assert {"milliseconds_per_query", "build_seconds", "memory_mb"} <= set(row)


def test_a_least_share_that_unrelated_masks_reach_is_searched_in_full() -> None:
    (row,) = run(Sizes(masks=1000, d=96, k=27, least=0.3), 0)["rows"]
    assert row["recall"]["value"] >= 0.99 and row["agreement_unrelated"]["value"] >= 0.99


@pytest.mark.parametrize("wrong", [{"masks": 0}, {"k": 0}, {"k": 800}, {"least": 0.0}])
def test_sizes_that_cannot_be_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="use"):
        Sizes(**wrong)  # type: ignore[arg-type]
