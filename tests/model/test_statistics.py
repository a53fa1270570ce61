"""Covariance of a site's inputs: what is counted, how exactly, and what a cache may give back."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from catechism.arch import TABLE
from catechism.delta import Delta, LowRank
from catechism.errors import ArchitectureMismatch, BadSpec, WrongBase
from catechism.model import LiveModel, covariance
from catechism.types import Role, Site
from tests.tiny import tiny_model, tiny_tokenizer

TEXTS = ["The capital of France is Paris.", "Tokyo", "", "Which city is the capital of Japan? In 1987 it was.", "a b c"]
EVERY = sorted(TABLE)


def live_model(model_type: str = "llama", *, add_bos: bool = True, **overrides: object) -> LiveModel:
    return LiveModel(tiny_model(model_type, **overrides), tiny_tokenizer(add_bos=add_bos), name="tiny")


def a_site(live: LiveModel) -> Site:
    """An MLP's output matrix, or where all MLPs are mixtures the router."""
    return (live.anatomy.sites(Role.MLP_OUT) or live.anatomy.sites(Role.ROUTER))[0]


def keys_of(live: LiveModel, site: Site) -> Tensor:
    """The keys of all own tokens of the texts in reading order, one text at a time, by a hook of the test's own."""
    seen: list[Tensor] = []
    handle = live.anatomy.module(site).register_forward_pre_hook(lambda _module, args: seen.append(args[0].clone()))
    keys = []
    for text in TEXTS:
        ids = live.tokenizer(text)["input_ids"]
        if not ids:
            continue
        live.model(torch.tensor([ids]))
        skip = 1 if live.tokenizer("x")["input_ids"][0] == live.tokenizer.bos_token_id else 0
        keys.append(seen.pop().reshape(len(ids), -1)[skip:].double())
    handle.remove()
    return torch.cat(keys)


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize("model_type", EVERY)
def test_covariance_is_the_second_moment_of_the_first_n_own_tokens(model_type: str, add_bos: bool) -> None:
    live = live_model(model_type, add_bos=add_bos)
    site = a_site(live)
    keys = keys_of(live, site)
    for n in (len(keys), len(keys) - 4, 5):
        found = covariance(live, site, TEXTS, n_tokens=n, batch_size=3)
        assert found.n == n and found.matrix.dtype == torch.float64
        torch.testing.assert_close(found.matrix, keys[:n].T @ keys[:n] / n, rtol=1e-4, atol=1e-5)
        assert torch.equal(found.matrix, found.matrix.T)


def test_the_sum_is_taken_in_double_precision() -> None:
    live = live_model()
    site = Site(1, Role.MLP_OUT)
    keys = keys_of(live, site)
    found = covariance(live, site, TEXTS, n_tokens=len(keys), batch_size=1)
    torch.testing.assert_close(found.matrix, keys.T @ keys / len(keys), rtol=1e-12, atol=1e-14)


def test_batches_make_no_difference_but_rounding() -> None:
    live = live_model("gpt2")
    site = Site(0, Role.MLP_OUT)
    one, many = (covariance(live, site, TEXTS, n_tokens=30, batch_size=size) for size in (1, 64))
    torch.testing.assert_close(one.matrix, many.matrix, rtol=1e-5, atol=1e-7)
    assert one.key == many.key


def test_every_site_with_a_module_has_a_covariance() -> None:
    live = live_model("qwen3_moe")
    for site in live.anatomy.sites(Role.ATTN_OUT, Role.MLP_IN, Role.MLP_GATE, Role.MLP_OUT, Role.ROUTER):
        d_in = live.anatomy.matrix(site).shape[1]
        assert covariance(live, site, TEXTS, n_tokens=9).matrix.shape == (d_in, d_in)
    with pytest.raises(ArchitectureMismatch):
        covariance(live, Site(0, Role.EXPERT_OUT, 1), TEXTS, n_tokens=9)


def test_a_long_text_is_read_in_windows() -> None:
    live = live_model("gpt2", n_positions=16)
    text = " ".join(TEXTS)
    n = len(live.tokenizer(text)["input_ids"]) - 1
    assert n > 16
    assert covariance(live, Site(0, Role.MLP_OUT), [text], n_tokens=n).n == n


def test_too_little_text_says_how_much_there_is() -> None:
    live = live_model()
    n = len(keys_of(live, Site(0, Role.MLP_OUT)))
    with pytest.raises(BadSpec, match=f"hold {n} tokens, {n + 1} were asked for"):
        covariance(live, Site(0, Role.MLP_OUT), TEXTS, n_tokens=n + 1)
    for n_tokens, batch_size in ((0, 1), (5, 0)):
        with pytest.raises(BadSpec, match="too small"):
            covariance(live, Site(0, Role.MLP_OUT), TEXTS, n_tokens=n_tokens, batch_size=batch_size)


