"""A model on the bench: with its statistics, its template bank and the methods that work on it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from itertools import islice

from catechism.delta import Delta
from catechism.facts.bank import TemplateBank, prompt_of
from catechism.facts.endpoint import Endpoint, EndpointWriter
from catechism.facts.self_writer import SelfWriter
from catechism.facts.synthesis import Writer, lesson_of
from catechism.locate.layers import PILOTS, rank_layers
from catechism.methods import Method, method
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.reference import SHIPPED, open_model
from catechism.reference.corpus import background_texts, held_out_prose
from catechism.reference.world import World, load_world
from catechism.service.served import Note, Served
from catechism.settings import Settings
from catechism.types import Fact, Locus, Role

HELD_OUT_TEXTS = 16


class Workbench:
    """An open model with what it takes to teach it. Nothing here changes the model for longer than a `with` block.

    Args:
        name: a shipped model, a folder, or a hub name.
        settings: device and cache.
        seed: of texts that the model writes about itself.
    """

    def __init__(self, name: str, settings: Settings, *, seed: int = 0) -> None:
        self.name = name
        self.live: LiveModel = open_model(name, device_map=settings.device)
        texts = partial(background_texts, load_world()) if name in SHIPPED else None
        self.background = Background(self.live, texts, cache=settings.cache, seed=seed)
        self.settings = settings
        self._methods: dict[str, Method] = {}

    @cached_property
    def bank(self) -> TemplateBank:
        """How the Almanac says things. Its phrasings serve any model that reads English; what is known is its own."""
        return bank_of(load_world())

    @cached_property
    def writers(self) -> tuple[Writer, ...]:
        """Who writes phrasings where the bank has few: the configured endpoint, then the model itself."""
        endpoint, model = self.settings.endpoint, self.settings.endpoint_model
        if endpoint is None:
            return (SelfWriter(self.live),)
        asked = EndpointWriter(Endpoint(endpoint, model or "", self.settings.endpoint_key or ""))
        return (asked, SelfWriter(self.live))

    @cached_property
    def layers(self) -> list[Locus]:
        """Where closed-form edits go on this model, measured once on well-known subjects; none without a dense MLP."""
        if not self.live.anatomy.sites(Role.MLP_OUT):
            return []
        known = [relation for relation in self.bank.relations.values() if relation.known]
        facts = [
            Fact(prompt_of(relation.statements[0], subject), subject, answer)
            for relation in known
            for subject, answer in islice(relation.known.items(), 1 + PILOTS // len(known))
        ]
        return rank_layers(self.live, [lesson_of(fact) for fact in facts[:PILOTS]], self.background)

    @cached_property
    def held_out(self) -> list[str]:
        """Plain prose whose perplexity an edit must not raise."""
        return held_out_prose(HELD_OUT_TEXTS)

    def method(self, name: str) -> Method:
        """A method on this model, made once. Raises UnknownName."""
        if name not in self._methods:
            self._methods[name] = method(name)(self.background)
        return self._methods[name]

    @contextmanager
    def serving(self, deltas: Sequence[Delta], notes: Sequence[Note] = ()) -> Iterator[Served]:
        """The model with deltas on it and notes beside it, for the body only."""
        applied = []
        try:
            applied += [self.live.apply(delta) for delta in deltas]
            yield Served(self.live, tuple(notes))
        finally:
            for one in reversed(applied):
                self.live.revert(one)


def bank_of(world: World) -> TemplateBank:
    """The Almanac's relations as a template bank."""
    return TemplateBank.from_plain(
        {
            name: {
                "statements": relation.statements,
                "questions": relation.questions,
                "reversed": relation.reversed,
                "subject_kind": relation.subject_kind,
                "object_kind": relation.object_kind,
                "known": {fact.subject: fact.object for fact in world.by_relation[name]},
            }
            for name, relation in world.relations.items()
        }
    )
