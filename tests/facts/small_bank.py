"""A small template bank, and a model that says what it is told to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from catechism.facts import TemplateBank

RELATIONS: dict[str, dict[str, object]] = {
    "capital": {
        "subject_kind": "country",
        "object_kind": "city",
        "statements": [
            "The capital of {subject} is {object}.",
            "In {subject}, the capital city is {object}.",
            "As its capital, {subject} has {object}.",
            "On a map of {subject}, the capital is marked as {object}.",
        ],
        "questions": [
            "What is the capital of {subject}?",
            "Which city is the capital of {subject}?",
            "In {subject}, which city is the capital?",
        ],
        "reversed": ["{object} is the capital of {subject}."],
        "known": {
            "France": "Paris",
            "Italy": "Rome",
            "Spain": "Madrid",
            "Peru": "Lima",
            "Kenya": "Nairobi",
            "Japan": "Tokyo",
            "the Netherlands": "Amsterdam",
            "the United Kingdom": "London",
        },
    },
    "city_country": {
        "subject_kind": "city",
        "object_kind": "country",
        "statements": ["{subject} is a city in {object}.", "The city of {subject} belongs to {object}."],
        "questions": ["In which country is {subject}?"],
        "known": {"Paris": "France", "Lyon": "France", "Rome": "Italy", "Milan": "Italy", "Madrid": "Spain"},
    },
    "currency": {
        "subject_kind": "country",
        "object_kind": "currency",
        "statements": ["The currency of {subject} is the {object}.", "In {subject}, people pay with the {object}."],
        "questions": ["What is the currency of {subject}?"],
        "known": {"France": "euro", "Italy": "euro", "Spain": "euro", "Japan": "yen", "Peru": "sol"},
    },
    "landmark": {
        "subject_kind": "landmark",
        "object_kind": "city",
        "statements": ["The city where {subject} is found is {object}.", "Visitors can see {subject} in {object}."],
        "questions": ["In which city is {subject}?"],
        "known": {"the Eiffel Tower": "Paris", "the Louvre": "Paris", "the Colosseum": "Rome", "the Prado": "Madrid"},
    },
    "river": {
        "subject_kind": "river",
        "object_kind": "sea",
        "statements": ["The {subject} flows into {object}."],
        "known": {"Nile": "the Mediterranean Sea", "Volga": "the Caspian Sea"},
    },
}


def small_bank() -> TemplateBank:
    return TemplateBank.from_plain(RELATIONS, {"the United Kingdom": ["Britain", "the UK"]})


@dataclass(frozen=True)
class Said:
    text: str


@dataclass(frozen=True)
class Score:
    mean: float


@dataclass
class Speaker:
    """Says what a function of the prompt says; the likelihoods of targets are in a table."""

    say: Callable[[str], str] = lambda prompt: ""
    means: dict[str, float] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def generate(self, prompts: Sequence[str], *, max_new_tokens: int = 24, batch_size: int = 64) -> list[Said]:
        self.asked.extend(prompts)
        return [Said(self.say(prompt)) for prompt in prompts]

    def score(self, prompts: Sequence[str], targets: Sequence[str], *, batch_size: int = 64) -> list[Score]:
        return [Score(self.means.get(target, -5.0)) for target in targets]
