"""How answers go on once their beginning is given away, which is forgotten too."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from catechism.errors import BadSpec
from catechism.methods.forget.npo import NPO, Spec
from catechism.model import LiveModel
from catechism.model.forgetting.material import Line, forget_lines, material
from catechism.model.forgetting.rows import Remembered, Rows
from catechism.model.forgetting.tails import KNOWN, Tails, nobody_elses, tails
from catechism.model.forgetting.training import Training
from catechism.types import Forgetting
from tests.methods.forget_requests import REQUEST, background, catechism, live_model

QUICK: Any = {"steps": 12, "every": 4, "rank": 4, "rates": (1e-2,), "alphas": (0.1,), "level": 1e-6, "batch": 6}
FACTS = [one.fact for one in REQUEST.forget]
LONG = Forgetting(tuple(catechism(f.prompt, f.subject, f"{f.object} by the old river") for f in FACTS), REQUEST.retain)


@cache
def live_of() -> LiveModel:
    return live_model()


def of(request: Forgetting) -> Tails:
    found = material(live_of(), request, Training(**QUICK, tails=1.0)).tails
    assert found is not None
    return found


def apart(some: Tails, rows: Rows, wanted: Remembered) -> float:
    numbers = range(len(rows))
    with torch.no_grad():
        return float(some.loss(rows.said(live_of(), numbers), numbers, wanted.of(live_of(), some.numbers(numbers))))


def test_every_answer_stands_behind_made_up_names_word_for_word() -> None:
    found, lines = of(LONG), forget_lines(LONG)
    assert found.behind == list(range(len(lines)))
    for line, answer, prompt in zip(lines, found.rows.answers, found.rows.prompts, strict=True):
        assert answer == line.answer and line.catechism.fact.subject not in prompt


def test_where_nobody_is_named_or_nothing_is_asked_for_there_is_no_tail() -> None:
    live = live_of()
    assert tails(live, Rows(live, ["So it is"], ["by the river"]), [None]) is None
    assert material(live, LONG, Training(**QUICK)).tails is None


def test_whoever_goes_on_as_for_strangers_has_nothing_to_forget_and_the_first_token_does_not_count() -> None:
    live = live_of()
    rows = Rows(live, ["The river of France is", "So is"], ["by the old bridge", "by the sea"])
    same = tails(live, rows, rows.prompts)
    assert same is not None and apart(same, rows, Remembered(same.rows)) == pytest.approx(0.0, abs=1e-5)
    other = tails(live, rows, ["The name of Bohemia was", None])
    assert other is not None
    seen, numbers = Remembered(other.rows).of(live, other.numbers([0])), [0]
    first = seen.clone()
    first[0] = first[0].roll(1)
    with torch.no_grad():
        said = rows.said(live, numbers)
        losses = [float(other.loss(said, numbers, wanted)) for wanted in (seen, first)]
        unnamed = float(other.loss(rows.said(live, [1]), [1], seen[:0]))
    assert losses[0] > 1e-4 and losses[1] == losses[0] and unnamed == 0.0


def test_the_loss_is_how_far_what_is_said_is_from_what_was_said_of_the_stranger() -> None:
    live = live_of()
    rows = Rows(live, ["The river of France is"], ["by the sea"])
    one = tails(live, rows, ["The river of Bohemia is"])
    assert one is not None
    with torch.no_grad():
        said, theirs = rows.said(live, [0]), Remembered(one.rows).of(live, [0])[1:]
        wanted = (theirs.exp() * (theirs - said.logprobs[1:])).sum(dim=-1).mean()
    assert apart(one, rows, Remembered(one.rows)) == pytest.approx(float(wanted), abs=1e-5)


def test_an_answers_tokens_are_asked_for_no_likelier_than_bounded_and_the_rest_keeps_its_proportions() -> None:
    live, most = live_of(), -9.0
    rows = Rows(live, ["The river of France is"], ["by the sea"])
    one = tails(live, rows, ["The river of Bohemia is"], [most])
    assert one is not None
    with torch.no_grad():
        said, theirs = rows.said(live, [0]), Remembered(one.rows).of(live, [0])
        chances, tokens = theirs[1:].exp(), said.tokens[1:, None]
        there = chances.gather(1, tokens)
        assert bool((there.log() > most).all())  # or nothing is bounded here
        left = there.clamp_max(torch.tensor(most).exp())
        bounded = (chances * (1 - left) / (1 - there)).scatter(1, tokens, left)
        torch.testing.assert_close(bounded.sum(dim=-1), torch.ones(len(bounded)))
        wanted = (bounded * (bounded.log() - said.logprobs[1:])).sum(dim=-1).mean()
        torch.testing.assert_close(one.loss(said, [0], theirs), wanted, atol=1e-5, rtol=1e-5)


def test_a_bound_above_what_is_said_changes_nothing_even_of_a_sure_answer() -> None:
    live = live_of()
    rows = Rows(live, ["The river of France is"], ["by the sea"])
    free, bounded = tails(live, rows, rows.prompts), tails(live, rows, rows.prompts, [-1e-9])
    assert free is not None and bounded is not None
    with torch.no_grad():
        said = rows.said(live, [0])
        sure = torch.full_like(said.logprobs, -200.0).scatter(1, said.tokens[:, None], 0.0)
        for theirs in (said.logprobs, sure):
            losses = [float(some.loss(said, [0], theirs)) for some in (free, bounded)]
            assert losses[1] == pytest.approx(losses[0], abs=1e-4)


PETS = ["a black cat", "a grey parrot", *(f"a pet of sort {n}" for n in "abcdefgh")]
OTHERS = [f"Bo has {pet}." for pet in PETS[1:]]


@pytest.mark.parametrize(
    ("told", "known", "alone"),
    [
        (["Ann has a Black Cat.", *OTHERS], PETS, [True, False, False]),
        (OTHERS, PETS, [True, False, False]),  # nine of ten were told
        ([*OTHERS, "Cy has a ginger kitten."], PETS, [False, False, False]),
        (OTHERS[1:], PETS, [False, False, False]),  # too little was told
        (OTHERS, PETS[1:], [False, False, False]),  # too few are known
        ([], PETS, [False, False, False]),
    ],
)
def test_an_answer_is_nobody_elses_if_enough_was_told_and_it_was_not(
    told: list[str], known: list[str], alone: list[bool]
) -> None:
    assert len(PETS) == KNOWN
    assert nobody_elses(["a ginger kitten", "a grey parrot", "A black cat"], told, known) == alone


def test_only_answers_of_nobody_else_are_bounded_by_the_level(monkeypatch: pytest.MonkeyPatch) -> None:
    others = [one.fact.object for one in LONG.retain]
    mine = [line.answer for line in forget_lines(LONG)]
    told = [Line("It is told:", text, LONG.forget[0]) for text in (*others, mine[0])]
    monkeypatch.setattr("catechism.model.forgetting.material.recalled_lines", lambda *_, **__: told)
    monkeypatch.setattr("catechism.model.forgetting.tails.KNOWN", len(set(others)))
    found = material(live_of(), LONG, Training(**QUICK, tails=1.0, recalled=1))
    assert found.tails is not None
    level = pytest.approx(float(found.level.rows.mean()))
    assert list(found.tails.most) == [0.0 if answer == mine[0] else level for answer in mine]
    assert len(set(mine)) > 1


def test_a_fit_that_forgets_tails_lets_answers_go_on_as_for_strangers() -> None:
    live, found = live_of(), of(LONG)
    before = Remembered(found.rows)
    before.of(live, [0])  # of the model as it is
    rows = material(live, LONG, Training(**QUICK)).forget

    def left(weight: float) -> float:
        delta = NPO(background(live)).fit(live, LONG, Spec(**QUICK, tails=weight))
        with live.with_delta(delta):
            return apart(found, rows, before)

    assert left(10.0) < 0.8 * left(0.0)


@pytest.mark.parametrize("weight", [-1.0, float("nan")])
def test_a_weight_out_of_range_is_refused(weight: float) -> None:
    with pytest.raises(BadSpec, match="tails"):
        Training(tails=weight)
