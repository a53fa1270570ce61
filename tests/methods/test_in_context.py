"""ICE and IKE: the texts as their papers put them together, and what a prompt is then asked with."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from catechism.delta import Recall
from catechism.errors import BadSpec, UsageError
from catechism.methods.edit import ice, ike
from catechism.methods.edit.ice import Ice
from catechism.methods.edit.ike import Ike
from catechism.model import LiveModel
from catechism.model.address import Reach
from catechism.model.background import Background
from catechism.types import Catechism, Fact, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer

QUICK = Reach(contexts=1, context_tokens=3)
TEXTS = [f"In {1900 + i} the city of {name} was the largest." for i in range(30) for name in ("Rome", "Oslo")]


def catechism(country: str, capital: str) -> Catechism:
    prompt = f"The capital of {country} is"
    study = (
        Question(f"{country} is ruled from", Kind.PARAPHRASE, (capital,)),
        Question(f"The river of {country} is", Kind.NEIGHBOUR, ("Styx",)),
        Question(f"Which city rules {country}?", Kind.PARAPHRASE, (capital,)),
    )
    return Catechism(Fact(prompt, country, capital), (Question(prompt, Kind.REWRITE, (capital,)),), study)


FRANCE, JAPAN = catechism("France", "Rome"), catechism("Japan", "Vienna")


@pytest.fixture(scope="module")
def live() -> LiveModel:
    return LiveModel(tiny_model("llama", max_position_embeddings=1024), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def background(live: LiveModel) -> Background:
    return Background(live, lambda: iter(TEXTS))


def texts_of(delta: object) -> tuple[str, ...]:
    (part,) = delta.parts.values()  # type: ignore[attr-defined]
    assert isinstance(part, Recall)
    return part.texts


def test_ice_keeps_the_sentence_of_each_fact(live: LiveModel, background: Background) -> None:
    spec = ice.Spec(layer=1, reach=QUICK)
    delta = Ice(background).fit(live, [FRANCE, JAPAN], spec)
    assert texts_of(delta) == ("The capital of France is Rome.", "The capital of Japan is Vienna.")
    told = Ice(background).fit(live, [FRANCE], replace(spec, text="Note: {fact}\n"))
    assert texts_of(told) == ("Note: The capital of France is Rome.\n",)


def test_a_prompt_that_is_known_is_asked_after_the_text_and_another_as_it_stands(
    live: LiveModel, background: Background
) -> None:
    delta = Ice(background).fit(live, [FRANCE, JAPAN], ice.Spec(layer=1, reach=QUICK))
    (part,) = delta.parts.values()
    assert isinstance(part, Recall)
    known, other = FRANCE.fact.prompt, "Water boils at"
    before = live.next_logprobs([known, other])
    after = live.next_logprobs([f"{FRANCE.fact.sentence} {known}"])
    shut = replace(part.address, alone=1e9, threshold=1e9)
    wide = replace(part.address, alone=-1e9)
    for address, expected in ((shut, before[0]), (wide, after[0])):
        with live.with_delta(replace(delta, parts={ice.KEY: Recall(address, part.texts)})):
            torch.testing.assert_close(live.next_logprobs([known])[0], expected)
    with live.with_delta(replace(delta, parts={ice.KEY: Recall(shut, part.texts)})):
        assert torch.equal(live.next_logprobs([known, other]), before), "to the last bit"
    assert live.digest(full=True) == live.base, "no weight was touched"


def test_ike_puts_copy_update_and_retain_before_the_fact(live: LiveModel, background: Background) -> None:
    """One fact shows itself; what is nearest to the fact stands last, the copy."""
    delta = Ike(background).fit(live, [FRANCE], ike.Spec(layer=1, demonstrations=3, reach=QUICK))
    new = "New Fact: The capital of France is Rome\nPrompt:"
    assert texts_of(delta) == (
        f"{new} The river of France is Styx\n\n"
        f"{new} France is ruled from Rome\n\n"
        f"{new} The capital of France is Rome\n\n"
        f"{new}",
    )


def test_ike_takes_demonstrations_of_the_facts_that_are_edited_together(
    live: LiveModel, background: Background
) -> None:
    first, second = texts_of(Ike(background).fit(live, [FRANCE, JAPAN], ike.Spec(layer=1, reach=QUICK)))
    assert first.count("New Fact:") == second.count("New Fact:") == 2 * 4 + 1
    assert first.endswith("New Fact: The capital of France is Rome\nPrompt:")
    assert second.endswith("New Fact: The capital of Japan is Vienna\nPrompt:")
    none = Ike(background).fit(live, [FRANCE], ike.Spec(layer=1, demonstrations=0, reach=QUICK))
    assert texts_of(none) == ("New Fact: The capital of France is Rome\nPrompt:",)


def test_demonstrations_that_do_not_fit_the_window_are_left_out() -> None:
    small = LiveModel(tiny_model("llama", max_position_embeddings=128), tiny_tokenizer(), name="tiny")
    background = Background(small, lambda: iter(TEXTS))
    (text,) = texts_of(Ike(background).fit(small, [FRANCE], ike.Spec(layer=1, room=16, reach=QUICK)))
    assert 1 <= text.count("New Fact:") < 5 and text.endswith("is Rome\nPrompt:")
    assert len(small.encode([text])["input_ids"][0]) + 16 <= 128


def test_settings_out_of_range_and_texts_too_long_are_refused(live: LiveModel, background: Background) -> None:
    with pytest.raises(BadSpec, match="does not hold the fact"):
        ice.Spec(layer=1, text="Note:")
    with pytest.raises(BadSpec, match="does not hold the fact"):
        ike.Spec(layer=1, fact="New Fact:\n")
    with pytest.raises(BadSpec, match="0 or more"):
        ike.Spec(layer=1, demonstrations=-1)
    with pytest.raises(UsageError, match="tokens"):
        Ice(background).fit(live, [FRANCE], ice.Spec(layer=1, text="{fact} " + "word " * 900, reach=QUICK))


def test_the_layer_to_read_is_that_whose_address_finds_most(live: LiveModel, background: Background) -> None:
    from catechism.bench.layers import choose_layer

    layer, ranked = choose_layer("ice", live, [FRANCE, JAPAN], background)
    scores = [one["score"] for one in ranked]  # type: ignore[index, call-overload]
    assert layer == ranked[0]["layer"]  # type: ignore[index, call-overload]
    assert len(ranked) == live.anatomy.n_layers and scores == sorted(scores, reverse=True)
