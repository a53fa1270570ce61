"""A search in parts: the values of one in a single batch, and what cannot be found by its number among all."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import pytest
import torch

from catechism.errors import NoConvergence
from catechism.methods.searching import find_target_values, search_part
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.sharing import Work, here
from catechism.model.sought import Sought
from catechism.model.writing import Writing
from catechism.solve.values import Search
from tests.methods.test_closed_form import FACTS, TEXTS, live_model, spec_of

SEARCH = Search(steps=6, stop=-1.0)


@pytest.fixture(scope="module")
def live() -> LiveModel:
    return live_model()


@pytest.fixture(scope="module")
def sought(live: LiveModel) -> Sought:
    writing = Writing(live, Background(live, partial(iter, TEXTS)), FACTS, spec_of("memit", spread=1, contexts=1))
    keys = writing.keys(writing.sites[-1])
    return writing.sought(keys, keys)


def test_a_search_in_parts_finds_what_one_batch_finds(
    live: LiveModel, sought: Sought, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = search_part(live, SEARCH, sought)
    monkeypatch.setattr("catechism.methods.searching.AT_ONCE", 2)
    sizes: list[int] = []

    def share(live: LiveModel, work: Work, parts: Sequence[Any], asked: Any) -> list[Any]:
        sizes.extend(len(part.scale) for part in parts)
        return here(live, work, parts, asked)

    found = find_target_values(live, share, sought, SEARCH)
    assert sizes == [2, 1]
    assert float(whole.values.norm()) > 0
    torch.testing.assert_close(found.values, whole.values, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.nll, whole.nll, rtol=1e-4, atol=1e-5)


def test_a_part_has_the_rows_of_its_own_facts(sought: Sought) -> None:
    parts = sought.split(2)
    assert [sorted(set(part.rows.owner.tolist())) for part in parts] == [[0, 1], [0]]
    assert sum(len(part.rows.kept) for part in parts) == len(sought.rows.kept)
    last = sought.rows.select((sought.rows.owner == 2).nonzero()[:, 0])
    assert torch.equal(parts[1].rows.input_ids, last.input_ids) and parts[1].rows.kept == last.kept


def test_what_leaves_the_finite_numbers_is_named_by_its_number_among_all(
    live: LiveModel, sought: Sought, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("catechism.methods.searching.AT_ONCE", 1)

    def share(live: LiveModel, work: Work, parts: Sequence[Any], asked: Any) -> list[Any]:
        found = here(live, work, parts, asked)
        found[2].values.fill_(float("nan"))
        return found

    with pytest.raises(NoConvergence, match=r"1 of 3 facts \(number 2\)") as error:
        find_target_values(live, share, sought, SEARCH)
    assert error.value.facts == (2,)
