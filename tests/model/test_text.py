"""Text in and out of a live model: encoding, greedy decoding, teacher-forced scores."""

from __future__ import annotations

import math

import pytest
import torch

from catechism.arch import TABLE
from catechism.errors import BadFact, UnsupportedTokenizer, UsageError
from catechism.model import LiveModel, select_logits
from tests.tiny import BOS, EOS, PAD, tiny_model, tiny_tokenizer

PROMPTS = ["The capital of France", "Which", "In 1987 the author of the book was born in the city of", "a b"]


def live_model(model_type: str = "llama", *, add_bos: bool = True, **overrides: object) -> LiveModel:
    return LiveModel(tiny_model(model_type, **overrides), tiny_tokenizer(add_bos=add_bos), name="tiny")


def test_rows_are_padded_on_the_side_asked_for_and_the_tokenizer_stays_as_it_was() -> None:
    live = live_model()
    before = live.tokenizer.padding_side
    right, left = live.encode(["a", "The capital of"]), live.encode(["a", "The capital of"], side="left")
    width = right["input_ids"].shape[1]
    assert right["input_ids"][0].tolist() == [BOS, *live.tokenizer("a")["input_ids"][1:], *[PAD] * (width - 2)]
    assert right["attention_mask"][0].tolist() == [1, 1, *[0] * (width - 2)]
    assert left["attention_mask"][0].tolist() == [*[0] * (width - 2), 1, 1]
    assert left["input_ids"][0, -2:].tolist() == right["input_ids"][0, :2].tolist()
    assert live.tokenizer.padding_side == before


def test_a_tokenizer_without_padding_token_pads_with_the_stop_token() -> None:
    live = live_model()
    live.tokenizer.pad_token = None
    assert live.encode(["a", "The capital of"])["input_ids"][0, -1].item() == EOS


def test_a_trailing_end_of_text_of_the_tokenizer_is_dropped() -> None:
    from tokenizers import processors

    live = live_model()
    live.tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[("<bos>", BOS), ("<eos>", EOS)]
    )
    ids = live.encode(["The capital"])["input_ids"][0].tolist()
    assert ids[0] == BOS and EOS not in ids
    assert live.encode_pairs(["The capital"], ["of"]).spans[0][0] == len(ids)


def test_an_end_of_text_written_in_the_prompt_stays() -> None:
    assert live_model().encode(["a<eos>"])["input_ids"][0, -1].item() == EOS