def test_texts_are_read_only_as_far_as_needed() -> None:
    def endless() -> object:
        while True:
            yield TEXTS[0]

    assert covariance(live_model(), Site(0, Role.MLP_OUT), endless(), n_tokens=40).n == 40  # type: ignore[arg-type]


def test_a_model_with_a_delta_on_is_refused(tmp_path: Path) -> None:
    live = live_model()
    address = live.anatomy.matrix(Site(0, Role.MLP_OUT)).address
    delta = Delta(live.base, {address: LowRank(torch.ones(32, 1), torch.ones(1, 48))})
    covariance(live, Site(0, Role.MLP_OUT), TEXTS, n_tokens=9, cache=tmp_path)
    with live.with_delta(delta), pytest.raises(WrongBase, match="revert_all"):
        covariance(live, Site(0, Role.MLP_OUT), TEXTS, n_tokens=9, cache=tmp_path)
    assert covariance(live, Site(0, Role.MLP_OUT), TEXTS, n_tokens=9).n == 9


def forbid_forward(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("the model ran")

    monkeypatch.setattr(live.model, "forward", fail)


def test_a_cached_covariance_needs_no_forward_pass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(1, Role.MLP_OUT)
    first = covariance(live_model(), site, TEXTS, n_tokens=20, cache=tmp_path / "new" / "folder")
    again = live_model()
    forbid_forward(again, monkeypatch)
    second = covariance(again, site, TEXTS, n_tokens=20, cache=tmp_path / "new" / "folder")
    assert torch.equal(first.matrix, second.matrix) and (first.n, first.key) == (second.n, second.key)
    assert [file.suffix for file in (tmp_path / "new" / "folder").iterdir()] == [".safetensors"]


def test_the_key_holds_everything_that_the_matrix_depends_on() -> None:
    site = Site(0, Role.MLP_OUT)

    def key(live: LiveModel, site: Site = site, texts: list[str] = TEXTS, n: int = 20) -> str:
        return covariance(live, site, texts, n_tokens=n).key

    half = LiveModel(tiny_model("llama").bfloat16(), tiny_tokenizer(), name="half")
    wide = LiveModel(tiny_model("llama").bfloat16().float(), tiny_tokenizer(), name="wide")
    assert half.base == wide.base
    keys = [
        key(live_model()),
        key(LiveModel(tiny_model("llama", seed=1), tiny_tokenizer(), name="tiny")),
        key(live_model(), Site(1, Role.MLP_OUT)),
        key(live_model(), Site(0, Role.MLP_IN)),
        key(live_model(), texts=TEXTS[::-1]),
        key(live_model(), n=21),
        key(live_model(add_bos=False)),
        key(half),
        key(wide),
    ]
    assert len(set(keys)) == len(keys)
    assert key(LiveModel(tiny_model("llama"), tiny_tokenizer(), name="another name")) == keys[0]
    assert key(live_model(), texts=[*TEXTS, "more text than is read"]) == keys[0]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text", "other"])
def test_a_damaged_cache_file_is_computed_again(tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture) -> None:
    live, site = live_model(), Site(0, Role.MLP_OUT)
    good = covariance(live, site, TEXTS, n_tokens=20, cache=tmp_path)
    (file,) = tmp_path.iterdir()
    content = bytearray(file.read_bytes())
    if damage == "flip":
        content[-3] ^= 1
    elif damage == "other":  # whole, but of another key
        elsewhere = tmp_path / "elsewhere"
        covariance(live, Site(1, Role.MLP_OUT), TEXTS, n_tokens=20, cache=elsewhere)
        content = bytearray(next(elsewhere.iterdir()).read_bytes())
    else:
        content = {"cut": content[:-100], "empty": bytearray(), "text": bytearray(b"not a tensor at all")}[damage]
    file.write_bytes(content)
    again = covariance(live, site, TEXTS, n_tokens=20, cache=tmp_path)
    assert torch.equal(again.matrix, good.matrix)
    assert "computing it again" in caplog.text
    caplog.clear()
    assert torch.equal(covariance(live, site, TEXTS, n_tokens=20, cache=tmp_path).matrix, good.matrix)
    assert not caplog.text


def test_a_write_that_fails_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("catechism.model.cache.os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        covariance(live_model(), Site(0, Role.MLP_OUT), TEXTS, n_tokens=20, cache=tmp_path)
    assert not list(tmp_path.iterdir())
