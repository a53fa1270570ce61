"""Texts that a model writes by itself: its own distribution, seeded, up to its own end."""

from __future__ import annotations

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from catechism.model import LiveModel
from catechism.model.contexts import FRAMES, OPENINGS, sample_texts
from tests.tiny import VOCAB, tiny_model, tiny_tokenizer


def live_model(model_type: str = "llama", *, add_bos: bool = True, **overrides: object) -> LiveModel:
    return LiveModel(tiny_model(model_type, **overrides), tiny_tokenizer(add_bos=add_bos), name="tiny")


def word_model() -> LiveModel:
    """A model whose every token is a word with the space before it, as sentence-piece tokenizers have them.

    Their decoders drop the space in front of the first token.
    """
    tokenizer = Tokenizer(models.WordLevel({f"▁w{i}": i for i in range(VOCAB)}, unk_token="▁w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(split=True)
    tokenizer.decoder = decoders.Metaspace()
    return LiveModel(tiny_model("llama"), PreTrainedTokenizerFast(tokenizer_object=tokenizer), name="words")


def plain_samples(live: LiveModel, openings: list[str], tokens: int, seed: int) -> list[str]:
    """The same, without cache and padding: every row is read again from its start for every token."""
    generator = torch.Generator().manual_seed(seed)
    rows = [list(live.tokenizer(opening)["input_ids"]) for opening in openings]
    ended = [False] * len(rows)
    fed = [list(row) for row in rows]
    for _ in range(tokens):
        with torch.no_grad():
            logits = torch.stack([live.model(torch.tensor([row])).logits[0, -1] for row in fed])
        choice = torch.multinomial(logits.softmax(dim=-1), 1, generator=generator)[:, 0].tolist()
        for i, token in enumerate(choice):
            fed[i].append(token)
            ended[i] = ended[i] or token in live.stop_ids
            if not ended[i]:
                rows[i].append(token)
    return live.tokenizer.batch_decode(rows, skip_special_tokens=True, clean_up_tokenization_spaces=False)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "opt", "gemma2"])
def test_samples_are_drawn_from_the_models_own_distribution(model_type: str) -> None:
    live = live_model(model_type)
    live.model.generation_config.eos_token_id = list(range(1, 40))  # some rows end early, some go on
    openings = ["The", "", "Which city is the capital of Japan", "I"]
    found = sample_texts(live, openings, tokens=8, seed=5)
    assert found == plain_samples(live, openings, 8, 5)
    assert all(text.startswith(opening) for text, opening in zip(found, openings, strict=True))


def test_the_seed_fixes_the_texts() -> None:
    live, openings = live_model(), list(OPENINGS)
    first, again, other = (sample_texts(live, openings, tokens=6, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert all(one != two for one, two in zip(first, other, strict=True))


def test_global_random_numbers_are_neither_used_nor_changed() -> None:
    live = live_model()
    state = torch.get_rng_state()
    first = sample_texts(live, ["The"], tokens=5, seed=3)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1234)
    assert sample_texts(live, ["The"], tokens=5, seed=3) == first


def test_a_text_ends_where_the_model_ends_it() -> None:
    live = live_model()
    live.model.generation_config.eos_token_id = list(range(VOCAB))
    assert sample_texts(live, ["The", "I"], tokens=9, seed=0) == ["The", "I"]
    live.model.generation_config.eos_token_id = [id_ for id_ in range(VOCAB) if id_ != 70]
    (text,) = sample_texts(live, ["The"], tokens=9, seed=0)
    assert text in {"The" + n * live.tokenizer.decode([70]) for n in range(10)}


def test_no_more_tokens_are_sampled_than_asked_for() -> None:
    live = word_model()
    live.model.generation_config.eos_token_id = None
    live.model.config.eos_token_id = None
    (text,) = sample_texts(live, ["w3 w4"], tokens=7, seed=0)
    assert len(text.split()) == 2 + 7


def test_the_space_before_the_first_sampled_word_is_kept() -> None:
    live = word_model()
    words = {f"w{i}" for i in range(VOCAB)}
    for text in sample_texts(live, ["w3", "w4 w5 w6"], tokens=4, seed=0):
        assert set(text.split()) <= words


def test_special_tokens_are_not_in_a_text() -> None:
    live = live_model(add_bos=False)
    for text in sample_texts(live, ["<eos>"] * 4, tokens=6, seed=0):
        assert "<" not in text or "eos>" not in text


def test_every_frame_holds_its_subject_once() -> None:
    assert len(set(FRAMES)) == len(FRAMES)
    assert all(frame.count("{}") == 1 for frame in FRAMES)
