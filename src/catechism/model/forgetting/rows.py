"""Prompts with their answers as rows of tokens, and what a model says at the places that the answers are said from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from catechism.model import encoding
from catechism.model.divergence import divergence
from catechism.model.live import LiveModel
from catechism.model.target_tokens import TargetTokens

MOST_KEPT = 1 << 28  # log-probabilities of a set of rows that are kept, a gigabyte of them
CHUNK = 128  # rows that are run at a time where no gradient is asked for


@dataclass(frozen=True)
class Said:
    """What a model says at the k places that the answers of n rows are said from.

    A row can be closed: it then adds nothing to a mean, and the mean is still over all rows. So a row that is done with
    is let go, and the others are not pushed the harder for it.

    Attributes:
        logprobs: of all tokens at the places.
        tokens: the answer's token at each place.
        rows: the row of each place, from 0 to n - 1; a row's places stand in the order of its answer.
        open: rows that still count.
    """

    logprobs: Float[Tensor, "k v"]
    tokens: Int[Tensor, " k"]
    rows: Int[Tensor, " k"]
    open: Bool[Tensor, " n"]

    @cached_property
    def chosen(self) -> Float[Tensor, " k"]:
        """Log-probability of the answer's token at each place."""
        return self.logprobs.gather(1, self.tokens[:, None])[:, 0]

    @property
    def nll(self) -> Float[Tensor, " n"]:
        """Negative log-likelihood of every answer, summed over its tokens."""
        return -self._sum(self.chosen)

    @property
    def lengths(self) -> Float[Tensor, " n"]:
        """Tokens of every answer."""
        return self._sum(torch.ones_like(self.chosen))

    @property
    def order(self) -> Int[Tensor, " k"]:
        """Number of each place in its row's answer, from 0."""
        lengths = torch.bincount(self.rows, minlength=len(self.open))
        return torch.arange(len(self.rows), device=self.rows.device) - (lengths.cumsum(0) - lengths)[self.rows]

    @property
    def first_choice(self) -> Bool[Tensor, " n"]:
        """Whether every token of the answer is the model's first choice."""
        missed = (self.logprobs.argmax(dim=-1) != self.tokens).to(self.logprobs.dtype)
        return self._sum(missed) == 0

    def apart_from(self, wanted: Float[Tensor, "k v"]) -> Float[Tensor, " k"]:
        """KL(wanted || what is said) at each place, of log-probabilities."""
        return divergence(wanted, self.logprobs)

    def over_tokens(self, x: Float[Tensor, " k"]) -> Float[Tensor, ""]:
        """Mean over all places, where those of closed rows give 0."""
        return torch.where(self.open[self.rows], x, 0.0).sum() / max(len(x), 1)

    def over_rows(self, x: Float[Tensor, " n"]) -> Float[Tensor, ""]:
        """Mean over all rows, where closed ones give 0."""
        return torch.where(self.open, x, 0.0).sum() / max(len(x), 1)

    def above(self, levels: Float[Tensor, " n"]) -> Said:
        """The same with those rows open whose answer is likelier, per token, than its level (a log-probability), or is
        the first choice."""
        return replace(self, open=((-self.nll / self.lengths).detach() > levels) | self.first_choice)

    def _sum(self, x: Float[Tensor, " k"]) -> Float[Tensor, " n"]:
        return x.new_zeros(len(self.open)).index_add(0, self.rows, x)


@dataclass(frozen=True)
class Before:
    """What the model as it was says of rows.

    Attributes:
        nll: negative log-likelihood of every answer, summed over its tokens.
        mean: log-probability of every answer per token.
        first_choice: whether every token of the answer is its first choice.
    """

    nll: Float[Tensor, " n"]
    mean: Float[Tensor, " n"]
    first_choice: Bool[Tensor, " n"]


class Rows:
    """Prompts with their answers.

    Raises: BadFact for an empty answer; UsageError for a row longer than the model's window.
    """

    def __init__(self, live: LiveModel, prompts: Sequence[str], answers: Sequence[str]) -> None:
        self.prompts, self.answers = tuple(prompts), tuple(answers)
        self._rows, self._spans = encoding.target_spans(live.tokenizer, self.prompts, self.answers)
        encoding.check_length(self._rows, live.max_tokens)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def places(self) -> int:
        """Tokens of all answers together."""
        return sum(end - start for start, end in self._spans)

    @property
    def tokens(self) -> list[tuple[int, ...]]:
        """The tokens of every answer."""
        return [row.ids[start:end] for row, (start, end) in zip(self._rows, self._spans, strict=True)]

    def inputs(
        self, live: LiveModel, numbers: Sequence[int]
    ) -> tuple[dict[str, Int[Tensor, "b t"]], Bool[Tensor, "b t"]]:
        """Some of the rows as arguments of a forward pass, and which of their tokens are neither padding nor prefix."""
        return live.pad_windows([self._rows[i] for i in numbers])

    def asked(self, live: LiveModel, numbers: Sequence[int]) -> TargetTokens:
        """Some of the rows, laid out as a batch."""
        inputs, _ = self.inputs(live, numbers)
        places = [(row, t) for row, i in enumerate(numbers) for t in range(*self._spans[i])]
        rows, following = torch.tensor(places, device=live.device).T
        return TargetTokens(inputs, rows, following - 1, inputs["input_ids"][rows, following])

    def said(self, live: LiveModel, numbers: Sequence[int]) -> Said:
        """What the model says now at the places of some of the rows, with gradients, all rows open."""
        asked = self.asked(live, numbers)
        every = torch.ones(len(numbers), dtype=torch.bool, device=asked.rows.device)
        return Said(asked.logprobs(live), asked.said, asked.rows, every)

    @torch.no_grad()
    def before(self, live: LiveModel, numbers: Sequence[int] | None = None) -> Before:
        """What the model says now, without gradients, of some rows or of all, in order."""
        wanted = list(range(len(self))) if numbers is None else list(numbers)
        found = [self.said(live, wanted[start : start + CHUNK]) for start in range(0, len(wanted), CHUNK)]
        return Before(
            torch.cat([said.nll for said in found]),
            torch.cat([-said.nll / said.lengths for said in found]),
            torch.cat([said.first_choice for said in found]),
        )


class Remembered:
    """The distributions that a model gives at the places of rows, computed once, when first asked for.

    All rows are computed then, always in the same batches: what is remembered must not depend on when it is asked for,
    or a fit that goes on from a checkpoint would differ in its last bits. Where all of them together are too large to
    keep, every question is answered anew.
    """

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self._known: list[Float[Tensor, "k v"]] = []

    @torch.no_grad()
    def of(self, live: LiveModel, numbers: Sequence[int]) -> Float[Tensor, "k v"]:
        """Log-probabilities at the places of these rows. The model has to be the one it was when first asked about."""
        if self._rows.places * live.model.config.get_text_config().vocab_size > MOST_KEPT:
            return self._rows.said(live, numbers).logprobs
        for start in range(len(self._known), len(self._rows), CHUNK):
            said = self._rows.said(live, range(start, min(start + CHUNK, len(self._rows))))
            self._known += said.logprobs.split(said.lengths.long().tolist())
        return torch.cat([self._known[i] for i in numbers])
