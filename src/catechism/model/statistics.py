"""Statistics of a base model's activations, streamed in float64 and cached by content."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec, WrongBase
from catechism.hashing import digest_json
from catechism.model import encoding
from catechism.model.cache import Cached, cache_file, read_cached, write_cached
from catechism.model.live import LiveModel
from catechism.model.trace import record
from catechism.types import Site


@dataclass(frozen=True, eq=False)
class Covariance:
    """Uncentred second moment ``E[k k^T]`` of a site's inputs.

    Attributes:
        matrix: float64, symmetric, on the CPU.
        n: number of tokens that it is the mean over.
        key: address of what it was computed from; names its file in a cache.
    """

    matrix: Float[Tensor, "d_in d_in"]
    n: int
    key: str


def covariance(
    live: LiveModel,
    site: Site,
    texts: Iterable[str],
    *,
    n_tokens: int,
    cache: Path | None = None,
    batch_size: int = 16,
) -> Covariance:
    """Second moment of the first `n_tokens` tokens of the texts at the input of a site.

        C = (1/n) sum_t k_t k_t^T                                                       float64

    Padding and the tokenizer's own beginning-of-text do not count. A text longer than the model's window is read
    in several windows. The result is the base model's: it is computed with no delta applied, and kept in the folder
    `cache` under a name that holds everything it depends on (base, site, token ids, n, dtype).

    Raises: WrongBase if deltas are applied; BadSpec if the texts hold fewer tokens than asked for.
    Source: arXiv:2202.05262, Eq. 2 (C = K K^T, here divided by n).
    """
    if live.applied:
        raise WrongBase(
            f"{len(live.applied)} deltas are on the model, statistics are those of the base. Call `revert_all()` first."
        )
    windows = _first_tokens(live, texts, n_tokens)
    key = _key(live, site, windows, n_tokens)
    file = cache_file(cache, "covariance", key)
    kept = read_cached(file, key)
    if kept is None:
        kept = Cached({"matrix": _second_moment(live, site, windows, batch_size) / n_tokens})
        write_cached(file, key, kept)
    return Covariance(kept.tensors["matrix"], n_tokens, key)


def _first_tokens(live: LiveModel, texts: Iterable[str], n_tokens: int) -> list[encoding.Row]:
    """Windows that hold exactly the first n tokens of the texts, leading special tokens not counted."""
    if n_tokens < 1:
        raise BadSpec(f"n_tokens={n_tokens} is too small. Use 1 or more.")
    left, windows = n_tokens, []
    for text in texts:
        for row in live.windows(text):
            row = encoding.Row(row.ids[: row.prefix + left], row.prefix)
            windows.append(row)
            left -= len(row.ids) - row.prefix
            if left == 0:
                return windows
    raise BadSpec(
        f"The texts hold {n_tokens - left} tokens, {n_tokens} were asked for. Give more text, or lower n_tokens."
    )


def _key(live: LiveModel, site: Site, windows: Sequence[encoding.Row], n_tokens: int) -> str:
    corpus = digest_json([[row.prefix, list(row.ids)] for row in windows])
    return digest_json(
        {
            "base": live.base,
            "site": [site.layer, str(site.role), site.expert],
            "corpus": corpus,
            "n_tokens": n_tokens,
            "dtype": str(live.dtype),
        }
    )


@torch.no_grad()
def _second_moment(
    live: LiveModel, site: Site, windows: Sequence[encoding.Row], batch_size: int
) -> Float[Tensor, "d_in d_in"]:
    d_in = live.anatomy.matrix(site).shape[1]
    total: Tensor | None = None
    for batch in _batches(windows, batch_size):
        inputs, counted = live.pad_windows(batch)
        with record(live, [site], stop=True) as seen:
            live.model(**inputs, use_cache=False)
        keys = seen[site].reshape(-1, d_in)[counted.reshape(-1).to(seen[site].device)].double()  # (tokens, d_in)
        total = keys.T @ keys if total is None else total.addmm_(keys.T, keys)
    if total is None:
        raise BadSpec("No text was given. Give texts with at least n_tokens tokens.")
    return ((total + total.T) / 2).cpu()  # equal in exact arithmetic; a blocked product may round the sides apart


def _batches(windows: Sequence[encoding.Row], batch_size: int) -> Iterator[list[encoding.Row]]:
    """Windows of like length together, so that little of a batch is padding."""
    if batch_size < 1:
        raise BadSpec(f"batch_size={batch_size} is too small. Use 1 or more.")
    ordered = sorted(windows, key=lambda row: len(row.ids))
    for start in range(0, len(ordered), batch_size):
        yield ordered[start : start + batch_size]
