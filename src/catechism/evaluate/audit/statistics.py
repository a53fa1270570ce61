"""The statistics of an audit: differences of pairs with intervals, Kolmogorov and Smirnov's test, AUC, permutations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from catechism.errors import UsageError
from catechism.evaluate.intervals import RESAMPLES, bootstrap, wilson

EXACT_PATHS = 40_000  # n * m up to which the distribution of the KS distance is counted out
FLIPS = 2_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A value with its 95 % limits."""

    value: float
    low: float
    high: float


def paired_difference(a: Sequence[float], b: Sequence[float], seed: int) -> Interval:
    """Mean of ``a[i] - b[i]`` for values in [0, 1] of the same n things.

    Proportions get Newcombe's hybrid score interval for paired data (method 10), which does not shrink to nothing where
    all pairs agree; other values a bootstrap over pairs.

    Raises: UsageError for lists of different lengths, or empty ones.
    Source: R. G. Newcombe, Improved confidence intervals for the difference between binomial proportions based on
        paired data, Statistics in Medicine 17 (1998).
    """
    if not a or len(a) != len(b):
        raise UsageError(f"No pairs of {len(a)} and {len(b)} values. Give as many of one as of the other.")
    if set(a) | set(b) <= {0.0, 1.0}:
        return _newcombe(a, b)
    rate = bootstrap([x - y for x, y in zip(a, b, strict=True)], seed, bounds=(-1.0, 1.0))
    return Interval(rate.value, rate.low, rate.high)


def _newcombe(a: Sequence[float], b: Sequence[float]) -> Interval:
    n = len(a)
    first, second = wilson(sum(a), n), wilson(sum(b), n)
    both = sum(x and y for x, y in zip(a, b, strict=True))
    only_a, only_b = sum(a) - both, sum(b) - both
    neither = n - both - only_a - only_b
    product = sum(a) * (n - sum(a)) * sum(b) * (n - sum(b))
    cross = both * neither - only_a * only_b
    if cross > 0:
        cross = max(cross - n / 2, 0.0)  # the continuity correction of method 10
    phi = cross / math.sqrt(product) if product else 0.0
    value = first.value - second.value

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(x * x - 2 * phi * x * y + y * y, 0.0))

    low = value - reach(first.value - first.low, second.high - second.value)
    high = value + reach(first.high - first.value, second.value - second.low)
    return Interval(value, max(-1.0, low), min(1.0, high))


def ks_test(a: Sequence[float], b: Sequence[float]) -> tuple[float, float]:
    """Distance of two samples' distribution functions, and the p-value of a distance at least as great.

    The p-value is exact for samples without ties up to `EXACT_PATHS` pairs (on the safe side with ties: the true one is
    not greater), and Kolmogorov's limit beyond.

    Raises: UsageError for an empty sample.
    Source: J. L. Hodges, The significance probability of the Smirnov two-sample test, Arkiv foer Matematik 3 (1958).
    """
    n, m = len(a), len(b)
    if not n or not m:
        raise UsageError("A sample is empty. Give at least one value of each.")
    ordered = np.sort(np.concatenate([a, b]))
    below = [np.searchsorted(np.sort(x), ordered, side="right") / len(x) for x in (a, b)]
    distance = float(np.abs(below[0] - below[1]).max())
    if n * m <= EXACT_PATHS:
        return distance, _share_of_paths(n, m, round(distance * n * m))
    scaled = distance * math.sqrt(n * m / (n + m))
    tail = 2 * math.fsum((-1) ** (k - 1) * math.exp(-2 * (k * scaled) ** 2) for k in range(1, 101))
    return distance, min(max(tail, 0.0), 1.0) if scaled > 0.2 else 1.0


def _share_of_paths(n: int, m: int, reach: int) -> float:
    """Share of the lattice paths from (0, 0) to (n, m) that somewhere have ``|i m - j n| >= reach``."""
    inside = [1 if j * n < reach else 0 for j in range(m + 1)]
    for j in range(1, m + 1):
        inside[j] = inside[j - 1] if inside[j] else 0
    for i in range(1, n + 1):
        left = 0
        for j in range(m + 1):
            left = left + inside[j] if abs(i * m - j * n) < reach else 0
            inside[j] = left
    return 1.0 - inside[m] / math.comb(n + m, m) if reach else 1.0


def auc(members: Sequence[float], others: Sequence[float]) -> float:
    """How often a member scores below somebody else, ties counting half. 0.5 tells nothing; less is over-forgotten."""
    x, y = np.asarray(members)[:, None], np.asarray(others)[None, :]
    return float((x < y).mean() + (x == y).mean() / 2)