@pytest.mark.parametrize(("text", "message"), [("", "no tokens"), ("a " * 300, "takes 256")])
def test_texts_that_do_not_fit_are_refused(text: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        live_model(add_bos=False).encode([text])


def test_an_empty_prompt_goes_on_from_the_beginning_of_text() -> None:
    assert live_model().encode([""])["input_ids"].tolist() == [[BOS]]


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_batched_answers_are_the_answers_one_by_one(model_type: str) -> None:
    live = live_model(model_type)
    together = live.generate(PROMPTS, max_new_tokens=8)
    assert together == [live.generate([prompt], max_new_tokens=8)[0] for prompt in PROMPTS]
    assert together == live.generate(PROMPTS, max_new_tokens=8, batch_size=3)


@pytest.mark.parametrize("model_type", ["gpt2", "opt", "llama", "gemma2", "gpt_oss"])
def test_answers_are_those_of_the_models_own_generate(model_type: str) -> None:
    live = live_model(model_type, sliding_window=8)  # shorter than the prompts, where the family has one
    for prompt, ours in zip(PROMPTS, live.generate(PROMPTS, max_new_tokens=8), strict=True):
        ids = live.encode([prompt])
        theirs = live.model.generate(**ids, max_new_tokens=8, do_sample=False)[0, ids["input_ids"].shape[1] :]
        assert ours.tokens == tuple(t for t in theirs.tolist() if t not in live.stop_ids)


def test_answers_stop_at_the_models_own_end_of_text_and_not_the_tokenizers() -> None:
    live = live_model()
    free = live.generate(PROMPTS, max_new_tokens=8)
    assert not any(answer.stopped for answer in free)
    third = free[0].tokens[2]
    live.model.generation_config.eos_token_id = [third, 5]
    stopped = live.generate(PROMPTS, max_new_tokens=8)[0]
    assert stopped.stopped and stopped.tokens == free[0].tokens[: free[0].tokens.index(third)]
    assert live.stop_ids == {third, 5}


def test_the_stop_falls_back_to_the_config_and_then_to_the_tokenizer() -> None:
    live = live_model()
    live.model.generation_config.eos_token_id = None
    live.model.config.eos_token_id = 7
    assert live.stop_ids == {7}
    live.model.config.eos_token_id = None
    assert live.stop_ids == {EOS}
    live.tokenizer.eos_token = None
    assert live.stop_ids == frozenset()


def test_answers_end_where_the_models_positions_end() -> None:
    live = live_model("gpt2", n_positions=16)
    prompt = "The capital of France is"
    room = 16 - live.encode([prompt])["input_ids"].shape[1]
    answer = live.generate([prompt, "a"], max_new_tokens=40)
    assert len(answer[0].tokens) == room + 1 and not answer[0].stopped
    assert answer == [live.generate([p], max_new_tokens=40)[0] for p in (prompt, "a")]


def test_no_prompts_and_no_tokens_are_no_trouble() -> None:
    live = live_model()
    assert live.generate([]) == [] and live.score([], []) == []
    assert live.generate(["a"], max_new_tokens=0)[0].tokens == ()
    with pytest.raises(UsageError, match="batch_size=0"):
        live.generate(["a"], batch_size=0)


def test_text_of_an_answer_has_no_special_tokens_and_no_border_spaces() -> None:
    live = live_model()
    for answer in live.generate(PROMPTS):
        assert answer.text == live.tokenizer.decode(list(answer.tokens), skip_special_tokens=True).strip()


@pytest.mark.parametrize("add_bos", [True, False])
def test_a_targets_span_starts_where_the_row_parts_from_the_prompt(add_bos: bool) -> None:
    live = live_model(add_bos=add_bos)
    prompts, targets = ["The capital of France is", "The capital of Japan is"], ["Paris", "Tokyo, a city"]
    pairs = live.encode_pairs(prompts, targets)
    for row, (start, end), target in zip(pairs.input_ids, pairs.spans, targets, strict=True):
        assert live.tokenizer.decode(row[start:end]).strip() == target
    assert pairs.attention_mask.sum(dim=1).tolist() == [end for _, end in pairs.spans]


def test_a_prompt_whose_end_merges_with_the_target_still_has_a_span() -> None:
    live = live_model()
    pairs = live.encode_pairs(["The capital of "], ["France"])  # two spaces in a row: the tokens at the border differ
    start, end = pairs.spans[0]
    assert "France" in live.tokenizer.decode(pairs.input_ids[0, start:end])


@pytest.mark.parametrize("target", ["", "  "])
def test_an_empty_target_is_refused(target: str) -> None:
    with pytest.raises(BadFact, match="adds no token"):
        live_model().encode_pairs(["a"], [target])


def test_prompts_without_as_many_targets_are_refused() -> None:
    with pytest.raises(UsageError, match="2 prompts and 1 targets"):
        live_model().score(["a", "b"], ["c"])


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "gemma2", "opt"])
def test_scores_are_the_log_probabilities_of_the_targets_tokens(model_type: str) -> None:
    live = live_model(model_type)
    targets = ["Paris", "city is the river", "France", "1"]
    scores = live.score(PROMPTS, targets, batch_size=3)
    for prompt, target, score in zip(PROMPTS, targets, scores, strict=True):
        pairs = live.encode_pairs([prompt], [target])
        start, end = pairs.spans[0]
        logprobs = live.model(pairs.input_ids).logits.log_softmax(-1)[0]
        wanted = [logprobs[t - 1, pairs.input_ids[0, t]].item() for t in range(start, end)]
        assert score.tokens == end - start
        assert math.isclose(score.logprob, sum(wanted), rel_tol=1e-4)
        assert math.isclose(score.mean, sum(wanted) / len(wanted), rel_tol=1e-4)
        assert not score.argmax_match


def test_what_the_model_says_by_itself_matches_in_every_token() -> None:
    live = live_model()
    for prompt in PROMPTS:
        said = list(live.generate([prompt], max_new_tokens=3)[0].tokens)
        ids = live.encode([prompt])["input_ids"][0].tolist()
        ((logprobs, choices),) = live._token_logprobs([(*ids, *said)], [(len(ids), len(ids) + 3)])
        assert choices.tolist() == said and (logprobs < 0).all()


