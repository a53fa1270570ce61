"""The audit's statistics against cases worked by hand, and against counting everything out."""

from __future__ import annotations

import itertools
import math

import pytest

from catechism.errors import UsageError
from catechism.evaluate.audit.compare import Sides, rate_row
from catechism.evaluate.audit.profile import Margins
from catechism.evaluate.audit.result import Family, Row
from catechism.evaluate.audit.statistics import (
    auc,
    auc_gap,
    greatest_gap,
    holm,
    ks_test,
    mean_of,
    paired_difference,
    ratio_of_means,
)


def pairs(both: int, first: int, second: int, neither: int) -> tuple[list[float], list[float]]:
    """Two lists of zeros and ones with these counts of pairs."""
    a = [1.0] * (both + first) + [0.0] * (second + neither)
    b = [1.0] * both + [0.0] * first + [1.0] * second + [0.0] * neither
    return a, b


def test_newcombes_interval_is_the_published_one() -> None:
    """R. G. Newcombe, Statistics in Medicine 17 (1998) 2635, table III, method 10."""
    found = paired_difference(*pairs(36, 12, 2, 0), seed=0)
    assert (found.value, found.low, found.high) == (
        pytest.approx(0.2),
        pytest.approx(0.0569, abs=1e-4),
        pytest.approx(0.3404, abs=1e-4),
    )


def test_pairs_that_all_agree_leave_doubt_that_falls_with_their_number() -> None:
    few, many = (paired_difference([0.0] * n, [0.0] * n, seed=0) for n in (5, 100))
    assert few.value == many.value == 0
    assert (few.low, few.high) == (pytest.approx(-0.4344825), pytest.approx(0.4344825))  # Wilson's limit of 0 of 5
    assert many.high == pytest.approx(0.0369935)


def test_differences_of_shares_are_resampled_in_pairs() -> None:
    found = paired_difference([0.25, 0.5, 1.0, 0.75], [0.0, 0.25, 0.75, 0.5], seed=1)
    assert found.value == 0.25 and found.low <= 0.25 <= found.high
    spread = paired_difference([0.5, 1.0, 0.25, 1.0], [0.5, 0.0, 0.0, 0.75], seed=1)
    assert spread.value == pytest.approx(0.375) and 0 < spread.low < 0.375 < spread.high <= 1


def test_lists_that_are_no_pairs_are_refused() -> None:
    with pytest.raises(UsageError, match="as many of one"):
        paired_difference([1.0], [1.0, 0.0], seed=0)


@pytest.mark.parametrize(("n", "m"), [(3, 4), (4, 4), (2, 6)])
def test_the_p_value_of_ks_is_the_share_of_all_orders(n: int, m: int) -> None:
    ranks = range(n + m)
    orders = list(itertools.combinations(ranks, n))
    distances = [ks_test(chosen, [r for r in ranks if r not in chosen])[0] for chosen in orders]
    for chosen in orders[::5]:
        distance, p = ks_test(chosen, [r for r in ranks if r not in chosen])
        assert p == pytest.approx(sum(d >= distance - 1e-12 for d in distances) / len(distances))


