"""The nearest of a million stored masks: packed bits, counted for all masks at once.

Masks are sets of k out of d features (MEMOIR's TopHash, arXiv:2506.07899); the nearest shares most features with the
query. One bit set is stored for each feature, over all masks; the query's features are added up over all masks by
carry-save adders on whole words (`catechism.memory.counting`), on every core. The answer is exact.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from catechism.errors import MissingExtra, ShapeMismatch, UsageError

Words = NDArray[np.uint64]
Bytes = NDArray[np.uint8]
Most = Callable[[Words, NDArray[np.int64], int, int, int], tuple[int, int]]

_ROOM = 1 << 10  # masks that a new index has room for; it doubles when it is full
_ADDED = 1 << 16  # masks that are turned into bit sets at a time
_SHARE = 1 << 10  # words that are worth a thread of their own


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
        threads: cores that a search uses; None takes all.

    Raises: UsageError unless 0 < k <= d and there is a thread; MissingExtra without numba.
    """

    def __init__(self, d: int, k: int, *, threads: int | None = None) -> None:
        if not 0 < k <= d:
            raise UsageError(f"Masks of {k} out of {d} features cannot be. Use 0 < k <= d.")
        if threads is not None and threads < 1:
            raise UsageError(f"threads={threads} search nothing. Use 1 or more, or None for every core.")
        self.d, self.k = d, k
        self._n = 0
        self._planes = np.zeros((d + 1, _ROOM // 64), np.uint64)  # feature x mask; no mask has the last feature
        self._most, self._group = _compiled()
        self._threads = threads or os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="masks")

    def __len__(self) -> int:
        return self._n

    @property
    def nbytes(self) -> int:
        """Bytes of the store, the room for more masks counted."""
        return self._planes.nbytes

    def add(self, masks: Bytes) -> None:
        """Add masks, packed as by `catechism.delta.bits.pack`: feature i is bit ``i % 8`` of byte ``i // 8``.

        Raises: ShapeMismatch for masks of another d.
        """
        masks = self._checked(masks)
        self._grow(self._n + len(masks))
        for start in range(0, len(masks), _ADDED):
            some = masks[start : start + _ADDED]
            before = self._n % 64  # masks that share the first word
            bits = np.zeros((-(-(before + len(some)) // 64) * 64, self.d), np.uint8)
            bits[before : before + len(some)] = _bits(some, self.d)
            sets = np.ascontiguousarray(np.packbits(bits.T, axis=1, bitorder="little")).view(np.uint64)
            first = self._n // 64
            self._planes[: self.d, first : first + sets.shape[1]] |= sets
            self._n += len(some)

    def remove(self, number: int) -> None:
        """Empty a mask: it matches nothing any more. The numbers of the others stay.

        Raises: UsageError for a number that there is not.
        """
        if not 0 <= number < self._n:
            raise UsageError(f"There is no mask {number}. Give one of 0 to {self._n - 1}.")
        self._planes[:, number // 64] &= ~np.uint64(1 << number % 64)

    def nearest(self, mask: Bytes, *, least: float = 0.0) -> Near | None:
        """The mask with the largest overlap, the lowest number of several; None where none shares `least`.

        Args:
            mask: one packed mask.
            least: share of the k features from which on an overlap counts.

        Raises: ShapeMismatch for a mask of another d; UsageError unless 0 <= least <= 1.
        """
        if not 0 <= least <= 1:
            raise UsageError(f"least={least} is no share. Use a number from 0 to 1.")
        features = np.flatnonzero(_bits(self._checked(mask[None])[0], self.d))
        if not self._n or not len(features):
            return None
        levels = max(3, int(len(features)).bit_length())
        features = np.append(features, np.full(-len(features) % self._group, self.d))
        words = -(-self._n // 64)
        threads = max(1, min(self._threads, words // _SHARE))
        bounds = [words * i // threads for i in range(threads + 1)]
        parts = list(zip(bounds[:-1], bounds[1:], strict=True))
        others = [self._pool.submit(self._most, self._planes, features, levels, *part) for part in parts[1:]]
        found = [self._most(self._planes, features, levels, *parts[0]), *(other.result() for other in others)]
        shared, number = max(found, key=lambda one: (one[0], -one[1]))
        if not shared or shared < least * self.k - 1e-9:
            return None
        return Near(number, shared / self.k)

    def _checked(self, masks: Bytes) -> Bytes:
        if masks.ndim != 2 or masks.dtype != np.uint8 or masks.shape[1] != -(-self.d // 8):
            raise ShapeMismatch(
                f"Masks of {masks.dtype} {masks.shape} are not packed ones of {self.d} features. Give uint8 of "
                f"(masks, {-(-self.d // 8)})."
            )
        return masks

    def _grow(self, wanted: int) -> None:
        room = self._planes.shape[1] * 64
        if wanted <= room:
            return
        while room < wanted:
            room *= 2
        planes = np.zeros((self.d + 1, room // 64), np.uint64)
        planes[:, : self._planes.shape[1]] = self._planes
        self._planes = planes


def _bits(packed: Bytes, d: int) -> Bytes:
    """The d features of packed masks, 0 or 1."""
    return np.unpackbits(packed, axis=-1, bitorder="little")[..., :d]


def _compiled() -> tuple[Most, int]:
    """The count, and how many features it takes at a time."""
    try:
        from catechism.memory.counting import GROUP, most
    except ImportError as error:
        raise MissingExtra("An index of masks needs numba. Run `pip install 'catechism[index]'`.") from error
    return most, GROUP
