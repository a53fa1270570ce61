"""``catechism bench index``: how fast and how surely the nearest of many stored masks is found.

Masks have k of d features, some of them popular, as with a model. Half of the queries are stored masks of which a
share of the features, drawn between `SHARES`, is kept and the others are moved, as a paraphrase does; the other half
are about nothing that is stored. Every answer is held against a search that compares all masks in full.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from catechism.errors import UsageError
from catechism.evaluate import wilson
from catechism.memory import MaskIndex, Near
from catechism.types import JSON

SHARES = (0.5, 0.9)
QUERIES = 200
_CHUNK = 1 << 15  # masks that are made, or compared in full, at a time

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Sizes:
    """What is stored.

    Attributes:
        masks: the largest number of masks; powers of ten from 1,000 up to it are measured.
        d, k: features there are, and in a mask.
        least: share of features from which on a match counts.
    """

    masks: int = 1_000_000
    d: int = 768
    k: int = 215
    least: float = 0.45

    def __post_init__(self) -> None:
        if self.masks < 1 or not 0 < self.k <= self.d or not 0 < self.least <= 1:
            raise UsageError(
                f"masks={self.masks}, d={self.d}, k={self.k}, least={self.least}: use a mask or more, 0 < k <= d, and "
                "a share above 0."
            )


def run(sizes: Sizes, seed: int) -> dict[str, JSON]:
    """Measure.

    Returns: ``rows``, one for each number of masks: `recall` of the exact nearest for queries that are near a mask,
        `agreement_unrelated` of the others (both searches say none, or the same mask), and milliseconds of a query: the
        mean over both halves, the median of each, and of the search in full.
    """
    rng = np.random.default_rng(seed)
    liking = rng.random(sizes.d, dtype=np.float32) * np.float32(0.5)
    rows: list[JSON] = []
    for n in [n for n in (10**e for e in range(3, 12)) if n < sizes.masks] + [sizes.masks]:
        stored = np.concatenate([_masks(rng, min(_CHUNK, n - i), sizes, liking) for i in range(0, n, _CHUNK)])
        started = time.perf_counter()
        index = MaskIndex(sizes.d, sizes.k)
        index.add(stored)
        built = time.perf_counter() - started
        near = [_moved(rng, stored[i], sizes) for i in rng.integers(0, n, QUERIES // 2)]
        far = list(_masks(rng, QUERIES // 2, sizes, liking))
        rows.append(_row(index, stored, near, far, built, sizes.least))
    return {"rows": rows, "d": sizes.d, "k": sizes.k, "least": sizes.least, "queries": QUERIES}


def _row(
    index: MaskIndex, stored: Bytes, near: Sequence[Bytes], far: Sequence[Bytes], built: float, least: float
) -> dict[str, JSON]:
    index.nearest(near[0], least=least)  # the first query of all compiles
    times: dict[str, list[float]] = {"near": [], "far": [], "full": []}
    right: dict[str, list[bool]] = {"near": [], "far": []}
    queries = [("near", query) for query in near] + [("far", query) for query in far]
    for kind, query in track(queries, description=f"{len(index)} masks", console=Console(stderr=True)):
        started = time.perf_counter()
        found = index.nearest(query, least=least)
        times[kind].append(time.perf_counter() - started)
        started = time.perf_counter()
        truth = _in_full(stored, query, index.k)
        times["full"].append(time.perf_counter() - started)
        right[kind].append(found == (truth if truth.share >= least - 1e-9 else None))
    both = times["near"] + times["far"]
    return {
        "masks": len(index),
        "recall": wilson(sum(right["near"]), len(near)).json(),
        "agreement_unrelated": wilson(sum(right["far"]), len(far)).json(),
        "milliseconds_per_query": sum(both) / len(both) * 1e3,
        "milliseconds_near": statistics.median(times["near"]) * 1e3,
        "milliseconds_unrelated": statistics.median(times["far"]) * 1e3,
        "milliseconds_in_full": statistics.median(times["full"]) * 1e3,
        "build_seconds": built,
        "memory_mb": index.nbytes / 1e6,
    }


def _masks(rng: np.random.Generator, n: int, sizes: Sizes, liking: NDArray[np.float32]) -> Bytes:
    """Masks of the k features with the largest of some random figures, to which what is popular adds."""
    figures = rng.random((n, sizes.d), dtype=np.float32) + liking
    chosen = np.argpartition(figures, -sizes.k, axis=1)[:, -sizes.k :]
    bits = np.zeros((n, sizes.d), np.uint8)
    np.put_along_axis(bits, chosen, 1, axis=1)
    return np.packbits(bits, axis=1, bitorder="little")


def _moved(rng: np.random.Generator, mask: Bytes, sizes: Sizes) -> Bytes:
    """A mask that shares a drawn part of its features with this one."""
    bits = np.unpackbits(mask, bitorder="little")[: sizes.d]
    kept = round(rng.uniform(*SHARES) * sizes.k)
    on, off = rng.permutation(np.flatnonzero(bits)), rng.permutation(np.flatnonzero(bits == 0))
    moved = np.zeros(sizes.d, np.uint8)
    moved[on[:kept]] = 1
    moved[off[: sizes.k - kept]] = 1
    return np.packbits(moved, bitorder="little")


def _in_full(stored: Bytes, query: Bytes, k: int) -> Near:
    """Compare every mask."""
    best, most = 0, -1
    for start in range(0, len(stored), _CHUNK):
        shared = np.bitwise_count(stored[start : start + _CHUNK] & query).sum(axis=1, dtype=np.int64)
        if shared.max() > most:
            best, most = start + int(shared.argmax()), int(shared.max())
    return Near(best, most / k)
