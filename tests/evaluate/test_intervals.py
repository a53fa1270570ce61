from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.errors import UsageError
from catechism.evaluate.intervals import bootstrap, wilson
from catechism.types import Rate


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilsons_limits_solve_their_equation_and_hold_the_value(case: tuple[int, int]) -> None:
    k, n = case
    rate = wilson(k, n)
    for limit in (rate.low, rate.high):
        assert math.isclose((rate.value - limit) ** 2, 1.959963985**2 * limit * (1 - limit) / n, abs_tol=1e-9)
    assert 0 <= rate.low <= rate.value <= rate.high <= 1
    assert rate.n == n


@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    # scipy 1.17.1 scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    [
        (0, 1, 0.0, 0.7934506856),
        (1, 1, 0.2065493144, 1.0),
        (3, 7, 0.1582198553, 0.7495416355),
        (98, 100, 0.9299882093, 0.9944980324),
        (100, 100, 0.9630065018, 1.0),
        (0, 2000, 0.0, 0.0019170473),
        (991, 2000, 0.4736174624, 0.517399791),
    ],
)
def test_wilson_agrees_with_scipy(k: int, n: int, low: float, high: float) -> None:
    assert (wilson(k, n).low, wilson(k, n).high) == (pytest.approx(low, abs=1e-9), pytest.approx(high, abs=1e-9))


def test_wilson_does_not_claim_certainty_from_a_clean_record() -> None:
    rate = wilson(5, 5, before=0.2)
    assert rate == Rate(1.0, rate.low, 1.0, 5, 0.2)
    assert rate.low < 0.6


@pytest.mark.parametrize(("k", "n"), [(0, 0), (-1, 3), (4, 3), (math.nan, 3)])
def test_a_proportion_that_is_none_is_refused(k: float, n: int) -> None:
    with pytest.raises(UsageError, match="at least one trial"):
        wilson(k, n)


def test_the_bootstrap_is_the_same_for_the_same_seed_and_differs_for_another() -> None:
    values = [math.sin(i) ** 2 for i in range(50)]
    assert bootstrap(values, 1) == bootstrap(values, 1)
    assert bootstrap(values, 1) != bootstrap(values, 2)


def test_the_bootstrap_is_as_wide_as_theory_says() -> None:
    values = [i / 199 for i in range(200)]
    rate = bootstrap(values, 0)
    half = 1.96 * math.sqrt((200**2 - 1) / 12) / 199 / math.sqrt(200)
    assert rate.value == pytest.approx(0.5)
    assert rate.high - rate.value == pytest.approx(half, rel=0.1)
    assert rate.value - rate.low == pytest.approx(half, rel=0.1)


def test_equal_values_get_wilsons_interval_in_place_of_none() -> None:
    assert bootstrap([1.0] * 5, 0) == wilson(5, 5)
    rate = bootstrap([0.5], 0, bounds=(-1.0, 1.0))
    assert rate.low < 0.5 < rate.high <= 1


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_the_mean_lies_in_its_interval_and_the_interval_in_the_bounds(values: list[float]) -> None:
    rate = bootstrap(values, 0)
    assert -1e-12 <= rate.low <= rate.value <= rate.high <= 1 + 1e-12


@pytest.mark.parametrize("values", [[], [2.0], [math.nan]])
def test_values_out_of_bounds_are_refused(values: list[float]) -> None:
    with pytest.raises(UsageError, match="all inside"):
        bootstrap(values, 0)
