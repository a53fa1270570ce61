"""The index against a search that compares every mask in full."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from catechism.delta.bits import overlaps, pack
from catechism.errors import MissingExtra, ShapeMismatch, UsageError
from catechism.memory import MaskIndex, Near

torch = pytest.importorskip("torch")

D, K = 200, 56


def masks(n: int, seed: int, d: int = D, k: int = K) -> np.ndarray:
    """Masks in which some features are popular, as they are with a model."""
    generator = torch.Generator().manual_seed(seed)
    liking = torch.rand(d, generator=generator) * 2
    noise = torch.rand(n, d, generator=generator)
    chosen = (noise + liking).topk(k, dim=1).indices
    return pack(torch.zeros(n, d, dtype=torch.bool).scatter_(1, chosen, True)).numpy()


def near(mask: np.ndarray, kept: float, seed: int, d: int = D, k: int = K) -> np.ndarray:
    """The mask with a share of its features kept and the others moved elsewhere."""
    rng = np.random.default_rng(seed)
    on = np.flatnonzero(np.unpackbits(mask, bitorder="little")[:d])
    off = np.setdiff1d(np.arange(d), on)
    chosen = np.concatenate([rng.permutation(on)[: round(kept * k)], rng.permutation(off)[: k - round(kept * k)]])
    bits = np.zeros(d, np.uint8)
    bits[chosen] = 1
    return np.packbits(bits, bitorder="little")


def by_hand(stored: np.ndarray, query: np.ndarray, least: float = 0.0, k: int = K) -> Near | None:
    shared = overlaps(torch.from_numpy(query[None]), torch.from_numpy(stored))[0].numpy()
    best = int(shared.argmax())
    return Near(best, float(shared[best]) / k) if shared[best] >= least * k else None


def filled(stored: np.ndarray, d: int = D, k: int = K) -> MaskIndex:
    index = MaskIndex(d, k)
    index.add(stored)
    return index


@pytest.mark.parametrize("n", [1, 63, 64, 65, 1000, 1500])
def test_the_exact_search_is_the_search_by_hand(n: int) -> None:
    stored, queries = masks(n, 0), masks(20, 1)
    index = filled(stored)
    assert [index.nearest(q) for q in queries] == [by_hand(stored, q) for q in queries]


@given(st.lists(st.integers(1, 90), min_size=1, max_size=5), st.integers(0, 5))
def test_masks_that_are_added_in_parts_are_masks_that_are_added_at_once(sizes: list[int], seed: int) -> None:
    stored = masks(sum(sizes), seed)
    index, start = MaskIndex(D, K), 0
    for size in sizes:
        index.add(stored[start : start + size])
        start += size
    assert len(index) == len(stored)
    for query in masks(3, seed + 1):
        assert index.nearest(query) == by_hand(stored, query)


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_every_core_finds_its_share_of_the_masks(threads: int) -> None:
    d, k = 40, 11
    stored = np.concatenate([masks(50_000, seed, d, k) for seed in range(4)])  # 3,125 words: of several threads
    index = MaskIndex(d, k, threads=threads)
    index.add(stored)
    rng = np.random.default_rng(2)
    queries = [near(stored[i], kept, i, d, k) for i in rng.integers(0, len(stored), 10) for kept in (0.6, 0.75, 0.9)]
    assert [index.nearest(q, least=0.55) for q in queries] == [by_hand(stored, q, 0.55, k) for q in queries]


def test_without_numba_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "catechism.memory.counting", None)
    with pytest.raises(MissingExtra, match=r"catechism\[index\]"):
        MaskIndex(D, K)


def test_what_shares_too_little_is_none() -> None:
    stored = masks(500, 0)
    index = filled(stored)
    assert index.nearest(stored[17], least=1.0) == Near(17, 1.0)
    assert index.nearest(near(stored[17], 0.5, 0), least=0.95) is None
    assert MaskIndex(D, K).nearest(stored[0]) is None
    assert index.nearest(np.zeros_like(stored[0])) is None


def test_of_equal_masks_the_first_is_found_and_the_next_after_it_is_removed() -> None:
    stored = masks(130, 0)
    stored[[70, 100]] = stored[3]
    index = filled(stored)
    assert index.nearest(stored[3]) == Near(3, 1.0)
    index.remove(3)
    assert index.nearest(stored[3], least=0.9) == Near(70, 1.0)
    index.remove(70)
    index.remove(100)
    assert index.nearest(stored[3], least=0.9) is None
    assert index.nearest(stored[71]) == Near(71, 1.0)


def test_wrong_masks_and_settings_are_refused() -> None:
    index = filled(masks(3, 0))
    with pytest.raises(ShapeMismatch, match=r"uint8 of \(masks, 25\)"):
        index.add(np.zeros((2, 24), np.uint8))
    with pytest.raises(ShapeMismatch, match="not packed"):
        index.nearest(np.zeros(26, np.uint8))
    with pytest.raises(UsageError, match="0 to 2"):
        index.remove(3)
    with pytest.raises(UsageError, match="from 0 to 1"):
        index.nearest(masks(1, 0)[0], least=1.5)
    with pytest.raises(UsageError, match="threads=0"):
        MaskIndex(10, 5, threads=0)
    for d, k in ((10, 0), (10, 11)):
        with pytest.raises(UsageError, match="0 < k <= d"):
            MaskIndex(d, k)
