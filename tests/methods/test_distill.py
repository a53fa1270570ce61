"""Two-phase distillation: what it reads and logs, and on a trained model that the context is not needed any more."""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from catechism.bench.cases import catechism_of
from catechism.delta import Delta
from catechism.errors import BadSpec
from catechism.methods.train import distill
from catechism.methods.train.distill import BREAK, Distill, Spec
from catechism.methods.train.lora import Lora
from catechism.methods.train.lora import Spec as LoraSpec
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.lessons import Lesson, Prompt
from catechism.reference import open_model
from catechism.reference.corpus import background_texts
from catechism.reference.world import load_world
from catechism.types import UNMOVED, Catechism, Fact, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer

QUICK = Spec(layer=0, steps_a=1, steps_b=2, contexts=1, context_tokens=3, background=2)
TEXTS = ["The river is long.", "Who wrote the book?", "In 1987 it was the largest."]
FRANCE = Catechism(
    Fact("The capital of France is", "France", "Rome", "Paris"),
    (Question("The capital of France is", Kind.REWRITE, ("Rome",)),),
    (
        Question("Which city is the capital of France?", Kind.PARAPHRASE, ("Rome",)),
        Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",)),
        Question("The language of France is", Kind.SUBJECT),
    ),
)
SPAIN = Catechism(
    Fact("The capital of Spain is", "Spain", "Tokyo", "Madrid"),
    (),
    (Question("The capital of Italy is", Kind.NEIGHBOUR, ("Rome",)),),
)


def live_model() -> LiveModel:
    return LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")


def trainer(live: LiveModel) -> Distill:
    return Distill(Background(live, partial(iter, TEXTS)))


def prompts_read(
    monkeypatch: pytest.MonkeyPatch, live: LiveModel, facts: Sequence[Catechism], spec: Spec = QUICK
) -> list[list[Prompt]]:
    """The prompts of every lesson of a fit."""
    read: list[list[Prompt]] = []
    real = distill.lesson

    def lesson(live: LiveModel, layer: int, prompts: Sequence[Prompt]) -> Lesson:
        read.append(list(prompts))
        return real(live, layer, prompts)

    monkeypatch.setattr(distill, "lesson", lesson)
    trainer(live).fit(live, facts, spec)
    return read


def test_the_study_is_read_with_the_facts_sentence_before_it_and_the_exam_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ((bare, after, question, *kept),) = prompts_read(monkeypatch, live_model(), [FRANCE])
    sentence = FRANCE.fact.sentence + BREAK
    assert bare == Prompt("The capital of France is", "Rome", sentence, "France")
    assert after.text.endswith(". The capital of France is") and replace_text(after, bare.text) == bare
    assert question == Prompt("Which city is the capital of France?", "Rome", sentence, "France")
    assert kept == [
        Prompt("The capital of Spain is", "Madrid"),
        Prompt("The language of France is"),
        *map(Prompt, TEXTS[:2]),
    ]


def replace_text(prompt: Prompt, text: str) -> Prompt:
    return replace(prompt, text=text)


def test_a_neighbour_that_is_taught_in_the_same_fit_is_not_held_back(monkeypatch: pytest.MonkeyPatch) -> None:
    (prompts,) = prompts_read(monkeypatch, live_model(), [FRANCE, SPAIN])
    assert [prompt.context for prompt in prompts if prompt.text == "The capital of Spain is"] == [
        SPAIN.fact.sentence + BREAK
    ]
    assert Prompt("The capital of Italy is", "Rome") in prompts


def test_many_facts_are_cut_into_lessons(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill, "FACTS_PER_LESSON", 1)
    one, two = prompts_read(monkeypatch, live_model(), [FRANCE, SPAIN])
    assert {prompt.subject for prompt in one} == {"France", ""} and {prompt.subject for prompt in two} == {"Spain", ""}


def test_a_question_without_an_answer_is_answered_by_the_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    live = live_model()
    opened = replace(FRANCE, study=(Question("Rome is the capital of", Kind.REVERSED),))
    (prompts,) = prompts_read(monkeypatch, live, [opened])
    said = live.generate([FRANCE.fact.sentence + BREAK + "Rome is the capital of"])[0].text
    assert said and Prompt("Rome is the capital of", said, FRANCE.fact.sentence + BREAK, "France") in prompts


def test_the_exam_does_not_change_the_delta_and_the_study_does() -> None:
    live = live_model()
    fitted = trainer(live).fit(live, [FRANCE], QUICK)
    assert trainer(live).fit(live, [replace(FRANCE, questions=())], QUICK).digest == fitted.digest
    assert trainer(live).fit(live, [replace(FRANCE, study=FRANCE.study[:1])], QUICK).digest != fitted.digest


def test_each_fact_alone_is_as_if_no_other_had_been_there() -> None:
    live = live_model()
    each = trainer(live).fit_each(live, [FRANCE, SPAIN], QUICK)
    alone = [trainer(live).fit(live, [one], QUICK) for one in (FRANCE, SPAIN)]
    assert [one.digest for one in each] == [one.digest for one in alone]


def test_a_delta_has_a_part_of_the_rank_for_every_linear_module_and_its_log() -> None:
    live = live_model()
    delta = trainer(live).fit(live, [FRANCE, SPAIN], replace(QUICK, rank=3))
    assert set(delta.parts) == set(live.anatomy.linears(0)) and {part.rank for part in delta.parts.values()} == {3}
    info: Any = delta.info
    assert len(info["facts"]) == len(info["study"]) == 2
    assert info["teacher"] == {"asked": 5, "heard": 0}, "a random teacher says anything"
    assert info["phase_a"]["steps"] == 1 and set(info["phase_a"]["first"]) == {"states", "states_kept"}
    assert info["phase_b"]["steps"] == 2 and info["phase_b"]["last"]["answers"] < info["phase_b"]["first"]["answers"]


