from __future__ import annotations

from itertools import pairwise

import pytest

from catechism.errors import UsageError
from catechism.evaluate.interview import MIN_NEW_TOKENS, catechism_key, interview, join
from catechism.types import Catechism, Fact, Kind, Question
from tests.evaluate.fake import FakeModel


def catechism(subject: str = "France", new: str = "Lyon", old: str | None = "Paris") -> Catechism:
    fact = Fact(f"The capital of {subject} is", subject, new, old)
    wrong = () if old is None else (old,)
    return Catechism(
        fact,
        (
            Question(fact.prompt, Kind.REWRITE, (new,), wrong),
            Question(f"{subject}'s capital is", Kind.PARAPHRASE, (new,), wrong),
            Question("The capital of Spain is", Kind.NEIGHBOUR, ("Madrid",)),
            Question("The capital of Italy is", Kind.NEIGHBOUR),
            Question("Water boils at", Kind.UNRELATED),
        ),
    )


def test_a_prompt_that_catechisms_share_is_asked_once() -> None:
    live = FakeModel({"Water boils at": " 100 degrees ", "The capital of Japan is": "Kyoto"})
    found = interview(live, [catechism(), catechism("Japan", "Kyoto", "Tokyo")])
    assert len(live.asked) == len(set(live.asked)) == 7
    assert found.answers == (("", "", "", "", "100 degrees"), ("Kyoto", "", "", "", "100 degrees"))
    assert found.rounds == (0, 0)
    assert len(live.scored) == len(set(live.scored))


def test_rewrites_and_paraphrases_are_scored_against_the_old_object_and_neighbours_against_their_own() -> None:
    live = FakeModel(scores={("The capital of Spain is", "Madrid"): -0.5, ("The capital of France is", "Lyon"): -0.2})
    (forced,) = interview(live, [catechism()]).forced
    assert forced[0] is not None and (forced[0].new, forced[0].old, forced[0].match) == (-0.2, -5.0, True)
    assert forced[1] is not None and forced[1].old == -5.0
    assert forced[2] is not None and forced[2].old == -0.5
    assert forced[3:] == (None, None)


def test_without_an_old_object_there_is_no_rival() -> None:
    (forced,) = interview(FakeModel(), [catechism(old=None)]).forced
    assert forced[0] is not None and forced[0].old is None


def test_every_answer_has_the_same_budget_and_long_objects_get_room() -> None:
    live = FakeModel()
    assert interview(live, [catechism()]).max_new_tokens == MIN_NEW_TOKENS
    long = interview(live, [catechism(), catechism("Japan", "x" * 200)]).max_new_tokens
    assert long == 108
    assert interview(live, [catechism()], max_new_tokens=3).max_new_tokens == 3
    assert live.budgets == [MIN_NEW_TOKENS, 108, 3]
    with pytest.raises(UsageError, match="max_new_tokens is 0"):
        interview(live, [catechism()], max_new_tokens=0)


def test_no_catechisms_give_an_empty_interview() -> None:
    live = FakeModel()
    assert interview(live, []).answers == ()
    assert live.budgets == []


def test_joined_interviews_are_rounds() -> None:
    live = FakeModel()
    one, two = interview(live, [catechism()]), interview(live, [catechism("Japan"), catechism("Peru")])
    both = join([one, two, one])
    assert both.rounds == (0, 1, 1, 2)
    assert both.keys == (*one.keys, *two.keys, *one.keys)
    with pytest.raises(UsageError, match=r"budgets \[5, 24\]"):
        join([one, interview(live, [catechism()], max_new_tokens=5)])
    with pytest.raises(UsageError, match="at least one"):
        join([])


def test_the_key_tells_catechisms_apart() -> None:
    base = catechism()
    others = [catechism("Japan"), catechism(new="Nice"), catechism(old=None), Catechism(base.fact, base.questions[1:])]
    keys = sorted(catechism_key(c) for c in [base, *others])
    assert all(a != b for a, b in pairwise(keys))
    assert catechism_key(base) == catechism_key(catechism())


def test_a_live_model_can_be_interviewed() -> None:
    from catechism.model import LiveModel
    from tests.tiny import tiny_model, tiny_tokenizer

    live = LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")
    found = interview(live, [catechism()], max_new_tokens=4)
    assert found == interview(live, [catechism()], max_new_tokens=4)
    assert found.answers[0][0] == live.generate(["The capital of France is"], max_new_tokens=4)[0].text
    forced = found.forced[0][0]
    assert forced is not None and forced.old is not None and forced.new < 0 and forced.old < 0
