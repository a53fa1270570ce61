"""The count behind `MaskIndex`, compiled: how many of some features every mask has, and who has most.

Carry-save adders on whole words: seven bits of one weight become three of weights one, two and four, and those are
added to counters that are bit sets too, so that 64 masks are counted at once. A block of words stays in the cache of
one core until all features are counted; the outcome of a block is one mask. Loops are over the words of a block alone,
so that the compiler turns them into wide instructions.
"""

from __future__ import annotations

from typing import Any, cast, no_type_check

import numpy as np
from numba import njit  # pyright: ignore[reportMissingTypeStubs]
from numpy.typing import NDArray

GROUP = 7  # features that are added at a time
BLOCK = 256  # words that are counted before the next block is begun: 64 masks each

compiled = cast("Any", njit)(nogil=True, cache=True)


@compiled
@no_type_check  # a compiler reads what a type checker would wrap at run time
def most(planes: NDArray[np.uint64], features: NDArray[np.int64], levels: int, begin: int, end: int) -> tuple[int, int]:
    """The largest count among the masks of words `begin` to `end`, and the first mask that has it.

    Args:
        planes: ``(features there are, words)``, mask i is bit ``i % 64`` of word ``i // 64``.
        features: rows to count, a multiple of `GROUP`.
        levels: bits that hold the largest count there can be, 3 or more.
    """
    best, number = -1, -1
    counters = np.zeros((levels, BLOCK), np.uint64)
    found = np.zeros(BLOCK, np.uint64)
    for low in range(begin, end, BLOCK):
        high = min(low + BLOCK, end)
        counters[:] = 0
        for i in range(0, len(features), GROUP):
            _add(planes, features[i : i + GROUP], counters, found, low, high)
        count = _largest(counters, found, high - low)
        if count > best:
            best, number = count, low * 64 + _first(found)
    return best, number


@compiled
@no_type_check
def _add(planes, features, counters, carry, low, high):
    """Add the bit sets of `GROUP` features to the counters, whose first axis is the bit of the count."""
    p0 = planes[features[0], low:high]
    p1 = planes[features[1], low:high]
    p2 = planes[features[2], low:high]
    p3 = planes[features[3], low:high]
    p4 = planes[features[4], low:high]
    p5 = planes[features[5], low:high]
    p6 = planes[features[6], low:high]
    for j in range(high - low):
        both = p0[j] ^ p1[j]
        first = both ^ p2[j]
        two_a = (p0[j] & p1[j]) | (both & p2[j])
        both = p3[j] ^ p4[j]
        second = both ^ p5[j]
        two_b = (p3[j] & p4[j]) | (both & p5[j])
        both = first ^ second
        ones = both ^ p6[j]
        two_c = (first & second) | (both & p6[j])
        both = two_a ^ two_b
        twos = both ^ two_c
        fours = (two_a & two_b) | (both & two_c)
        old = counters[0, j]
        counters[0, j] = old ^ ones
        over = old & ones
        old = counters[1, j]
        both = old ^ twos
        counters[1, j] = both ^ over
        over = (old & twos) | (both & over)
        old = counters[2, j]
        both = old ^ fours
        counters[2, j] = both ^ over
        carry[j] = (old & fours) | (both & over)
    for level in range(3, len(counters)):
        for j in range(high - low):
            old = counters[level, j]
            counters[level, j] = old ^ carry[j]
            carry[j] &= old


@compiled
@no_type_check
def _largest(counters, found, width):
    """The largest count of a block, and in `found` which masks have it."""
    found[:] = 0
    found[:width] = ~np.uint64(0)
    count = 0
    for level in range(len(counters) - 1, -1, -1):
        some = np.uint64(0)
        for j in range(width):
            some |= found[j] & counters[level, j]
        if some:
            count += 1 << level
            for j in range(width):
                found[j] &= counters[level, j]
    return count


@compiled
@no_type_check
def _first(found):
    """The lowest bit that is set, -1 where none is."""
    for j in range(len(found)):
        if found[j]:
            bit = 0
            while not (found[j] >> np.uint64(bit)) & np.uint64(1):
                bit += 1
            return j * 64 + bit
    return -1
