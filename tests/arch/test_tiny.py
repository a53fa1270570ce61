"""The tiny models and the tokenizer that every room tests with."""

from __future__ import annotations

import pytest
import torch

from catechism.arch import TABLE
from tests.tiny import CONFIGS, VOCAB, tiny_model, tiny_tokenizer

TEXTS = ("The capital of France is", " über naïve 東京 \n\t🙂", "")


def test_there_is_a_tiny_model_for_every_row() -> None:
    assert set(CONFIGS) == set(TABLE)


@pytest.mark.parametrize("model_type", TABLE)
def test_a_tiny_model_is_the_same_every_time(model_type: str) -> None:
    ids = torch.arange(3, 12)[None]
    first, second, other = tiny_model(model_type), tiny_model(model_type), tiny_model(model_type, seed=1)
    assert first.config.model_type == model_type
    assert torch.equal(first(ids).logits, second(ids).logits)
    assert not torch.equal(first(ids).logits, other(ids).logits)


def test_making_a_tiny_model_leaves_the_random_state_alone() -> None:
    before = torch.random.get_rng_state()
    tiny_model("llama", seed=5)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_survives_the_tokenizer(text: str) -> None:
    tokenizer = tiny_tokenizer()
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert all(0 <= i < VOCAB for i in ids)


def test_the_tokenizer_adds_bos_only_if_asked() -> None:
    assert tiny_tokenizer()("Paris")["input_ids"][0] == tiny_tokenizer().bos_token_id
    assert tiny_tokenizer(add_bos=False)("Paris")["input_ids"] == tiny_tokenizer()("Paris")["input_ids"][1:]


def test_the_tokenizer_gives_offsets() -> None:
    text = "The capital of France is Paris"
    encoded = tiny_tokenizer()(text, return_offsets_mapping=True)
    covered = "".join(text[start:end] for start, end in encoded["offset_mapping"])
    assert covered == text.replace(" ", "")
