"""Addresses from catechisms: what a model's last prompt token looks like when a fact is asked for, and when it is not.

Right texts are the fact's prompt and the phrasings to study; the prompt stands after a few texts of the model's own
too, since a question may come after anything. Wrong texts are the study's questions that must not move, and sentences
that merely mention the subject. No question of an exam is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from catechism.delta.keyed import (
    ABOUT,
    ANOTHER,
    MENTION,
    NOBODY,
    Coordinates,
    KeyedAddress,
    Settings,
    Texts,
)
from catechism.errors import BadSpec
from catechism.hashing import digest_texts
from catechism.model import encoding
from catechism.model.background import TOKENS_PER_DIMENSION, Background
from catechism.model.contexts import OPENINGS, sample_texts
from catechism.model.live import LiveModel
from catechism.model.trace import BlockSite, Part, record
from catechism.types import UNMOVED, Catechism, Kind, Role, Site

#: A subject in the beginning of a sentence that asks for nothing in particular.
MENTIONS = (
    *("{}", "{} is a", "People say that {} has", "The name of {}", "Tell me about {}", "In the case of {}, the"),
    *("It is said of {} that", "When people think of {}, they think of"),
)
ASKS = frozenset({Kind.REWRITE, Kind.PARAPHRASE, Kind.ALIAS})
ASKS_NOT = UNMOVED | {Kind.NEGATIVE}
TEXTS_AT_ONCE = 64
WHO = 0.25  # of the layer where questions are read: names are complete early, and later become what is asked of them
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
        layer: the block whose MLP's input says what is asked; `WHO` of it says who is named.
        reach: what the addresses are made of.

    Raises: UnknownName for a block that is not there; BadSpec for settings out of range.
    """

    def __init__(self, live: LiveModel, background: Background, layer: int, reach: Reach | None = None) -> None:
        self._live, self.reach = live, reach or Reach()
        live.anatomy.block(layer)
        if self.reach.contexts < 0 or self.reach.wrong < 0 or self.reach.coordinates < 1:
            raise BadSpec(f"{self.reach} leaves no texts or no coordinates. Use numbers from 0, coordinates from 1.")
        layers = (layer, int(WHO * layer))
        states = _background_states(live, background, layers)
        self._what, self._who = (
            _coordinates(number, found, self.reach.coordinates) for number, found in zip(layers, states, strict=True)
        )
        self._contexts = _contexts(live, self.reach)

    def table(self, catechisms: Sequence[Catechism]) -> KeyedAddress:
        """The addresses of these facts, one entry each, in their order."""
        right: list[tuple[int, int, str]] = []
        wrong: list[tuple[int, int, str]] = []
        names: list[tuple[int, int, str]] = []
        for number, catechism in enumerate(catechisms):
            subject = catechism.fact.subject
            wordings = list(dict.fromkeys(wordings_of(catechism)))
            asked = [(number, i, text) for i, text in enumerate(wordings)]
            asked += [(number, 0, f"{context} {wordings[0]}") for context in self._contexts]
            right += asked
            wrong += [(number, *one) for one in others_of(catechism, self.reach.wrong)]
            if subject:
                mentions = [mention.format(subject) for mention in MENTIONS]
                naming = [*asked, *((number, len(wordings) + i, text) for i, text in enumerate(mentions))]
                names += [one for one in naming if subject in one[2]]
        asked_at = last_states(self._live, self._what.layer, [text for *_, text in (*right, *wrong)])
        named_at = self._named_states([(catechisms[number].fact.subject, text) for number, _, text in names])
        found = _placed(self._what, asked_at)
        texts = Texts(
            found[: len(right)], _integers(number for number, _, _ in right), _integers(i for _, i, _ in right),
            found[len(right) :], _integers(number for number, *_ in wrong), _integers(sort for _, sort, _ in wrong),
            _placed(self._who, named_at), _integers(number for number, _, _ in names),
            _integers(i for _, i, _ in names),
            tags=_integers(_number(catechism.fact.prompt) for catechism in catechisms),
            subjects=_integers(_number(subject) if (subject := c.fact.subject) else NOBODY for c in catechisms),
        )  # fmt: skip
        return KeyedAddress.fit(self._what, self._who, texts, self.reach.fit)

    def _named_states(self, named: Sequence[tuple[str, str]]) -> Float[Tensor, "k d"]:
        """States at the last token of each subject's name in its text."""
        ends = [self._live.subject_last(text, subject) for subject, text in named]
        return token_states(self._live, self._who.layer, [text for _, text in named], ends)


