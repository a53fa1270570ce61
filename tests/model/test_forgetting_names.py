"""Names that are forgotten with their facts, and answers that are not to be forgotten too well."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch

from catechism.errors import BadSpec
from catechism.methods.forget.altpo import AltPO
from catechism.methods.forget.npo import NPO, Spec
from catechism.methods.forgetting import forgetter
from catechism.model import LiveModel
from catechism.model.adapters import Adapters
from catechism.model.forgetting.material import Material, forget_lines, material
from catechism.model.forgetting.naming import Named, named
from catechism.model.forgetting.objective import SLACK, Step
from catechism.model.forgetting.rows import Remembered
from catechism.model.forgetting.training import Training
from catechism.types import Forgetting, How
from tests.methods.forget_requests import FORGET, REQUEST, background, catechism, live_model

QUICK: Any = {"steps": 12, "every": 4, "rank": 4, "rates": (1e-2,), "alphas": (0.1,), "level": 1e-6, "batch": 6}


@cache
def live_of() -> LiveModel:
    return live_model()


def of(request: Forgetting) -> Named | None:
    prompts = [(line.prompt, line.catechism.fact.subject) for line in forget_lines(request)]
    return named(live_of(), prompts, request, seed=0)


def step_of(rows: Material, training: Training, adapters: Adapters) -> Step:
    numbers = tuple(range(len(rows.forget)))
    return Step(live_of(), adapters, rows, training, 0, numbers, (), {}, {"forget": Remembered(rows.forget)})


def test_the_names_of_those_of_whom_something_stays_are_left_alone() -> None:
    assert of(REQUEST) is not None
    also = tuple(catechism(f"{subject} was founded in", subject, "1200") for subject in ("France", "Vienna"))
    assert of(replace(REQUEST, retain=REQUEST.retain + also)) is None


def test_a_name_that_nothing_stands_before_is_not_asked_for() -> None:
    assert of(Forgetting((catechism("France is ruled from", "France", "Paris"),), REQUEST.retain)) is None


def test_what_is_wanted_lowers_a_names_own_tokens_and_leaves_what_others_begin_with() -> None:
    """Where "Francesca" stays, of "France" nothing but its end tells the two apart."""
    plain, beside = of(REQUEST), of(replace(REQUEST, retain=(*REQUEST.retain, catechism("So is", "Francesca", "Rome"))))
    assert plain is not None and beside is not None
    for found in (plain, beside):
        for one, own in zip(found.wanted, found.own, strict=True):
            assert torch.allclose(one.exp().sum(dim=-1), torch.ones(len(one)), atol=1e-5)
            assert not own[0]
    france = [i for i, name in enumerate(plain.rows.answers) if name == "France"]
    assert france and all(plain.own[i].sum() > beside.own[i].sum() for i in france)


def test_a_fit_that_forgets_names_makes_them_as_unlikely_as_those_never_read() -> None:
    live = live_of()

    def apart(names: float) -> float:
        delta = NPO(background(live)).fit(live, REQUEST, Spec(**QUICK, names=names))
        found = of(REQUEST)
        assert found is not None
        with live.with_delta(delta), torch.no_grad():
            return float(found.loss(live, range(len(found.rows))))

    assert apart(10.0) < 0.8 * apart(0.0)


def test_an_answer_is_lifted_only_from_below_its_level() -> None:
    live, training = live_of(), Training(**{**QUICK, "level": None}, lift=2.0)
    rows = material(live, REQUEST, training)
    adapters = Adapters(live, range(live.anatomy.n_layers), rank=2, seed=0)
    with adapters.attached():
        for above in (1.0, 0.0, -1.0):
            levels = rows.before.mean + SLACK - above
            moved = replace(rows, level=replace(rows.level, rows=levels))
            (lift,) = step_of(moved, training, adapters).lifted().values()
            assert lift.item() == pytest.approx(2.0 * max(0.0, -above), abs=1e-4)
        assert step_of(rows, replace(training, lift=0.0), adapters).lifted() == {}


@pytest.mark.parametrize("wrong", [{"lift": -1.0}, {"names": float("nan")}])
def test_weights_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(BadSpec):
        Training(**wrong)


def test_a_request_without_words_before_its_names_is_trained_all_the_same() -> None:
    live = live_of()
    request = Forgetting((replace(FORGET[0], fact=replace(FORGET[0].fact, subject="nobody")),), REQUEST.retain)
    info: Any = NPO(background(live)).fit(live, request, Spec(**QUICK, names=1.0)).info
    assert "names" not in info["training"]["steps"][0]


@pytest.mark.parametrize(
    ("facts", "few", "how", "terms"),
    [
        (3, 2, How.ERASE, set[str]()),
        (3, 3, How.ERASE, {"lift", "names"}),
        (3, 3, How.REPLACE, set[str]()),
        (1, 3, How.ERASE, set[str]()),
    ],
)
def test_altpo_forgets_names_and_lifts_only_where_few_facts_go_and_nothing_else_is_to_be_said(
    facts: int, few: int, how: How, terms: set[str]
) -> None:
    live, short = live_of(), {"steps": 1, "every": 1, "cooling": 0, "recalled": 0, "written": 0}
    request = replace(REQUEST, forget=FORGET[:facts], how=how, replacement="a lighthouse")
    info: Any = AltPO(background(live)).fit(live, request, AltPO.Spec(**{**QUICK, **short}, few=few)).info
    assert len(FORGET) == 3 and {"names", "lift"} & set(info["training"]["steps"][0]) == terms


@pytest.mark.parametrize("name", ["npo", "reglu", "rmu"])
def test_the_settings_are_those_of_every_method_that_descends_on_its_losses(name: str) -> None:
    live, method = live_of(), forgetter(name)
    spec = method.Spec(**{**QUICK, "steps": 1, "every": 1}, lift=1.0, names=1.0, tails=1.0)  # type: ignore[attr-defined]
    info: Any = method(background(live)).fit(live, REQUEST, spec).info
    assert {"lift", "names", "tails", "forget"} <= set(info["training"]["steps"][0])