def test_perplexity_is_that_of_all_tokens_but_the_first() -> None:
    live = live_model()
    total, n = 0.0, 0
    for text in PROMPTS:
        ids = live.encode([text])["input_ids"]
        logprobs = live.model(ids).logits.log_softmax(-1)[0, :-1]
        total, n = total - logprobs.gather(1, ids[0, 1:, None]).sum().item(), n + ids.shape[1] - 1
    assert math.isclose(live.perplexity(PROMPTS, batch_size=2), math.exp(total / n), rel_tol=1e-5)


def test_perplexity_reads_a_long_text_in_windows() -> None:
    live = live_model()
    text = "The capital of France is Paris. " * 60
    windows = live.windows(text)
    assert len(windows) > 1 and all(row.ids[0] == BOS and len(row.ids) <= live.max_tokens for row in windows)
    body = [t for row in windows for t in row.ids[row.prefix :]]
    assert body == live.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert live.perplexity([text]) > 1


def test_perplexity_of_nothing_is_refused() -> None:
    with pytest.raises(UsageError, match="no token to predict"):
        live_model(add_bos=False).perplexity(["a"])


@pytest.mark.parametrize("add_bos", [True, False])
@pytest.mark.parametrize(
    ("prompt", "subject", "end"),
    [
        ("The capital of France is", "France", len("The capital of France")),
        ("Paris and Paris are", "Paris", len("Paris and Paris")),
        ("Oz lies in the Ozian sea, near", "Oz", len("Oz")),
        ("Where is Malm\N{LATIN SMALL LETTER O WITH DIAERESIS}?", "Malm\N{LATIN SMALL LETTER O WITH DIAERESIS}", None),
        ("x\N{KATAKANA LETTER TO}y", "\N{KATAKANA LETTER TO}", None),
    ],
)
def test_the_subjects_last_token_ends_the_subject(prompt: str, subject: str, end: int | None, add_bos: bool) -> None:
    live = live_model(add_bos=add_bos)
    index = live.subject_last(prompt, subject)
    ids = live.encode([prompt])["input_ids"][0]
    text = live.tokenizer.decode(ids[: index + 1], skip_special_tokens=True)
    stop = prompt.rfind(subject) + len(subject) if end is None else end
    assert text.startswith(prompt[:stop]) and len(text) - stop <= 2
    assert not live.tokenizer.decode(ids[:index], skip_special_tokens=True).startswith(prompt[:stop])


def test_a_subject_that_is_only_part_of_a_word_is_found_too() -> None:
    live = live_model()
    assert live.subject_last("the Ozian sea", "Oz") > 0


@pytest.mark.parametrize("subject", ["Italy", "", " "])
def test_a_subject_that_is_not_in_the_prompt_is_refused(subject: str) -> None:
    with pytest.raises(BadFact, match="Spell the subject"):
        live_model().subject_last("The capital of France is", subject)


def test_a_tokenizer_without_offsets_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()
    monkeypatch.setattr(type(live.tokenizer), "is_fast", property(lambda self: False))
    with pytest.raises(UnsupportedTokenizer, match=r"tokenizer\.json"):
        live.subject_last("The capital of France is", "France")


@pytest.mark.parametrize("model_type", sorted(TABLE))
def test_selected_logits_are_rows_of_all_logits(model_type: str) -> None:
    live = live_model(model_type)
    batch = live.encode(PROMPTS)
    rows, positions = [0, 2, 2, 3], [1, 5, -1, 0]
    everything = live.model(**batch).logits
    with select_logits(live, rows, torch.tensor(positions)):
        some = live.model(**batch).logits
    torch.testing.assert_close(some, everything[rows, positions])
    assert live.model(**batch).logits.shape == everything.shape


def test_a_live_model_is_frozen_and_in_evaluation_mode() -> None:
    model = tiny_model("llama").train().requires_grad_(True)
    live = LiveModel(model, tiny_tokenizer(), name="tiny")
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert live.device.type == "cpu" and live.dtype == torch.float32 and live.name == "tiny"
