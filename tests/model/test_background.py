"""A model's background: statistics taken once, over given texts or over the model's own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch

from catechism.errors import BadSpec, WrongBase
from catechism.model import Covariance, LiveModel, background, covariance
from catechism.model.background import TOKENS_PER_DIMENSION, Background
from catechism.types import Role, Site
from tests.tiny import VOCAB, tiny_model, tiny_tokenizer

SITE = Site(1, Role.MLP_OUT)
TEXTS = [
    f"{i} The capital of France is Paris. Which city is the capital of Japan? In {i * i} it was." for i in range(20)
]


def live_model(*, add_bos: bool = True, seed: int = 0) -> LiveModel:
    return LiveModel(tiny_model("llama", seed), tiny_tokenizer(add_bos=add_bos), name="tiny")


def test_the_statistics_are_those_of_the_given_texts() -> None:
    live = live_model()
    found = Background(live, lambda: iter(TEXTS)).covariance(SITE)
    assert found.n == TOKENS_PER_DIMENSION * 48
    assert torch.equal(found.matrix, covariance(live, SITE, TEXTS, n_tokens=found.n).matrix)


def test_every_site_is_measured_once() -> None:
    started: list[int] = []

    def texts() -> Iterator[str]:
        started.append(1)
        return iter(TEXTS)

    known = Background(live_model(), texts)
    assert known.covariance(SITE) is known.covariance(SITE)
    assert known.covariance(Site(0, Role.MLP_OUT)) is not known.covariance(SITE)
    assert len(started) == 2


def test_a_cache_folder_is_used(tmp_path: Path) -> None:
    live = live_model()
    found = Background(live, lambda: iter(TEXTS), cache=tmp_path).covariance(SITE)
    (file,) = tmp_path.iterdir()
    written = file.stat().st_mtime_ns
    assert torch.equal(Background(live, lambda: iter(TEXTS), cache=tmp_path).covariance(SITE).matrix, found.matrix)
    assert file.stat().st_mtime_ns == written


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_model_without_texts_writes_its_own(add_bos: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    live = LiveModel(tiny_model("gpt2", n_inner=16), tiny_tokenizer(add_bos=add_bos), name="tiny")
    seen: list[list[str]] = []

    def watched(live: LiveModel, site: Site, texts: Iterable[str], **options: Any) -> Covariance:
        seen.append(list(islice(texts, 30)))
        return covariance(live, site, seen[-1], **options)

    monkeypatch.setattr(background, "covariance", watched)
    first, again, other = (Background(live, seed=seed).covariance(SITE) for seed in (0, 0, 1))
    assert first.n == TOKENS_PER_DIMENSION * 16
    assert torch.equal(first.matrix, again.matrix) and not torch.equal(first.matrix, other.matrix)
    assert seen[0] == seen[1] != seen[2]
    assert len(set(seen[0])) == 30, "every text is another"
    for text in seen[0]:
        assert text.strip()
        assert live.tokenizer.eos_token_id not in live.tokenizer(text)["input_ids"]


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_model_that_writes_nothing_is_refused(add_bos: bool) -> None:
    live = live_model(add_bos=add_bos)
    live.model.generation_config.eos_token_id = list(range(VOCAB))
    with pytest.raises(BadSpec, match="Give texts"):
        Background(live).covariance(SITE)


def test_the_background_of_another_model_is_refused() -> None:
    known = Background(live_model(), lambda: iter(TEXTS))
    known.check(live_model())  # the same weights opened again
    with pytest.raises(WrongBase, match="Make a Background"):
        known.check(live_model(seed=1))
