"""Addresses from catechisms: what a model's last prompt token looks like when a fact is asked for, and when it is not.

Right texts are the fact's prompt and the phrasings to study; the prompt stands after a few texts of the model's own
too, since a question may come after anything. Wrong texts are the study's questions that must not move, and sentences
that merely mention the subject. No question of an exam is read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from catechism.delta.keyed import KeyedAddress, Settings, Texts
from catechism.errors import BadSpec
from catechism.hashing import digest_texts
from catechism.model import encoding
from catechism.model.background import TOKENS_PER_DIMENSION, Background
from catechism.model.contexts import OPENINGS, sample_texts
from catechism.model.live import LiveModel
from catechism.model.trace import BlockSite, Part, record
from catechism.types import UNMOVED, Catechism, Kind

#: A subject in the beginning of a sentence that asks for nothing in particular.
MENTIONS = (
    *("{}", "{} is a", "People say that {} has", "The name of {}", "Tell me about {}", "In the case of {}, the"),
    *("It is said of {} that", "When people think of {}, they think of"),
)
ASKS = frozenset({Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS})
ASKS_NOT = UNMOVED | {Kind.NEGATIVE}
TEXTS_AT_ONCE = 64
DAMPING = 1e-3  # of the mean variance, added to each: a direction in which the background is still counts for little


@dataclass(frozen=True, slots=True)
class Reach:
    """What texts an address is made of.

    Attributes:
        contexts: texts of the model's own that the prompt is put after.
        context_tokens: their length.
        wrong: texts at which the entry must not fire, at most.
        coordinates: of a state that are kept, those in which the background varies most.
        fit: see `Settings`.
        seed: of the contexts.
    """

    contexts: int = 4
    context_tokens: int = 10
    wrong: int = 8
    coordinates: int = 512
    fit: Settings = Settings()
    seed: int = 0


class Addresses:
    """Makes the addresses of one layer of one model; they can be joined with each other.

    Args:
        live: the model.
        background: texts that a state's coordinates are taken from.
        layer: the block whose MLP's input is read.
        reach: what the addresses are made of.

    Raises: UnknownName for a block that is not there; BadSpec for settings out of range.
    """

    def __init__(self, live: LiveModel, background: Background, layer: int, reach: Reach | None = None) -> None:
        self._live, self._layer, self.reach = live, layer, reach or Reach()
        live.anatomy.block(layer)
        if self.reach.contexts < 0 or self.reach.wrong < 0 or self.reach.coordinates < 1:
            raise BadSpec(f"{self.reach} leaves no texts or no coordinates. Use numbers from 0, coordinates from 1.")
        self._mean, self._basis = _coordinates(live, background, layer, self.reach.coordinates)
        self._contexts = _contexts(live, self.reach)

    def table(self, catechisms: Sequence[Catechism]) -> KeyedAddress:
        """The addresses of these facts, one entry each, in their order."""
        right: list[tuple[int, int, str]] = []
        wrong: list[tuple[int, str]] = []
        for number, catechism in enumerate(catechisms):
            wordings = list(dict.fromkeys(wordings_of(catechism)))
            right += [(number, i, text) for i, text in enumerate(wordings)]
            right += [(number, 0, f"{context} {wordings[0]}") for context in self._contexts]
            wrong += [(number, text) for text in list(dict.fromkeys(others_of(catechism)))[: self.reach.wrong]]
        states = last_states(self._live, self._layer, [text for *_, text in (*right, *wrong)])
        found = ((states - self._mean) @ self._basis).half().cpu()
        texts = Texts(
            right=found[: len(right)],
            owner=torch.tensor([number for number, _, _ in right], dtype=torch.long),
            wording=torch.tensor([i for _, i, _ in right], dtype=torch.long),
            wrong=found[len(right) :],
            beside=torch.tensor([number for number, _ in wrong], dtype=torch.long),
            tags=torch.tensor([_tag(catechism) for catechism in catechisms], dtype=torch.long),
        )
        return KeyedAddress.fit(self._mean.cpu(), self._basis.cpu(), texts, layer=self._layer, settings=self.reach.fit)


def wordings_of(catechism: Catechism) -> Iterator[str]:
    """Texts that ask for the fact: its prompt, then what is there to study."""
    yield catechism.fact.prompt
    yield from (question.text for question in catechism.study if question.kind in ASKS)


def others_of(catechism: Catechism) -> Iterator[str]:
    """Texts that do not ask for the fact: what is there to study, then mentions of the subject."""
    yield from (question.text for question in catechism.study if question.kind in ASKS_NOT)
    if catechism.fact.subject:
        yield from (mention.format(catechism.fact.subject) for mention in MENTIONS)


@torch.no_grad()
def last_states(live: LiveModel, layer: int, texts: Sequence[str], *, batch_size: int = 64) -> Float[Tensor, "n d"]:
    """What enters a block's MLP at the last token of every text, float32.

    Raises: UsageError for a text without tokens or longer than the model's window.
    """
    rows = encoding.rows(live.tokenizer, texts)
    encoding.check_length(rows, live.max_tokens)
    place, order = _place(layer), sorted(range(len(rows)), key=lambda i: len(rows[i].ids))
    found: dict[int, Tensor] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        inputs, _ = live.pad_windows([rows[i] for i in batch])
        with record(live, [place], stop=True) as seen:
            live.model(**inputs, use_cache=False)
        last = inputs["attention_mask"].sum(dim=1) - 1
        states = seen[place]
        found.update(zip(batch, states[torch.arange(len(batch)), last.to(states.device)].float(), strict=True))
    return torch.stack([found[i] for i in range(len(rows))])


def _coordinates(
    live: LiveModel, background: Background, layer: int, coordinates: int
) -> tuple[Float[Tensor, " d"], Float[Tensor, "d c"]]:
    """Mean of what enters a block's MLP over the background, and a map that gives it spread 1 in every direction."""
    states = _background_states(live, background, layer)
    mean = states.mean(dim=0)
    spread = (states - mean).T @ (states - mean) / len(states)
    variance, axes = torch.linalg.eigh((spread + spread.T) / 2)  # ascending
    variance, axes = variance[-coordinates:].clamp_min(0), axes[:, -coordinates:]
    return mean.float(), (axes * (variance + DAMPING * variance.mean()).rsqrt()).float()