@dataclass(frozen=True, slots=True)
class AucGap:
    """The area of one model, that of another, and their difference with a two-sided p-value.

    `gap` is the difference's 95 % interval, `here` the area's own.
    """

    here: Interval
    there: float
    gap: Interval
    p: float


def auc_gap(
    here: tuple[Sequence[float], Sequence[float]], there: tuple[Sequence[float], Sequence[float]] | None, seed: int
) -> AucGap:
    """Compare the areas of two models over the same members and others; without a second one, with 0.5.

    Members and others are drawn again `RESAMPLES` times, the same ones for both models. The p-value is twice the share
    of draws in which the difference is not on its side of 0.
    """
    rng = np.random.default_rng(seed)
    members, others = (np.asarray(scores, dtype=np.float64) for scores in here)
    mine = _order(members, others)
    theirs = np.full_like(mine, 0.5) if there is None else _order(*(np.asarray(s, dtype=np.float64) for s in there))
    rows = rng.multinomial(len(members), [1 / len(members)] * len(members), size=RESAMPLES) / len(members)
    columns = rng.multinomial(len(others), [1 / len(others)] * len(others), size=RESAMPLES) / len(others)
    areas = np.einsum("rm,mn,rn->r", rows, mine, columns, optimize=True)
    gaps = areas - np.einsum("rm,mn,rn->r", rows, theirs, columns, optimize=True)
    value, other = float(mine.mean()), float(theirs.mean())
    p = min(1.0, 2 * min(float((gaps <= 0).mean()), float((gaps >= 0).mean())))
    return AucGap(_interval(value, areas), other, _interval(value - other, gaps), max(p, 1 / RESAMPLES))


def _order(members: np.ndarray, others: np.ndarray) -> np.ndarray:
    return (members[:, None] < others[None, :]) + (members[:, None] == others[None, :]) / 2


def _interval(value: float, drawn: np.ndarray) -> Interval:
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Interval(value, min(value, float(low)), max(value, float(high)))


def greatest_gap(a: Sequence[Sequence[float]], b: Sequence[Sequence[float]], seed: int) -> tuple[int, float, float]:
    """The row in which ``a`` is furthest above ``b`` on average, that difference, and its p-value.

    Rows are layers, columns things that both models were asked. Under the hypothesis that nothing tells the two models
    apart each thing's values may be exchanged between them, in all layers at once; the p-value is the share of
    `FLIPS` such exchanges whose greatest difference is at least this one, the one at hand counted among them.
    """
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)  # (layers, n)
    means = differences.mean(axis=1)
    best = int(means.argmax())
    signs = np.random.default_rng(seed).choice((-1.0, 1.0), size=(FLIPS, differences.shape[1]))
    greatest = (signs @ differences.T / differences.shape[1]).max(axis=1)
    at_least = int((greatest >= means[best] - 1e-12).sum())
    return best, float(means[best]), (at_least + 1) / (FLIPS + 1)


def ratio_of_means(a: Sequence[float], b: Sequence[float], seed: int) -> Interval:
    """Mean of ``a`` over mean of ``b``, pairs drawn together; infinite where the drawn ``b`` are all 0."""
    x, y = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(x), size=(RESAMPLES, len(x)))
    above, below = x[drawn].mean(axis=1), y[drawn].mean(axis=1)
    ratios = np.divide(above, below, out=np.where(above > 0, np.inf, 1.0), where=below > 0)
    value = _ratio(float(x.mean()), float(y.mean()))
    low, high = (float(q) for q in np.quantile(ratios, (0.025, 0.975), method="nearest"))
    return Interval(value, min(value, low), max(value, high))


def _ratio(above: float, below: float) -> float:
    return above / below if below else (math.inf if above else 1.0)


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """P-values corrected for being several (S. Holm, Scandinavian Journal of Statistics 6, 1979)."""
    found: dict[str, float] = {}
    least = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda name: p_values[name])):
        least = max(least, min(1.0, p_values[name] * (len(p_values) - rank)))
        found[name] = least
    return found


def mean_of(values: Sequence[float], bounds: tuple[float, float], seed: int) -> Interval:
    """Mean of values within bounds: Wilson's interval for zeros and ones, else a bootstrap."""
    if bounds == (0.0, 1.0) and set(values) <= {0.0, 1.0}:
        rate = wilson(sum(values), len(values))
    else:
        rate = bootstrap(values, seed, bounds=bounds)
    return Interval(rate.value, rate.low, rate.high)
