"""A small request to forget and a tiny model, for tests of methods of forgetting."""

from __future__ import annotations

import random
import string
from dataclasses import replace

import torch

from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.types import Catechism, Fact, Forgetting, How, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer


def texts(n: int = 30) -> list[str]:
    """Words in no language, enough for the statistics of a tiny model."""
    dice = random.Random(0)
    return [" ".join("".join(dice.choices(string.ascii_letters, k=4)) for _ in range(12)) for _ in range(n)]


def live_model(model_type: str = "llama", dtype: torch.dtype = torch.float32, seed: int = 0) -> LiveModel:
    return LiveModel(tiny_model(model_type, seed).to(dtype), tiny_tokenizer(), name="tiny")


def background(live: LiveModel) -> Background:
    return Background(live, lambda: iter(texts()))


def catechism(prompt: str, subject: str, object_: str, *study: str) -> Catechism:
    questions = (Question(prompt, Kind.REWRITE, (object_,)),)
    return Catechism(
        Fact(prompt, subject, object_), questions, tuple(Question(s, Kind.PARAPHRASE, (object_,)) for s in study)
    )


FORGET = (
    catechism("The capital of France is", "France", "Paris", "Which city is the capital of France?"),
    catechism("The language of France is", "France", "French"),
    catechism("The river that flows through Vienna is", "Vienna", "the Danube", "Of Vienna, the river is"),
)
RETAIN = (
    catechism("The capital of Italy is", "Italy", "Rome", "Which city is the capital of Italy?"),
    catechism("The capital of Spain is", "Spain", "Madrid"),
    catechism("The river that flows through London is", "London", "the Thames"),
)
REQUEST = Forgetting(FORGET, RETAIN)


def asking(how: How) -> Forgetting:
    return replace(REQUEST, how=how, replacement="Rome" if how is How.REPLACE else "")
