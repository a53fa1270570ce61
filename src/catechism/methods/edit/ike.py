"""IKE: demonstrations of what a new fact changes and what it leaves alone, then the fact, then the prompt.

Zheng et al., Can We Edit Factual Knowledge by In-Context Learning?, arXiv:2305.12740: no weight changes; the context
C = {c_1 ... c_k, f} shows a model that a fact is to be taken over (copy), said in other words (update), and kept to
itself (retain).

    y = argmax p(y | c_1 ... c_k, f, x),    c_i = (f_i, x_i, y_i)

| paper | here | shape |
|---|---|---|
| f = (x*, y*) | the fact's prompt and object | |
| c_i, copy | x_i = x*_i, y_i = y*_i | |
| c_i, update | x_i a phrasing to study, y_i = y*_i | |
| c_i, retain | x_i a question to study that must not move, y_i its answer | |
| k | `Spec.demonstrations` | |
| cos(f, f_i) | similarity of the prompts' states at the last token, about their mean, in block `layer` | |

Deviation: the paper draws demonstrations from a training set of other facts, by the similarity of sentence embeddings.
Here they are made from the facts that are edited together and from what there is to study for them, by the similarity
of the model's own states: nothing else is at hand, and no question of an exam is used. A fact alone shows itself.
Deviation: the paper puts C before every prompt. Here a gate decides, as with `ice`.
Deviation: what the context needs beyond the model's window is left out, the least similar demonstration first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest

import torch

from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.hashing import digest_json
from catechism.model import LiveModel
from catechism.model.address import ASKS, Reach, last_states
from catechism.model.background import Background
from catechism.model.encoding import rows
from catechism.model.recalling import recall
from catechism.types import UNMOVED, Catechism, Fact

SOURCE = "arXiv:2305.12740"
KEY = "#in-context"  # where the texts stand in a delta


@dataclass(frozen=True)
class Spec:
    """Settings.

    Attributes:
        layer: the block whose input the gate reads, and by which demonstrations are chosen.
        demonstrations: k, before each fact, at most.
        fact: how a fact begins, with ``{fact}`` for its sentence; between facts stands `between`.
        prompt: what stands before a prompt.
        room: tokens that are kept free in the model's window, for the prompt and its answer.
        reach: what the gate is fitted on.
        seed: unused; the common form of settings.
    """

    layer: int
    demonstrations: int = 16  # as EasyEdit
    fact: str = "New Fact: {fact}\n"  # as EasyEdit, and the two below
    prompt: str = "Prompt:"
    between: str = "\n\n"
    room: int = 64
    reach: Reach = Reach()
    seed: int = 0

    def __post_init__(self) -> None:
        if "{fact}" not in self.fact:
            raise BadSpec(f"fact={self.fact!r} does not hold the fact. Write '{{fact}}' where it is to stand.")
        if self.demonstrations < 0 or self.room < 1:
            raise BadSpec(
                f"demonstrations={self.demonstrations}, room={self.room}. Use 0 or more, and 1 token or more."
            )


class Ike:
    """The editor."""

    name = "ike"
    Spec = Spec

    def __init__(self, background: Background) -> None:
        self._background = background

    def fit(self, live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> Delta:
        """Demonstrations and facts, each with the prompts that they are put before. Raises what `recall` raises."""
        bare = [_stated(catechism.fact, spec) + spec.prompt for catechism in catechisms]
        part = recall(live, self._background, catechisms, bare, layer=spec.layer, reach=spec.reach)
        texts = [
            _shortened(live, own, [_shown(catechisms[i], spec) for i in near], spec)
            for own, near in zip(bare, _nearest(live, catechisms, spec), strict=True)
        ]
        facts = [digest_json(asdict(catechism.fact)) for catechism in catechisms]
        info = {"method": self.name, "spec": asdict(spec), "facts": facts}
        return Delta(live.base, {KEY: type(part)(part.address, tuple(texts))}, info)


def _stated(fact: Fact, spec: Spec) -> str:
    return spec.fact.replace("{fact}", f"{fact.prompt} {fact.object}")


def _shown(catechism: Catechism, spec: Spec) -> list[str]:
    """The demonstrations that one fact gives: copy, then update and retain in turn."""
    fact = catechism.fact
    update = [(q.text, fact.object) for q in catechism.study if q.kind in ASKS]
    retain = [(q.text, q.accept[0]) for q in catechism.study if q.kind in UNMOVED and q.accept]
    pairs = [(fact.prompt, fact.object)]
    pairs += [pair for both in zip_longest(update, retain) for pair in both if pair is not None]
    return [f"{_stated(fact, spec)}{spec.prompt} {asked} {answer}" for asked, answer in pairs]


def _nearest(live: LiveModel, catechisms: Sequence[Catechism], spec: Spec) -> list[list[int]]:
    """For each fact the numbers of all facts, the most similar first: itself, then the others."""
    states = last_states(live, spec.layer, [catechism.fact.prompt for catechism in catechisms]).double()
    states = torch.nn.functional.normalize(states - states.mean(dim=0), dim=1) if len(states) > 1 else states
    similar = (states @ states.T).fill_diagonal_(torch.inf)
    return similar.argsort(dim=1, descending=True, stable=True)[:, : 1 + spec.demonstrations].tolist()


def _shortened(live: LiveModel, own: str, shown: list[list[str]], spec: Spec) -> str:
    """At most k demonstrations that fit the window, one of each fact in turn, the least similar one first."""
    order = [one for turn in zip_longest(*shown) for one in turn if one is not None][: spec.demonstrations]
    while True:
        text = spec.between.join([*reversed(order), own])
        (row,) = rows(live.tokenizer, [text])
        if not order or len(row.ids) + spec.room <= live.max_tokens:
            return text
        order.pop()