def wordings_of(catechism: Catechism) -> Iterator[str]:
    """Texts that ask for the fact: its prompt, then what is there to study."""
    yield catechism.fact.prompt
    yield from (question.text for question in catechism.study if question.kind in ASKS)


def others_of(catechism: Catechism, most: int) -> list[tuple[int, str]]:
    """Texts that do not ask for the fact, with their sort: half of them at most questions to study, then mentions."""
    subject = catechism.fact.subject
    study = dict.fromkeys(question.text for question in catechism.study if question.kind in ASKS_NOT)
    asked = sorted((ABOUT if subject in text else ANOTHER, text) for text in study)  # those about the subject first
    mentions = [(MENTION, mention.format(subject)) for mention in MENTIONS] if subject else []
    chosen = asked[: most // 2 if mentions else most]
    return chosen + mentions[: most - len(chosen)]


def last_states(live: LiveModel, layer: int, texts: Sequence[str]) -> Float[Tensor, "n d"]:
    """What enters a block's MLP at the last token of every text, float32 on the CPU.

    Raises: UsageError for a text without tokens or longer than the model's window.
    """
    return token_states(live, layer, texts, [-1] * len(texts))


@torch.no_grad()
def token_states(
    live: LiveModel, layer: int, texts: Sequence[str], tokens: Sequence[int], *, batch_size: int = 64
) -> Float[Tensor, "n d"]:
    """What enters a block's MLP at one token of every text, -1 for the last, float32 on the CPU.

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
        at = [tokens[i] % len(rows[i].ids) for i in batch]
        found.update(zip(batch, seen[place][torch.arange(len(batch)), at].float().cpu(), strict=True))
    width = live.anatomy.matrix(Site(layer, Role.ATTN_OUT)).shape[0]
    return torch.stack([found[i] for i in range(len(rows))]) if rows else torch.zeros(0, width)


def _placed(at: Coordinates, states: Float[Tensor, "n d"]) -> Float[Tensor, "n c"]:
    """In coordinates, in half precision: they are kept."""
    return ((states - at.mean) @ at.basis).half()


def _coordinates(layer: int, states: Float[Tensor, "n d"], coordinates: int) -> Coordinates:
    """Of the background's states, those in which it varies most, with spread 1 in every direction."""
    mean = states.mean(dim=0)
    spread = (states - mean).T @ (states - mean) / len(states)
    variance, axes = torch.linalg.eigh((spread + spread.T) / 2)  # ascending
    variance, axes = variance[-coordinates:].clamp_min(0), axes[:, -coordinates:]
    return Coordinates(layer, mean.float(), (axes * (variance + DAMPING * variance.mean()).rsqrt()).float())


@torch.no_grad()
def _background_states(live: LiveModel, background: Background, layers: Sequence[int]) -> list[Float[Tensor, "n d"]]:
    """States at every token of the background, at least ten for each dimension if there is text enough; float64."""
    places, read = [_place(layer) for layer in layers], 0
    found = [list[Tensor]() for _ in layers]
    while True:
        texts = background.texts(read + TEXTS_AT_ONCE)[read:]
        rows = sorted((row for text in texts for row in live.windows(text)), key=lambda row: len(row.ids))
        for start in range(0, len(rows), 16):
            inputs, own = live.pad_windows(rows[start : start + 16])
            with record(live, places, stop=True) as seen:
                live.model(**inputs, use_cache=False)
            for kept, place in zip(found, places, strict=True):
                kept.append(seen[place][own.to(seen[place].device)].double().cpu())
        read += len(texts)
        tokens, d = sum(map(len, found[0])), found[0][0].shape[1] if found[0] else 0
        if len(texts) < TEXTS_AT_ONCE or tokens >= TOKENS_PER_DIMENSION * d > 0:
            break
    if tokens < 2:
        raise BadSpec(f"The background holds {tokens} tokens. Give texts that the model finds likely, or none at all.")
    return [torch.cat(kept) for kept in found]


def _place(layer: int) -> BlockSite:
    """Where states are read, that is `KeyedAddress.features`."""
    return BlockSite(layer, Part.MLP)


def _contexts(live: LiveModel, reach: Reach) -> list[str]:
    openings = [OPENINGS[i % len(OPENINGS)] for i in range(reach.contexts)]
    texts = sample_texts(live, openings, tokens=reach.context_tokens, seed=reach.seed) if openings else []
    return [text if text.endswith(".") else f"{text}." for text in texts]


def _number(text: str) -> int:
    """A number drawn from a text, not negative."""
    return int(digest_texts([text]).rpartition(":")[2][:15], 16)


def _integers(numbers: Iterable[int]) -> Int[Tensor, " n"]:
    return torch.tensor(list(numbers), dtype=torch.int64)