def test_ks_of_equal_and_of_parted_samples() -> None:
    assert ks_test([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == (0.0, 1.0)
    distance, p = ks_test([1.0, 2.0, 3.0, 4.0, 5.0], [6.0, 7.0, 8.0, 9.0, 10.0])
    assert (distance, p) == (1.0, pytest.approx(2 / math.comb(10, 5)))
    near, _ = ks_test([1.0, 3.0], [2.0, 4.0])
    assert near == 0.5


def test_beyond_the_exact_range_ks_takes_kolmogorovs_limit() -> None:
    a, b = [float(i) for i in range(250)], [float(i) + 30.5 for i in range(250)]
    distance, p = ks_test(a, b)
    z = distance * math.sqrt(125)
    assert distance == pytest.approx(31 / 250)
    assert p == pytest.approx(2 * (math.exp(-2 * z**2) - math.exp(-8 * z**2) + math.exp(-18 * z**2)), rel=1e-9)
    assert ks_test(a, a)[1] == 1.0


def test_auc_counts_pairs() -> None:
    assert auc([1.0, 2.0], [3.0, 4.0]) == 1.0  # members score lower: seen
    assert auc([3.0, 4.0], [1.0, 2.0]) == 0.0  # and higher: over-forgotten
    assert auc([1.0, 3.0], [2.0, 3.0]) == 0.625  # of four pairs two and a half


def test_membership_is_told_from_either_side_and_not_from_a_model_like_it() -> None:
    low, high = [float(i) for i in range(12)], [float(i) + 100 for i in range(12)]
    seen, over = auc_gap((low, high), None, 0), auc_gap((high, low), None, 0)
    assert (seen.here.value, seen.gap.value, seen.there) == (1.0, 0.5, 0.5)
    assert over.gap.value == -0.5 and seen.p < 0.01 and over.p < 0.01
    same = auc_gap((low, high), (low, high), 0)
    assert same.gap.value == 0 and same.p == 1.0


def test_the_greatest_gap_over_layers_is_tested_against_exchanges() -> None:
    a, b = [[1.0, 0.0] * 6, [1.0] * 12], [[0.0, 0.0] * 6, [0.0] * 12]
    layer, gap, p = greatest_gap(a, b, seed=0)
    assert (layer, gap) == (1, 1.0) and p < 0.005
    layer, gap, p = greatest_gap(b, b, seed=0)
    assert gap == 0.0 and p == 1.0
    # three things that all tell: of the eight exchanges one is as far
    assert greatest_gap([[1.0] * 3], [[0.0] * 3], seed=0)[2] == pytest.approx(1 / 8, abs=0.03)


def test_ratios_of_means_go_with_pairs() -> None:
    found = ratio_of_means([9.0, 18.0, 27.0], [10.0, 20.0, 30.0], seed=0)
    assert (found.value, found.low, found.high) == (pytest.approx(0.9), pytest.approx(0.9), pytest.approx(0.9))
    assert ratio_of_means([0.0, 0.0], [0.0, 0.0], seed=0).value == 1.0
    assert ratio_of_means([1.0, 1.0], [0.0, 0.0], seed=0).value == math.inf


def test_holm_multiplies_by_what_is_left() -> None:
    assert holm({"a": 0.01, "b": 0.04, "c": 0.03}) == {
        "a": pytest.approx(0.03),
        "c": pytest.approx(0.06),
        "b": pytest.approx(0.06),
    }


def test_a_mean_of_zeros_and_ones_has_wilsons_interval() -> None:
    found = mean_of([1.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0], (0.0, 1.0), 0)
    assert (found.low, found.high) == (pytest.approx(0.1582198553), pytest.approx(0.7495416355))  # 3 of 7, scipy


NAN = float("nan")


def row_of(mine: list[float], theirs: list[float] | None, *, chance: float = 0.1) -> Row:
    sides = Sides({"x": mine}, None if theirs is None else {"x": theirs}, {"x": mine})
    return rate_row("x", Family.ATTACK, sides, Margins(), seed=0, chance=chance)


def test_a_rate_tells_when_its_difference_lies_above_nothing() -> None:
    assert row_of([1.0] * 10, [0.0] * 10).tells
    assert not row_of([1.0] * 10, [1.0] * 10).tells
    assert not row_of([0.0] * 10, [1.0] * 10).tells  # less than the control knows is no recovery
    assert not row_of([1.0] + [0.0] * 9, [0.0] * 10).tells  # one of ten may be a guess


def test_facts_to_which_an_attack_does_not_apply_are_left_out() -> None:
    row = row_of([1.0, NAN, 1.0, 0.0], [0.0, 0.0, 0.0, NAN])
    assert (row.value, row.control, row.n) == (1.0, 0.0, 2)
    assert row_of([NAN, NAN], None).value is None


def test_without_a_control_a_rate_is_held_against_guessing() -> None:
    assert row_of([1.0] * 10, None).tells
    assert not row_of([1.0] + [0.0] * 9, None).tells
    assert row_of([1.0] * 10, None).control is None
