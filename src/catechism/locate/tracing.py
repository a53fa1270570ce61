"""Causal tracing: which hidden states carry an answer that the model knows. arXiv:2202.05262v5, Sec. 2.

Three runs of one prompt, each scored by the probability of the answer:

    clean      the prompt as it is
    corrupted  noise on the embeddings of the subject's tokens, so that the model no longer knows whom it is asked about
    restored   corrupted, but one state put back to what it was in the clean run

    total effect     P(clean) - P(corrupted)
    indirect effect  P(restored) - P(corrupted), for every layer and token

A block's output is restored alone; outputs of MLPs and of attentions are restored over a window of layers around the
one that is named, for a single one of them hardly shows (Sec. 2.2). Everything is the mean over several draws of the
noise, and every restored run meets the same draws as the corrupted one.

Deviation: the probability is that of the whole answer, not of its first token, so that answers with a common first
token are told apart. The answer is handed in; the published code takes what the model says.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.errors import BadSpec
from catechism.locate.answers import answer_logprobs, select_rows
from catechism.model import BlockSite, LiveModel, Pairs, Part, Patch, Place, patch, record
from catechism.types import JSON

SOURCE = "arXiv:2202.05262v5"


@dataclass(frozen=True, slots=True)
class Tracing:
    """Settings of a trace."""

    samples: int = 10  # draws of the noise; published 10
    noise: float = 3.0  # standard deviation of the noise over that of the subjects' embeddings; published 3
    window: int | None = None  # layers of MLPs or attentions restored together; None: a fifth, published 10 of 48
    seed: int = 0
    batch_size: int = 128  # rows of one forward pass

    def __post_init__(self) -> None:
        if self.samples < 1 or self.batch_size < 1 or (self.window is not None and self.window < 1):
            raise BadSpec(
                f"samples={self.samples}, window={self.window}, batch_size={self.batch_size}: use 1 or more of each."
            )
        if not (math.isfinite(self.noise) and self.noise > 0):
            raise BadSpec(f"noise={self.noise} corrupts nothing. Use a finite number above 0; 3 is published.")


@dataclass(frozen=True, slots=True)
class CausalTrace:
    """The indirect effects of one prompt.

    Attributes:
        part: whose outputs were restored.
        window: over how many layers.
        tokens: the prompt's tokens as text.
        subject: positions of the subject's first and last token.
        clean, corrupted: probability of the answer in the two runs.
        effects: indirect effect by layer, then by token; 0 at tokens that were left out.
        sigma: standard deviation of the noise.
    """

    part: Part
    window: int
    tokens: tuple[str, ...]
    subject: tuple[int, int]
    clean: float
    corrupted: float
    effects: tuple[tuple[float, ...], ...]
    sigma: float

    @property
    def total(self) -> float:
        """The total effect: what the corruption takes away."""
        return self.clean - self.corrupted

    @property
    def peak(self) -> tuple[int, int]:
        """Layer and token of the greatest indirect effect, the first of equals."""
        places = [(layer, t) for layer in range(len(self.effects)) for t in range(len(self.tokens))]
        return max(places, key=lambda place: self.effects[place[0]][place[1]])

    def json(self) -> dict[str, JSON]:
        """As a JSON object."""
        return {
            "part": self.part.value,
            "window": self.window,
            "tokens": list(self.tokens),
            "subject": list(self.subject),
            "clean": self.clean,
            "corrupted": self.corrupted,
            "effects": [list(row) for row in self.effects],
            "sigma": self.sigma,
        }


@torch.no_grad()
def trace_cause(
    live: LiveModel,
    prompt: str,
    subject: str,
    answer: str,
    *,
    part: Part = Part.BLOCK,
    subject_end_only: bool = False,
    spec: Tracing | None = None,
) -> CausalTrace:
    """Trace an answer to the states that carry it.

    Args:
        part: restore the outputs of blocks, of MLPs or of attentions.
        subject_end_only: restore at the subject's last token alone, for a fraction of the cost.

    Raises: BadFact for an empty answer or a prompt without the subject; UsageError for a row longer than the model's
        window; UnsupportedTokenizer if the tokenizer gives no character offsets.
    """
    spec = spec or Tracing()
    pairs = live.encode_pairs([prompt], [answer])
    first, last = _subject_tokens(live, prompt, subject)
    n_tokens, n_layers = pairs.spans[0][0], live.anatomy.n_layers
    window = 1 if part is Part.BLOCK else spec.window or max(1, round(n_layers / 5))
    watched: list[Place] = [BlockSite(layer, part) for layer in range(n_layers)]
    with record(live, watched, what="output") as states:
        clean = float(answer_logprobs(live, pairs).double().exp())
    sigma = spec.noise * _spread(live, pairs, first, last)
    noise = _noise(live, spec, last + 1 - first) * sigma
    # what comes before the subject is the same in every run, so there is nothing to restore
    restored_at = [last] if subject_end_only else list(range(first, n_tokens))
    runs: list[_Run] = [_Run(sample, (), None) for sample in range(spec.samples)]
    for layer in range(n_layers):
        around = tuple(range(max(0, layer - window // 2), min(n_layers, layer + (window + 1) // 2)))
        runs += [_Run(sample, around, t) for t in restored_at for sample in range(spec.samples)]
    corruption = _Corruption(range(first, last + 1), noise)
    chances = [
        chance
        for start in range(0, len(runs), spec.batch_size)
        for chance in _chances(live, pairs, part, runs[start : start + spec.batch_size], states, corruption)
    ]
    means = torch.tensor(chances, dtype=torch.float64).reshape(-1, spec.samples).mean(dim=1)
    effects = torch.zeros(n_layers, n_tokens, dtype=torch.float64)
    effects[:, restored_at] = (means[1:] - means[0]).reshape(n_layers, -1)
    words = tuple(str(live.tokenizer.decode([i])) for i in pairs.input_ids[0, :n_tokens].tolist())
    table = tuple(tuple(row) for row in effects.tolist())
    return CausalTrace(part, window, words, (first, last), clean, float(means[0]), table, sigma)


@dataclass(frozen=True, slots=True)
class _Run:
    """One row: which draw of the noise, and which layers are restored at which token (none in a corrupted run)."""

    sample: int
    layers: tuple[int, ...]
    token: int | None


@dataclass(frozen=True, slots=True, eq=False)
class _Corruption:
    """Noise (samples, tokens, width) for the embeddings of these tokens."""

    tokens: Sequence[int]
    noise: Float[Tensor, "s k d"]

    @contextmanager
    def on(self, live: LiveModel, samples: Sequence[int]) -> Iterator[None]:
        """Add to each row of the batch the noise of its draw."""

        def add(_module: object, _args: object, out: Tensor) -> Tensor:
            out = out.clone()
            out[:, list(self.tokens)] += self.noise[list(samples)].to(out)
            return out

        handle = live.anatomy.embed.register_forward_hook(add)
        try:
            yield
        finally:
            handle.remove()


def _chances(
    live: LiveModel, pairs: Pairs, part: Part, runs: Sequence[_Run], states: dict[Place, Tensor], noise: _Corruption
) -> list[float]:
    """Probability of the answer in each run, all in one pass."""
    patches: list[Patch] = []
    for layer in sorted({layer for run in runs for layer in run.layers}):
        rows = [row for row, run in enumerate(runs) if layer in run.layers]
        tokens = [run.token for run in runs if run.token is not None and layer in run.layers]
        place = BlockSite(layer, part)
        patches.append(Patch(place, rows, tokens, states[place][0, tokens], mode="replace"))
    with noise.on(live, [run.sample for run in runs]), patch(live, *patches):
        return answer_logprobs(live, select_rows(pairs, [0] * len(runs))).double().exp().tolist()


def _spread(live: LiveModel, pairs: Pairs, first: int, last: int) -> float:
    """Standard deviation of the numbers in the embeddings of the subject's tokens."""
    embedded = live.anatomy.embed(pairs.input_ids[:, first : last + 1])
    return float(embedded.double().std())


def _noise(live: LiveModel, spec: Tracing, n_tokens: int) -> Float[Tensor, "s k d"]:
    """Standard normal noise from a generator of its own, drawn on the CPU so that every device gets the same."""
    generator = torch.Generator().manual_seed(spec.seed)
    width = int(next(live.anatomy.embed.parameters()).shape[-1])
    return torch.randn(spec.samples, n_tokens, width, generator=generator)


def _subject_tokens(live: LiveModel, prompt: str, subject: str) -> tuple[int, int]:
    """Positions of the subject's first and last token."""
    last = live.subject_last(prompt, subject)
    subject = subject.strip()
    offsets: list[tuple[int, int]] = live.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    begin, end = offsets[last]
    start = max(i for i in range(len(prompt)) if prompt.startswith(subject, i) and begin < i + len(subject) <= end)
    return next(i for i, (_, stop) in enumerate(offsets) if stop > start), last