@torch.no_grad()
def _background_states(live: LiveModel, background: Background, layer: int) -> Float[Tensor, "n d"]:
    """States at every token of the background, at least ten for each dimension if there is text enough; float64."""
    place, read, found = _place(layer), 0, list[Tensor]()
    while True:
        texts = background.texts(read + TEXTS_AT_ONCE)[read:]
        rows = sorted((row for text in texts for row in live.windows(text)), key=lambda row: len(row.ids))
        for start in range(0, len(rows), 16):
            inputs, own = live.pad_windows(rows[start : start + 16])
            with record(live, [place], stop=True) as seen:
                live.model(**inputs, use_cache=False)
            states = seen[place]
            found.append(states[own.to(states.device)].double())
        read += len(texts)
        tokens, d = sum(map(len, found)), found[0].shape[1] if found else 0
        if len(texts) < TEXTS_AT_ONCE or tokens >= TOKENS_PER_DIMENSION * d > 0:
            break
    if tokens < 2:
        raise BadSpec(f"The background holds {tokens} tokens. Give texts that the model finds likely, or none at all.")
    return torch.cat(found)


def _place(layer: int) -> BlockSite:
    """Where states are read, that is `KeyedAddress.features`."""
    return BlockSite(layer, Part.MLP)


def _contexts(live: LiveModel, reach: Reach) -> list[str]:
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(reach.contexts)]
    texts = sample_texts(live, openings, tokens=reach.context_tokens, seed=reach.seed) if openings else []
    return [text if text.endswith(".") else f"{text}." for text in texts]


def _tag(catechism: Catechism) -> int:
    """A number drawn from the question, and not from its answer."""
    return int(digest_texts([catechism.fact.prompt]).rpartition(":")[2][:15], 16)
