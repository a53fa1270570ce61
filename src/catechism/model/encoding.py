"""Text to token rows: special tokens known, padding on either side, spans of targets and of subjects.

Padding is done here and not by the tokenizer, so that the tokenizer is never changed by a call.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from catechism.errors import BadFact, UnsupportedTokenizer, UsageError

Side = Literal["left", "right"]


@dataclass(frozen=True, slots=True)
class Row:
    """Token ids of one text. The first `prefix` ids were put there by the tokenizer (a beginning-of-text, usually)."""

    ids: tuple[int, ...]
    prefix: int


@dataclass(frozen=True, slots=True, eq=False)
class Pairs:
    """Prompts with their targets, right-padded. ``spans[i]`` is the half-open token range of target i in row i."""

    input_ids: Int[Tensor, "b t"]
    attention_mask: Int[Tensor, "b t"]
    spans: tuple[tuple[int, int], ...]


def rows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> list[Row]:
    """Tokenise texts with the tokenizer's leading special tokens and without its trailing ones.

    A trailing end-of-text (some tokenizers add one) would make the model start a new text instead of going on.
    """
    if not texts:
        return []
    encoded = tokenizer(list(texts), return_special_tokens_mask=True, padding=False, truncation=False, verbose=False)
    return [_row(ids, mask) for ids, mask in zip(encoded["input_ids"], encoded["special_tokens_mask"], strict=True)]


def _row(ids: Sequence[int], special: Sequence[int]) -> Row:
    end = len(ids)
    while end and special[end - 1]:
        end -= 1
    if end == 0:  # nothing but special tokens: the leading one is what the model goes on from
        return Row(tuple(ids[:1]), len(ids[:1]))
    prefix = next(i for i, flag in enumerate(special) if not flag)
    return Row(tuple(ids[:end]), prefix)


def check_length(batch: Iterable[Row], max_tokens: int) -> None:
    """Raise UsageError for a row that is empty or longer than the model's window."""
    for number, row in enumerate(batch):
        if not row.ids:
            raise UsageError(f"Text {number} has no tokens. Give a text that is not empty.")
        if len(row.ids) > max_tokens:
            raise UsageError(
                f"Text {number} has {len(row.ids)} tokens, the model takes {max_tokens}. Shorten the text."
            )


def pad(
    batch: Sequence[Sequence[int]], *, pad_id: int, side: Side, device: torch.device
) -> dict[str, Int[Tensor, "b t"]]:
    """Stack rows of ids into ``input_ids`` and ``attention_mask``, padded on one side."""
    width = max((len(ids) for ids in batch), default=0)
    input_ids = torch.full((len(batch), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for i, ids in enumerate(batch):
        where = slice(0, len(ids)) if side == "right" else slice(width - len(ids), width)
        input_ids[i, where] = torch.tensor(ids, dtype=torch.long)
        mask[i, where] = 1
    return {"input_ids": input_ids.to(device), "attention_mask": mask.to(device)}


def positions(mask: Int[Tensor, "b t"]) -> Int[Tensor, "b t"]:
    """Position of every token counted from the row's first real token; padding gets 0."""
    return (mask.cumsum(dim=1) - 1).clamp_min(0)


def target_spans(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], targets: Sequence[str]
) -> tuple[list[Row], tuple[tuple[int, int], ...]]:
    """Rows of prompt, space, target, with the token range of each target.

    The range starts where the row parts from the prompt's own ids, which holds for every tokenizer, also for one
    that merges the last letters of the prompt with what follows.

    Raises: BadFact for an empty target, or one whose first token has nothing before it.
    """
    if len(prompts) != len(targets):
        raise UsageError(f"Got {len(prompts)} prompts and {len(targets)} targets. Give one target per prompt.")
    heads = rows(tokenizer, prompts)
    full = rows(tokenizer, [f"{p} {t}" for p, t in zip(prompts, targets, strict=True)])
    spans: list[tuple[int, int]] = []
    for head, row, target in zip(heads, full, targets, strict=True):
        start = max(_common_prefix(head.ids, row.ids), 1)  # the first token of a row is predicted from nothing
        if not target.strip() or start >= len(row.ids):
            raise BadFact(f"Target {target!r} adds no token to its prompt. Give a target that is not empty.")
        spans.append((start, len(row.ids)))
    return full, tuple(spans)


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    n = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        n += 1
    return n


def subject_last(tokenizer: PreTrainedTokenizerBase, prompt: str, subject: str) -> int:
    """Index of the subject's last token in the prompt's row, counted without padding.

    The last occurrence that is a word of its own counts, or the last one at all where none is.

    Raises: BadFact if the subject is not in the prompt; UnsupportedTokenizer if there are no character offsets.
    """
    subject = subject.strip()
    start = _last_occurrence(prompt, subject) if subject else -1
    if start < 0:
        raise BadFact(f"Subject {subject!r} is not in the prompt {prompt!r}. Spell the subject as the prompt does.")
    if not tokenizer.is_fast:
        raise UnsupportedTokenizer(
            f"Tokenizer {type(tokenizer).__name__} gives no character offsets. Use a folder with a tokenizer.json."
        )
    last = start + len(subject) - 1
    offsets = tokenizer(prompt, return_offsets_mapping=True, verbose=False)["offset_mapping"]
    covering = [i for i, (begin, end) in enumerate(offsets) if begin <= last < end]
    if not covering:
        raise UnsupportedTokenizer(
            f"No token of {prompt!r} covers the end of {subject!r}: the tokenizer drops these characters. "
            "Use another spelling of the subject."
        )
    return covering[-1]  # one character may be several byte tokens


def _last_occurrence(text: str, word: str) -> int:
    """Start of the last occurrence of `word` with no letter or digit beside it, else of the last one, else -1."""
    anywhere = at = text.rfind(word)
    while at >= 0:
        end = at + len(word)
        if not (text[max(at - 1, 0) : at].isalnum() or text[end : end + 1].isalnum()):
            return at
        at = text.rfind(word, 0, end - 1)
    return anywhere