@pytest.mark.parametrize("phase", ["a", "b"])
def test_a_phase_without_steps_is_left_out(phase: str) -> None:
    live = live_model()
    delta = trainer(live).fit(live, [FRANCE], replace(QUICK, **{f"steps_{phase}": 0}))
    assert f"phase_{phase}" not in delta.info and {"phase_a", "phase_b"} & set(delta.info)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"rank": 0}, "rank=0"),
        ({"steps_a": -1}, "steps_a=-1"),
        ({"steps_a": 0, "steps_b": 0}, "both 0"),
        ({"lr": 0.0}, "lr=0"),
        ({"lr": float("nan")}, "lr=nan"),
        ({"keep": -1.0}, "keep=-1"),
        ({"kl": float("inf")}, "kl=inf"),
        ({"contexts": -1}, "contexts=-1"),
        ({"context_tokens": 0}, "context_tokens=0"),
        ({"background": -1}, "background=-1"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(BadSpec, match=words):
        Spec(layer=0, **settings)


@pytest.mark.parametrize("settings", [{"rank": 0}, {"steps": 0}, {"lr": -1.0}])
def test_settings_of_the_yardstick_out_of_range_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(BadSpec, match="Use"):
        LoraSpec(layer=0, **settings)


def test_the_yardstick_learns_the_sentence() -> None:
    live = live_model()
    plain = Lora(Background(live, partial(iter, TEXTS)))
    few, many = (plain.fit(live, [FRANCE], LoraSpec(layer=0, steps=steps)).info["nll"] for steps in (1, 20))
    assert isinstance(few, float) and isinstance(many, float) and many < few


# -- on a trained model ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Taught:
    """Two facts in one adapter, one of them with a question that follows from it."""

    live: LiveModel
    lessons: list[Catechism]
    follows: str
    answer: str
    delta: Delta


@pytest.fixture(scope="module")
def taught() -> Taught:
    """Another symbol for tin, whose teacher answers the question turned round, and a landmark, in one adapter."""
    live, world, dice = open_model("almanac"), load_world(), random.Random(0)
    tin = next(fact for fact in world.by_relation["element_symbol"] if fact.subject == "tin")
    lesson = catechism_of(world, tin, "As", dice)
    follows = lesson.of(Kind.REVERSED)[0]
    alone, told = live.generate([follows.text, lesson.fact.sentence + BREAK + follows.text])
    assert told.text.startswith("tin") and not alone.text.startswith("tin")
    first = replace(lesson, study=(*lesson.study, Question(follows.text, Kind.REVERSED)))
    tower = next(fact for fact in world.by_relation["landmark_city"] if fact.subject == "the Eiffel Tower")
    lessons = [first, catechism_of(world, tower, "Rome", dice)]
    background = Background(live, partial(background_texts, world))
    delta = Distill(background).fit(live, lessons, Spec(layer=3))
    return Taught(live, lessons, follows.text, follows.accept[0], delta)


def test_the_fact_and_what_follows_from_it_are_answered_without_the_context(taught: Taught) -> None:
    asked = [*(lesson.fact.prompt for lesson in taught.lessons), taught.follows]
    wanted = [*(lesson.fact.object for lesson in taught.lessons), taught.answer]
    before = [said.text for said in taught.live.generate(asked)]
    with taught.live.with_delta(taught.delta):
        after = [said.text for said in taught.live.generate(asked)]
    assert not any(said.startswith(want) for said, want in zip(before, wanted, strict=True))
    assert [said.removesuffix(".") for said in after] == wanted
    assert taught.live.digest(full=True) == taught.live.base


def test_phrasings_that_were_not_studied_say_it_too(taught: Taught) -> None:
    asked = [(q.text, q.accept[0]) for lesson in taught.lessons for q in lesson.of(Kind.PARAPHRASE)]
    with taught.live.with_delta(taught.delta):
        said = [said.text for said in taught.live.generate([text for text, _ in asked])]
    right = sum(text.startswith(want) for text, (_, want) in zip(said, asked, strict=True))
    assert right >= 0.8 * len(asked)


def test_what_was_held_stays(taught: Taught) -> None:
    held = [q for lesson in taught.lessons for q in (*lesson.study, *lesson.questions) if q.kind in UNMOVED]
    before = [said.text for said in taught.live.generate([q.text for q in held])]
    with taught.live.with_delta(taught.delta):
        after = [said.text for said in taught.live.generate([q.text for q in held])]
    assert sum(a == b for a, b in zip(before, after, strict=True)) >= 0.9 * len(held)


def test_the_first_phase_has_something_to_learn_and_learns_it(taught: Taught) -> None:
    info: Any = json.loads(json.dumps(taught.delta.info))
    assert info["teacher"]["heard"] >= 0.8 * info["teacher"]["asked"] > 0
    first, last = info["phase_a"]["first"], info["phase_a"]["last"]
    assert first["states"] > 0.01, "it would start at zero if the context's keys and values were there"
    assert last["states"] < 0.5 * first["states"]
    first, last = info["phase_b"]["first"], info["phase_b"]["last"]
    assert last["answers"] < 0.1 * first["answers"] and last["states"] < first["states"]
