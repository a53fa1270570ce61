"""Rates with their 95 % intervals. Every rate of a report is made here."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from catechism.errors import UsageError
from catechism.types import Rate

Z95 = 1.959963984540054  # 97.5 % point of the normal distribution
RESAMPLES = 2_000


def wilson(k: float, n: int, *, before: float | None = None) -> Rate:
    """A proportion k of n with its Wilson score interval.

        centre = (p + z^2 / 2n) / (1 + z^2 / n),  half = z sqrt(p (1 - p) / n + z^2 / 4n^2) / (1 + z^2 / n)

    It stays inside [0, 1] and does not shrink to nothing at 0 or n of n. `k` may be a fraction: a sum of n values in
    [0, 1] never varies more than n trials of the same mean, so the interval is then on the safe side.

    Raises: UsageError unless n >= 1 and 0 <= k <= n.
    Source: E. B. Wilson, Probable inference, the law of succession, and statistical inference, JASA 22 (1927).
    """
    if n < 1 or not 0 <= k <= n:
        raise UsageError(f"No proportion {k} of {n}. Give at least one trial and a count between 0 and it.")
    p, z2 = k / n, Z95 * Z95
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n)) / (1 + z2 / n)
    # At the ends the exact limits are 0 and 1; rounding must not put the value outside its interval.
    return Rate(p, min(p, max(0.0, centre - half)), max(p, min(1.0, centre + half)), n, before)


def bootstrap(
    values: Sequence[float], seed: int, *, bounds: tuple[float, float] = (0.0, 1.0), before: float | None = None
) -> Rate:
    """The mean of n values, one per fact, with its percentile bootstrap interval.

    Values that are all equal have no spread to resample, and the bootstrap would claim certainty; Wilson's interval
    for a bounded mean stands in for it there.

    Args:
        values: n numbers within `bounds`.
        seed: of the resampling; equal seeds give equal intervals.
        bounds: least and greatest value possible.
        before: the mean before the edit.

    Raises: UsageError if there are no values, or one lies outside `bounds`.
    Source: B. Efron, Bootstrap methods: another look at the jackknife, Annals of Statistics 7 (1979).
    """
    low, high = bounds
    if not values or not all(low <= value <= high for value in values):
        raise UsageError(f"No mean of {len(values)} values within {low} and {high}. Give at least one, all inside.")
    n, mean = len(values), math.fsum(values) / len(values)
    distinct, counts = np.unique(np.asarray(values, dtype=np.float64), return_counts=True)
    if len(distinct) == 1:
        width = high - low
        inner = wilson(min(max((mean - low) / width, 0.0), 1.0) * n, n)
        return Rate(mean, min(mean, low + width * inner.low), max(mean, low + width * inner.high), n, before)
    # How often each distinct value is drawn: the same distribution of means as drawing n values, in less memory.
    drawn = np.random.default_rng(seed).multinomial(n, counts / n, size=RESAMPLES)
    ends = np.quantile(drawn @ distinct / n, (0.025, 0.975))
    return Rate(mean, min(mean, float(ends[0])), max(mean, float(ends[1])), n, before)
