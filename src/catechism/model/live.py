"""A live model: its text side (encode, generate, score) and its weights (apply and revert deltas)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from catechism.arch import Anatomy, anatomy
from catechism.delta import Delta
from catechism.errors import UsageError
from catechism.model import encoding
from catechism.model.beside import Beside
from catechism.model.decoding import Decoding
from catechism.model.retrieval import with_contexts
from catechism.model.surgery import Applied, Surgeon
from catechism.model.trace import select_logits


@dataclass(frozen=True, slots=True)
class Completion:
    """What the model said after one prompt, by greedy decoding.

    Attributes:
        text: the continuation, stripped, without special tokens.
        stopped: whether the model stopped by itself, by its own end-of-text token.
        tokens: the ids of the continuation, the end-of-text not counted.
    """

    text: str
    stopped: bool
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TargetScore:
    """Teacher-forced score of one target after its prompt.

    Attributes:
        logprob: natural log of the target's probability, summed over its tokens.
        mean: `logprob` per token.
        tokens: number of target tokens.
        argmax_match: whether every target token is the model's first choice.
        accuracy: share of the target's tokens that are the model's first choice.
        choices: the model's first choice in the place of every target token.
    """

    logprob: float
    mean: float
    tokens: int
    argmax_match: bool
    accuracy: float
    choices: tuple[int, ...]


class LiveModel:
    """A causal language model with its tokenizer, ready to be read, asked and edited.

    The model is put in evaluation mode and its parameters are frozen: gradients flow through activations alone.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, name: str) -> None:
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.name = name
        self.anatomy: Anatomy = anatomy(model)
        self.beside = Beside(self.anatomy)
        self._surgeon = Surgeon(model, self.anatomy.matrix, self.beside)

    # -- what it is ------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where token ids go in."""
        return next(self.anatomy.embed.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.model.dtype

    @property
    def max_tokens(self) -> int:
        """Longest row that the model takes."""
        return int(getattr(self.model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)

    @property
    def stop_ids(self) -> frozenset[int]:
        """The model's own end-of-text tokens: its generation settings, else its config, else its tokenizer."""
        generation = getattr(self.model, "generation_config", None)
        config = self.model.config.get_text_config()
        for found in (
            getattr(generation, "eos_token_id", None),
            getattr(config, "eos_token_id", None),
            self.tokenizer.eos_token_id,
        ):
            if found is not None:
                return frozenset(int(i) for i in (found if isinstance(found, (list, tuple)) else [found]))
        return frozenset()

    @property
    def base(self) -> str:
        """Digest of the weights as they were before any delta."""
        return self._surgeon.base

    @property
    def parameter_digests(self) -> dict[str, str]:
        """Digest of every parameter as it was before any delta; `base` is the digest of this map."""
        return dict(self._surgeon.base_digests)

    # -- text in ---------------------------------------------------------------------------------------------------

    def encode(self, texts: Sequence[str], *, side: encoding.Side = "right") -> dict[str, Int[Tensor, "b t"]]:
        """``input_ids`` and ``attention_mask`` of texts, padded on one side, on the model's device.

        Raises: UsageError for a text without tokens or longer than the model's window.
        """
        rows = encoding.rows(self.tokenizer, texts)
        encoding.check_length(rows, self.max_tokens)
        return self._pad([row.ids for row in rows], side)

    def encode_pairs(self, prompts: Sequence[str], targets: Sequence[str]) -> encoding.Pairs:
        """Rows of prompt, space, target, right-padded, with the token range of each target.

        Raises: BadFact for an empty target; UsageError for a row longer than the model's window.
        """
        rows, spans = encoding.target_spans(self.tokenizer, prompts, targets)
        encoding.check_length(rows, self.max_tokens)
        batch = self._pad([row.ids for row in rows], "right")
        return encoding.Pairs(batch["input_ids"], batch["attention_mask"], spans)

    def subject_last(self, prompt: str, subject: str) -> int:
        """Index of the subject's last token in ``encode([prompt])``.

        Raises: BadFact if the subject is not in the prompt; UnsupportedTokenizer if there are no offsets.
        """
        return encoding.subject_last(self.tokenizer, prompt, subject)

    def windows(self, text: str) -> list[encoding.Row]:
        """The text in rows that fit the model, each with the tokenizer's leading special tokens."""
        (row,) = encoding.rows(self.tokenizer, [text])
        head, body = row.ids[: row.prefix], row.ids[row.prefix :]
        step = self.max_tokens - row.prefix
        return [encoding.Row(head + body[i : i + step], row.prefix) for i in range(0, len(body), step)]

    def pad_windows(self, rows: Sequence[encoding.Row]) -> tuple[dict[str, Int[Tensor, "b t"]], Bool[Tensor, "b t"]]:
        """Right-padded model inputs for rows, and which of their tokens are the text's own: no padding, no prefix."""
        batch = self._pad([row.ids for row in rows], "right")
        column = torch.arange(batch["input_ids"].shape[1], device=self.device)
        prefix = torch.tensor([row.prefix for row in rows], device=self.device)
        own = batch["attention_mask"].bool() & (column >= prefix[:, None])
        return {**batch, "position_ids": encoding.positions(batch["attention_mask"])}, own

    def _pad(self, batch: Sequence[Sequence[int]], side: encoding.Side) -> dict[str, Int[Tensor, "b t"]]:
        pad_id = self.tokenizer.pad_token_id
        if not isinstance(pad_id, int):
            pad_id = min(self.stop_ids, default=0)
        return encoding.pad(batch, pad_id=pad_id, side=side, device=self.device)

    # -- text out --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24, batch_size: int = 64) -> list[Completion]:
        """Greedy continuation of every prompt up to the model's own stop, in the order of the prompts.

        Prompts of like length go together, so that little of a batch is padding. Where texts are on the model, a prompt
        that one belongs to is asked with it.
        """
        prompts = self._in_context(prompts)
        rows = encoding.rows(self.tokenizer, prompts)
        encoding.check_length(rows, self.max_tokens)
        done: dict[int, Completion] = {}
        for batch in _by_length([row.ids for row in rows], batch_size):
            answers = self._greedy([rows[i].ids for i in batch], max_new_tokens)
            done.update(zip(batch, answers, strict=True))
        return [done[i] for i in range(len(prompts))]

    def _greedy(self, rows: Sequence[tuple[int, ...]], max_new_tokens: int) -> list[Completion]:
        decoding, stop_ids = Decoding(self, self._pad(rows, "left")), self.stop_ids
        said: list[list[int]] = [[] for _ in rows]
        stopped, running = [False] * len(rows), [max_new_tokens > 0] * len(rows)
        while any(running):
            choice = decoding.logits().argmax(dim=-1)  # (b,)
            for i, token in enumerate(choice.tolist()):
                if not running[i]:
                    continue
                if token in stop_ids:
                    stopped[i], running[i] = True, False
                    continue
                said[i].append(token)
                full = len(rows[i]) + len(said[i]) > self.max_tokens  # no position left to read this token from
                running[i] = len(said[i]) < max_new_tokens and not full
            decoding.append(choice)
        return [
            Completion(self._decode(tokens), stop, tuple(tokens)) for tokens, stop in zip(said, stopped, strict=True)
        ]

    def _in_context(self, prompts: Sequence[str]) -> Sequence[str]:
        """The prompts as they are asked, with the kept texts that belong to them."""
        return with_contexts(self, self.beside.contexts, prompts) if self.beside.contexts else prompts

    def _decode(self, tokens: Sequence[int]) -> str:
        text = self.tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return str(text).strip()

    @torch.no_grad()
    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 64) -> list[TargetScore]:
        """Teacher-forced score of every target after its prompt, in order.

        A prompt is asked as in `generate`: with the texts that belong to it, and memories go by its tokens alone.

        Raises: BadFact for an empty target; UsageError for a row longer than the model's window.
        """
        rows, spans = encoding.target_spans(self.tokenizer, self._in_context(prompts), targets)
        encoding.check_length(rows, self.max_tokens)
        done: dict[int, TargetScore] = {}
        for batch in _by_length([row.ids for row in rows], batch_size):
            with self.beside.memories.prompts([spans[i][0] for i in batch]):
                parts = self._token_logprobs([rows[i].ids for i in batch], [spans[i] for i in batch])
            for i, (logprobs, choices) in zip(batch, parts, strict=True):
                total, chosen, (start, end) = float(logprobs.sum()), tuple(choices.tolist()), spans[i]
                right = sum(a == b for a, b in zip(chosen, rows[i].ids[start:end], strict=True))
                n = len(chosen)
                done[i] = TargetScore(total, total / n, n, right == n, right / n, chosen)
        return [done[i] for i in range(len(rows))]

    @torch.no_grad()
    def next_logprobs(self, prompts: Sequence[str], *, batch_size: int = 64) -> Float[Tensor, "b v"]:
        """Log-probabilities of the token after every prompt, in order, on the CPU."""
        rows = encoding.rows(self.tokenizer, self._in_context(prompts))
        encoding.check_length(rows, self.max_tokens)
        done: dict[int, Tensor] = {}
        for batch in _by_length([row.ids for row in rows], batch_size):
            with select_logits(self, range(len(batch)), [len(rows[i].ids) - 1 for i in batch]):
                logits = self._logits([rows[i].ids for i in batch])
            done.update(zip(batch, logits.float().log_softmax(dim=-1).cpu(), strict=True))
        return torch.stack([done[i] for i in range(len(rows))])

    @torch.no_grad()
    def perplexity(self, texts: Sequence[str], *, batch_size: int = 16) -> float:
        """Perplexity per token over texts; the first token of each window is given, not predicted.

        To a memory a window is a prompt as a whole. Kept texts are not put before windows.

        Raises: UsageError if no token is left to predict.
        """
        rows = [row for text in texts for row in self.windows(text) if len(row.ids) > 1]
        total, n = 0.0, 0
        for batch in _by_length([row.ids for row in rows], batch_size):
            ids = [rows[i].ids for i in batch]
            for logprobs, _ in self._token_logprobs(ids, [(1, len(row)) for row in ids]):
                total, n = total + float(logprobs.double().sum()), n + len(logprobs)
        if n == 0:
            raise UsageError(f"{len(texts)} texts hold no token to predict. Give texts of two tokens or more.")
        return math.exp(-total / n)

    def _token_logprobs(
        self, rows: Sequence[tuple[int, ...]], spans: Sequence[tuple[int, int]]
    ) -> list[tuple[Float[Tensor, " k"], Int[Tensor, " k"]]]:
        """Per row: log-probability of each token in its span, and the model's first choice in its place."""
        row_of = [i for i, (start, end) in enumerate(spans) for _ in range(start, end)]
        token_of = [t for start, end in spans for t in range(start, end)]
        with select_logits(self, row_of, [t - 1 for t in token_of]):
            logits = self._logits(rows)  # (k, v)
        target = torch.tensor([rows[i][t] for i, t in zip(row_of, token_of, strict=True)], device=logits.device)
        logprobs = logits.float().log_softmax(dim=-1).gather(1, target[:, None])[:, 0]
        sizes = [end - start for start, end in spans]
        return list(zip(logprobs.split(sizes), logits.argmax(dim=-1).split(sizes), strict=True))

    def _logits(self, rows: Sequence[tuple[int, ...]]) -> Tensor:
        """The model's logits for right-padded rows."""
        batch = self._pad(rows, "right")
        return self.model(**batch, position_ids=encoding.positions(batch["attention_mask"]), use_cache=False).logits

    # -- surgery ---------------------------------------------------------------------------------------------------

    @property
    def applied(self) -> tuple[Applied, ...]:
        """What is on the model now, in the order of applying."""
        return self._surgeon.applied

    @property
    def recorded(self) -> dict[str, Tensor]:
        """The base value of every parameter that a delta on the model changes, by its name. Not to be written to."""
        return self._surgeon.recorded

    def apply(self, delta: Delta, *, scale: float = 1.0) -> Applied:
        """Put a delta on the model, above those that are on it. All of it or, on any error, nothing.

        The weights do not depend on the order in which deltas are applied.

        Raises: WrongBase, ShapeMismatch, NonFiniteDelta.
        """
        return self._surgeon.apply(delta, scale=scale)

    def revert(self, applied: Applied) -> None:
        """Take one delta off, whichever; with the last one of a parameter its recorded bytes come back, proven by hash.

        Raises: NotApplied if it is not on the model; RevertError if the bytes are not the recorded ones.
        """
        self._surgeon.revert(applied)

    def revert_all(self) -> None:
        """Take everything off. Raises RevertError if the bytes are not the recorded ones."""
        self._surgeon.revert_all()

    @contextmanager
    def with_delta(self, delta: Delta, *, scale: float = 1.0) -> Iterator[Applied]:
        """Apply a delta for the body only; it comes off however the body ends."""
        applied = self.apply(delta, scale=scale)
        try:
            yield applied
        finally:
            if applied in self.applied:  # the body may have taken it off itself
                self.revert(applied)

    def digest(self, *, full: bool = False) -> str:
        """Digest of the model as it is now: its weights, and memories and texts beside them, if there are any.

        Equal to `base` when no delta is on.

        Args:
            full: hash every parameter again, not only those that a delta has touched.
        """
        return self._surgeon.digest(full=full)


def _by_length(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Row numbers in batches of rows of like length."""
    if batch_size < 1:
        raise UsageError(f"batch_size={batch_size} is too small. Use 1 or more.")
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    for start in range(0, len(order), batch_size):
        yield order[start : start + batch_size]
