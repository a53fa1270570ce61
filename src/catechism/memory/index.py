"""The nearest of a million stored masks: packed bits, counted for all masks at once.

Masks are sets of k out of d features (MEMOIR's TopHash, arXiv:2506.07899); the nearest shares most features with the
query. They are stored twice: one bit set a feature, over all masks, and one row of packed bits a mask.

    count    the query's features are added up over all masks by carry-save adders on whole words: three bits of one
             weight become one of it and one of twice it, so each feature costs five operations on a bit set
    sample   of a query that asks for matches of at least a share `least`, only some features are counted first, drawn
             once for all; what can still reach `least` is compared in full, row by row

With ``least=0``, and where a sample would leave too much to compare, every feature is counted and the answer is exact.
With a sample a match is overlooked only if its
overlap within the sample lies `SLACK` standard deviations under its overlap as a whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catechism.errors import ShapeMismatch, UsageError

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]

SLACK = 3.0  # standard deviations of the sample's count that are allowed for
COMPARED = 500  # masks that a sample may leave to be compared in full, as many features as that takes are counted
_STEP = 16  # features by which a sample grows
_ROOM = 1 << 10  # masks that a new index has room for; it doubles when it is full


@dataclass(frozen=True, slots=True)
class Near:
    """The nearest mask: its number and the share of the k features that it has in common with the query."""

    number: int
    share: float


class MaskIndex:
    """Masks under the numbers in which they were added.

    Args:
        d: features there are.
        k: features in a mask.

    Raises: UsageError unless 0 < k <= d.
    """

    def __init__(self, d: int, k: int) -> None:
        if not 0 < k <= d:
            raise UsageError(f"Masks of {k} out of {d} features cannot be. Use 0 < k <= d.")
        self.d, self.k = d, k
        self._n = 0
        self._planes = np.zeros((d, _ROOM // 64), np.uint64)  # feature x mask
        self._rows = np.zeros((_ROOM, -(-d // 64) * 8), np.uint8)  # mask x feature
        # Drawn, not the rarest: what a paraphrase has and its mask has not is mostly rare, so those would miss it.
        self._order = np.random.default_rng(0).permutation(d)
        self._popular = np.zeros(d, np.int64)  # masks that have each feature
        self._adders = _Adders()

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of both stores, the room for more masks counted."""
        return self._planes.nbytes + self._rows.nbytes

    def add(self, masks: Bytes) -> None:
        """Add masks, packed as by `catechism.delta.bits.pack`: feature i is bit ``i % 8`` of byte ``i // 8``.

        Raises: ShapeMismatch for masks of another d.
        """
        masks = self._checked(masks)
        first, self._n = self._n, self._n + len(masks)
        self._grow()
        self._rows[first : self._n, : masks.shape[1]] = masks
        start = first // 64 * 64  # words are written whole, so with the masks that share the first one
        for begin in range(start, self._n, 1 << 16):
            end = min(begin + (1 << 16), self._n)
            bits = _bits(self._rows[begin:end], self.d)
            packed = np.packbits(bits.T, axis=1, bitorder="little")
            padded = np.zeros((self.d, -(-packed.shape[1] // 8) * 8), np.uint8)
            padded[:, : packed.shape[1]] = packed
            self._planes[:, begin // 64 : begin // 64 + padded.shape[1] // 8] = padded.view(np.uint64)
        self._popular += _bits(masks, self.d).sum(axis=0, dtype=np.int64)

    def remove(self, number: int) -> None:
        """Empty a mask: it matches nothing any more. The numbers of the others stay.

        Raises: UsageError for a number that there is not.
        """
        if not 0 <= number < self._n:
            raise UsageError(f"There is no mask {number}. Give one of 0 to {self._n - 1}.")
        self._popular -= _bits(self._rows[number], self.d)
        self._rows[number] = 0
        self._planes[:, number // 64] &= ~np.uint64(1 << number % 64)

    def nearest(self, mask: Bytes, *, least: float = 0.0) -> Near | None:
        """The mask with the largest overlap, the lowest number of several; None where none shares `least`.

        Args:
            mask: one packed mask.
            least: share of the k features from which on an overlap counts. From 0 on every mask counts, and the
                answer is exact.

        Raises: ShapeMismatch for a mask of another d; UsageError unless 0 <= least <= 1.
        """
        if not 0 <= least <= 1:
            raise UsageError(f"least={least} is no share. Use a number from 0 to 1.")
        query = self._checked(mask[None])[0]
        features = self._order[_bits(query, self.d)[self._order] > 0]
        if not self._n or not len(features):
            return None
        wanted = least * self.k
        sample = self._sample(wanted, features) if least else len(features)
        used = -(-self._n // 64)
        counts = self._adders.add(self._planes[feature, :used] for feature in features[:sample])
        all_counted = sample == len(features)
        found = _largest(counts) if all_counted else _at_least(counts, _bound(wanted, sample, len(features)))
        numbers = _numbers(found, self._n)
        if not len(numbers):
            return None
        shared = self._overlaps(query, numbers)
        best = int(shared.argmax())
        if shared[best] < wanted - 1e-9:
            return None
        return Near(int(numbers[best]), float(shared[best]) / self.k)

    def _sample(self, wanted: float, features: NDArray[np.int64]) -> int:
        """How many features tell a mask that shares `wanted` from the others, as often as they have each feature.

        All of them where half would not do.
        """
        chances = self._popular[features] / self._n
        expected, variance = np.cumsum(chances), np.cumsum(chances * (1 - chances))
        for sample in range(_STEP, len(features) // 2, _STEP):
            spread = max(math.sqrt(variance[sample - 1]), 1e-9)
            z = (_bound(wanted, sample, len(features)) - 0.5 - expected[sample - 1]) / spread
            if self._n * math.erfc(z / math.sqrt(2)) / 2 <= COMPARED:
                return sample
        return len(features)

    def _overlaps(self, query: Bytes, numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Features that the query shares with some masks."""
        wide = np.zeros(self._rows.shape[1], np.uint8)
        wide[: len(query)] = query
        shared = np.empty(len(numbers), np.int64)
        for start in range(0, len(numbers), 1 << 14):
            some = slice(start, start + (1 << 14))
            both = self._rows[numbers[some]].view(np.uint64) & wide.view(np.uint64)
            shared[some] = np.bitwise_count(both).sum(axis=1, dtype=np.int64)
        return shared

    def _checked(self, masks: Bytes) -> Bytes:
        if masks.ndim != 2 or masks.dtype != np.uint8 or masks.shape[1] != -(-self.d // 8):
            raise ShapeMismatch(
                f"Masks of {masks.dtype} {masks.shape} are not packed ones of {self.d} features. Give uint8 of "
                f"(masks, {-(-self.d // 8)})."
            )
        return masks

    def _grow(self) -> None:
        room = len(self._rows)
        if self._n <= room:
            return
        while room < self._n:
            room *= 2
        planes = np.zeros((self.d, room // 64), np.uint64)
        planes[:, : self._planes.shape[1]] = self._planes
        rows = np.zeros((room, self._rows.shape[1]), np.uint8)
        rows[: len(self._rows)] = self._rows
        self._planes, self._rows = planes, rows


def _bits(packed: Bytes, d: int) -> Bytes:
    """The d features of packed masks, 0 or 1."""
    return np.unpackbits(packed, axis=-1, bitorder="little")[..., :d]


def _bound(wanted: float, sample: int, features: int) -> int:
    """Least count within a sample of a mask whose overlap with all features is `wanted`."""
    share = min(wanted / features, 1.0)
    spread = math.sqrt(sample * share * (1 - share) * (1 - sample / features))  # drawn without putting back
    return max(1, math.ceil(share * sample - SLACK * spread - 1e-9))


class _Adders:
    """Adds bit sets up, position by position, and keeps its buffers: to make them anew would take as long again."""

    def __init__(self) -> None:
        self._free: list[Words] = []

    def add(self, sets: Iterable[Words]) -> list[Words]:
        """The sums as bit sets, the one of weight 1 first. They are overwritten by the next call."""
        waiting: list[list[tuple[Words, bool]]] = [[]]
        for one in sets:
            self._carry(waiting, 0, (one, False))
        for level in range(64):  # at the end two of one weight may be left: half adders
            if level == len(waiting):
                break
            if len(waiting[level]) == 2:
                self._carry(waiting, level, (self._zeros(waiting[level][0][0]), True))
        sums = [level[0][0] for level in waiting]
        self._free += [one for level in waiting for one, mine in level if mine]
        return sums

    def _carry(self, waiting: list[list[tuple[Words, bool]]], level: int, one: tuple[Words, bool]) -> None:
        """Put a set where its weight's are; three become one of the weight and one of twice it."""
        if level == len(waiting):
            waiting.append([])
        here = waiting[level]
        here.append(one)
        if len(here) < 3:
            return
        (a, _), (b, _), (c, _) = here
        carry, total, both = self._buffer(a), self._buffer(a), self._buffer(a)
        np.bitwise_xor(a, b, out=carry)
        np.bitwise_xor(carry, c, out=total)
        np.bitwise_and(carry, c, out=carry)
        np.bitwise_and(a, b, out=both)
        np.bitwise_or(carry, both, out=carry)
        self._free += [both, *(x for x, mine in here if mine)]
        here[:] = [(total, True)]
        self._carry(waiting, level + 1, (carry, True))

    def _buffer(self, like: Words) -> Words:
        while self._free:
            if (found := self._free.pop()).shape == like.shape:
                return found
        return np.empty_like(like)

    def _zeros(self, like: Words) -> Words:
        found = self._buffer(like)
        found.fill(0)
        return found


def _largest(counts: Sequence[Words]) -> Words:
    """Where the largest sum stands."""
    found = np.full_like(counts[0], ~np.uint64(0))
    for plane in reversed(counts):
        higher = found & plane
        if higher.any():
            found = higher
    return found


def _at_least(counts: Sequence[Words], bound: int) -> Words:
    """Where a sum of at least `bound` stands."""
    if bound >= 1 << len(counts):
        return np.zeros_like(counts[0])
    above, equal = np.zeros_like(counts[0]), np.full_like(counts[0], ~np.uint64(0))
    for weight, plane in reversed(list(enumerate(counts))):
        if bound >> weight & 1:
            equal &= plane
        else:
            above |= equal & plane
            equal &= ~plane
    return above | equal


def _numbers(found: Words, n: int) -> NDArray[np.int64]:
    """The numbers of the bits that are set, below n."""
    words = np.flatnonzero(found)
    bits = np.unpackbits(found[words].view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")
    word, bit = np.nonzero(bits)
    numbers = words[word] * 64 + bit
    return numbers[numbers < n]
