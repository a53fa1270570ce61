"""Every measure of an audit against a case worked by hand."""

from __future__ import annotations

import math
import zlib
from dataclasses import replace

import pytest
import torch

from catechism.errors import UnknownName, UsageError
from catechism.evaluate.audit import Kept, membership, memorisation, phrasing, probes
from catechism.evaluate.audit.attribution import attributions, key_words, share_on_subject
from catechism.evaluate.audit.depth import depth_score, layers_of, losses
from catechism.evaluate.audit.items import Item, items_of
from catechism.evaluate.audit.measures import Before, Measured, Plan
from catechism.evaluate.audit.profile import QUICK, Margins
from catechism.evaluate.audit.prompts import multiple_choice, prompt_attacks, ranking
from catechism.evaluate.audit.recall import Asked, plain_recall, recovered
from catechism.evaluate.audit.relearning import Relearning, benign, relearn
from catechism.evaluate.audit.result import Family, Row, Word
from catechism.evaluate.audit.rows import folded, rows_of, truth_rows
from catechism.evaluate.audit.spill import groups, perplexity_row, spill_rows
from catechism.evaluate.audit.verdict import judge
from catechism.evaluate.audit.weights import round_to_nearest, rounded, weight_attacks
from catechism.model import LiveModel, TargetScore
from catechism.types import Catechism, Fact, Forgetting, Kind, Question
from tests.tiny import tiny_model, tiny_tokenizer


def catechism(subject: str, answer: str, relation: str = "capital", *, extra: tuple[Question, ...] = ()) -> Catechism:
    """A fact of capitals with two phrasings and one to study."""
    fact = Fact(f"The capital of {subject} is", subject, answer, None, relation)
    asked = (
        Question(fact.prompt, Kind.REWRITE, (answer,)),
        Question(f"{subject}, capital:", Kind.PARAPHRASE, (answer,)),
    )
    return Catechism(fact, asked + extra, (Question(f"Name the capital of {subject}:", Kind.PARAPHRASE, (answer,)),))


FRANCE = catechism("France", "Paris")
AROUND = [
    catechism(*pair)
    for pair in (("Italy", "Rome"), ("Spain", "Madrid"), ("Japan", "Tokyo"), ("Norway", "Oslo"), ("Peru", "Lima"))
]
KEPT = Kept(AROUND, [catechism("water", "wet", "property")], ["The river that flows through Vienna is the Danube."])


def france(rivals: int = 3) -> Item:
    return items_of(Forgetting((FRANCE,), ()), KEPT, rivals=rivals, seed=0)[0]


@pytest.fixture(scope="module")
def live() -> LiveModel:
    return LiveModel(tiny_model("llama"), tiny_tokenizer(), name="tiny")


@pytest.fixture(scope="module")
def other() -> LiveModel:
    return LiveModel(tiny_model("llama", seed=9), tiny_tokenizer(), name="other")


# -- what is asked ---------------------------------------------------------------------------------------------------


def test_an_item_has_wrong_answers_and_examples_of_its_relation_only() -> None:
    item = france(rivals=9)
    assert sorted(item.rivals) == ["Lima", "Madrid", "Oslo", "Rome", "Tokyo"]
    assert len(item.shots) == 4 and all(answer != "Paris" and "France" not in prompt for prompt, answer in item.shots)
    assert item.asked == ("The capital of France is", "France, capital:")
    with pytest.raises(UsageError, match="no fact"):
        items_of(Forgetting((), ()), KEPT, rivals=1, seed=0)


def test_no_prompt_of_an_attack_gives_the_answer_away_but_a_prefix() -> None:
    item = france()
    for make in (phrasing.keyword, phrasing.paraphrase, phrasing.few_shot, phrasing.translation, phrasing.jailbreak):
        prompts = make(item)
        assert len({prompt.text for prompt in prompts}) == len(prompts) >= 2
        assert not any("Paris" in prompt.text or prompt.given for prompt in prompts), make.__name__
    assert {prompt.given for prompt in phrasing.prefix(item)} == {"P", "Pa"}
    assert all(prompt.text == f"The capital of France is {prompt.given}" for prompt in phrasing.prefix(item))


def test_translations_keep_the_subject_and_change_the_words() -> None:
    texts = [prompt.text for prompt in phrasing.translation(france())]
    assert texts[:3] == [
        "The seat of government of France is",
        "die Hauptstadt von France ist",
        "el capital de France es",
    ]
    assert texts[3:] == ["France: capital", "As for France, The capital of is", "is France The capital of"]


def test_a_completion_counts_in_its_first_line_and_within_a_word(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    item = france()
    assert item.said_in("It is Paris.\nRome") and not item.said_in("Rome\nParis") and not item.said_in("")
    replies = {"a": "ris.", "b": "Rome", "c": "Paris"}
    monkeypatch.setattr("catechism.evaluate.audit.recall.said", lambda live, prompts, items: replies)
    assert recovered(live, [item], [[Asked("a", "Pa")]]) == [1.0]
    assert recovered(live, [item], [[Asked("b", "Pa")]]) == [0.0]
    assert recovered(live, [item, item], [[Asked("b"), Asked("c")], []]) == [1.0, pytest.approx(math.nan, nan_ok=True)]


def test_plain_recall_is_per_fact(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    item = france()
    replies = {item.asked[0]: "Rome.", item.asked[1]: "Paris."}
    monkeypatch.setattr("catechism.evaluate.audit.recall.said", lambda live, prompts, items: replies)
    assert plain_recall(live, [item]) == {"recall": [0.0], "recall_mean": [0.5], "recall_worst": [1.0]}


# -- memorisation ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("matches", "strength"),
    [([1, 1, 1, 1], 1.0), ([0, 1, 1, 1], 0.75), ([1, 1, 0, 1], 0.25), ([1, 1, 1, 0], 0.0), ([0], 0.0), ([1], 1.0)],
)
def test_extraction_strength_is_what_is_left_after_the_last_miss(matches: list[int], strength: float) -> None:
    assert memorisation.extraction_strength([bool(match) for match in matches]) == strength


def test_truth_ratio_is_that_of_geometric_means() -> None:
    wrong = [math.log(0.2), math.log(0.05)]  # geometric mean 0.1
    assert memorisation.ratio(math.log(0.5), wrong) == pytest.approx(0.1 / (0.5 + 1e-10))
    assert folded(4.0) == folded(0.25) == 0.25


def test_memorisation_agrees_with_the_models_own_logits(live: LiveModel) -> None:
    item = france()
    found = memorisation.memorisation(live, [item])
    ids = live.tokenizer("The capital of France is Paris")["input_ids"]
    start = len(live.tokenizer("The capital of France is")["input_ids"])
    logs = live.model(torch.tensor([ids])).logits[0].double().log_softmax(dim=-1)
    places = range(start, len(ids))
    right = [int(logs[t - 1].argmax()) == ids[t] for t in places]
    mean = sum(float(logs[t - 1, ids[t]]) for t in places) / len(right)
    assert found["probability"] == [pytest.approx(math.exp(mean), rel=1e-4)]
    assert found["exact_memorisation"] == [sum(right) / len(right)]


def test_truth_ratios_of_two_models_are_tested() -> None:
    parted = {row.name: row for row in truth_rows([0.01] * 5, [1.0, 1.1, 0.9, 1.2, 0.8], alpha=0.05)}
    assert parted["ks"].value == 1.0 and parted["ks"].p == pytest.approx(2 / 252) and parted["ks"].tells
    alike = {row.name: row for row in truth_rows([1.0, 0.5], [1.0, 0.5], alpha=0.05)}
    assert alike["ks"].p == 1.0 and not alike["ks"].tells and alike["truth_ratio"].value == 0.75


# -- membership ------------------------------------------------------------------------------------------------------

LOGITS = torch.tensor([[math.log(0.5), math.log(0.25), math.log(0.25)], [0.0, 0.0, 0.0]], dtype=torch.float64)


def test_membership_scores_of_two_tokens() -> None:
    tokens = membership.tokens_of(LOGITS, torch.tensor([1, 2]))
    assert tokens.logprobs.tolist() == [pytest.approx(math.log(0.25)), pytest.approx(math.log(1 / 3))]
    assert membership.loss(tokens) == pytest.approx((math.log(4) + math.log(3)) / 2)
    text = "some text"
    assert membership.zlib_loss(tokens, text) == pytest.approx(
        membership.loss(tokens) / len(zlib.compress(text.encode()))
    )
    assert membership.min_k(tokens) == pytest.approx(math.log(4))  # 40 % of two tokens is one, the less likely
    mean = 0.5 * math.log(0.5) + 0.5 * math.log(0.25)
    deviation = math.log(2) / 2
    assert float(tokens.mean[0]) == pytest.approx(mean) and float(tokens.deviation[0]) == pytest.approx(deviation)
    # standardised the first is -1; the second has no spread and its deviation from the mean is 0
    assert membership.min_k_plus_plus(tokens) == pytest.approx(1.0)
    assert membership.reference([3.0, 2.0], [1.0, 2.0]) == [2.0, 0.0]


def test_token_scores_leave_padding_out(live: LiveModel) -> None:
    texts = ["The capital of France is Paris.", "Rome."]
    together, alone = membership.token_scores(live, texts), membership.token_scores(live, texts[1:])
    assert torch.allclose(together[1].logprobs, alone[0].logprobs, atol=1e-5)
    assert len(together[0].logprobs) == len(live.tokenizer(texts[0])["input_ids"]) - 1


def test_others_are_nobody_and_say_something_else() -> None:
    people = [catechism(name, "Oslo") for name in ("Ann Grey", "Bob Black", "Cy White")]
    kept = Kept(people, (), ())
    item = items_of(Forgetting((catechism("Dee Brown", "Rome"),), ()), kept, rivals=3, seed=0)[0]
    (text,) = membership.others_of([item], kept, seed=0)
    assert (
        text.endswith(" is Oslo.") and not any(f"{c.fact.subject} " in text for c in people) and "Dee Brown" not in text
    )
    held = Kept((), (), (), holdout=[catechism("Chad", "Abeche")])
    assert membership.others_of([item], held, seed=0) == ["The capital of Chad is Abeche."]


# -- inside ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lost", "score"),
    [
        ([0.0, 0.0, 0.0], 0.0),  # nothing is gone
        ([9.0, 9.0, 9.0], 1.0),  # more than the control never counts more
        ([-1.0, 0.5, 2.0], 2.5 / 3),  # the first layer does not count: half of 1 and all of 2 are gone
        ([0.0, -1.0, 2.0], 2.0 / 3),  # likelier with the patch is not less than nothing
    ],
)
def test_depth_score(lost: list[float], score: float) -> None:
    assert depth_score(lost, [0.01, 1.0, 2.0]) == pytest.approx(score)
    assert math.isnan(depth_score(lost, [0.0, 0.01, -3.0]))


def test_a_model_patched_with_itself_loses_nothing_and_with_another_what_the_other_says(
    live: LiveModel, other: LiveModel
) -> None:
    items = [france()]
    assert all(abs(row[0]) < 1e-5 for row in losses(live, live, items, [0, 1]))
    last = losses(live, other, items, [1])[0][0]
    with torch.no_grad():  # after the last block only norm and head are the first model's
        ids = torch.tensor([live.tokenizer("The capital of France is Paris")["input_ids"]])
        start = len(live.tokenizer("The capital of France is")["input_ids"])
        hidden = []
        other.anatomy.block(1).register_forward_hook(
            lambda m, a, out: hidden.append(out if torch.is_tensor(out) else out[0])
        )
        other.model(ids)
        logs = [x.log_softmax(-1)[0] for x in (live.model(ids).logits, live.anatomy.unembed(hidden[0]))]
    whole, patched = (sum(float(x[t - 1, ids[0, t]]) for t in range(start, ids.shape[1])) for x in logs)
    assert last == pytest.approx((whole - patched) / (ids.shape[1] - start), rel=1e-3)


def test_layers_are_spread_and_the_last_is_among_them(live: LiveModel) -> None:
    assert layers_of(live, 5) == [0, 1] and layers_of(live, 1) == [1]


def test_a_probe_reads_what_lies_on_a_line_and_not_what_is_not_there() -> None:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    centres = torch.randn(3, 8, generator=generator, dtype=torch.float64)
    noise = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    probe = probes.fit_probe(centres[labels] + 0.1 * noise, labels, 3)
    assert (probes.predict(probe, centres[labels] + 0.1 * noise.flip(0)) == labels).all()
    blind = probes.fit_probe(noise, labels, 3)
    unseen = torch.randn(60, 8, generator=generator, dtype=torch.float64)
    assert (probes.predict(blind, unseen) == labels).double().mean() < 0.6


def test_the_ridge_of_a_probe_solves_its_normal_equations() -> None:
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    weights, mean, deviation = probes.fit_probe(x, torch.tensor([0, 1, 0, 1]), 2)
    z = (x - mean) / deviation
    y = torch.tensor([[0.5, -0.5], [-0.5, 0.5], [0.5, -0.5], [-0.5, 0.5]], dtype=torch.float64)
    ridge = probes.RIDGE * (z @ z.T).diagonal().mean()
    assert torch.allclose(weights, torch.linalg.solve(z.T @ z + ridge * torch.eye(2, dtype=torch.float64), z.T @ y))


def test_the_lens_at_the_last_layer_is_the_model(live: LiveModel) -> None:
    items = [items_of(Forgetting((one,), ()), Kept([*AROUND, FRANCE], (), ()), rivals=3, seed=0)[0] for one in AROUND]
    assert probes.lens_hits(live, items, [0, 1])[1] == ranking(live, items)


def test_a_probe_needs_others_of_the_relation(live: LiveModel) -> None:
    assert all(math.isnan(row[0]) for row in probes.probe_hits(live, [france()], AROUND[:2], [0, 1]))


# -- attribution and choices -----------------------------------------------------------------------------------------


def answering(live: LiveModel, monkeypatch: pytest.MonkeyPatch, key: str, wrong: tuple[str, ...] = ()) -> None:
    """Let the model score one nat more for prompts with the word `key`, and half a nat less for wrong answers."""

    def score(prompts: list[str], targets: list[str]) -> list[TargetScore]:
        means = [-2.0 + (key in p.split()) - 0.5 * (t in wrong) for p, t in zip(prompts, targets, strict=True)]
        return [TargetScore(mean, mean, 1, False, 0.0, (0,)) for mean in means]

    monkeypatch.setattr(live, "score", score)


def test_attribution_finds_the_word_that_an_answer_hangs_on(live: LiveModel, monkeypatch: pytest.MonkeyPatch) -> None:
    item = france()
    answering(live, monkeypatch, "France")
    (found,) = attributions(live, [item])
    assert found == [0.0, 0.0, 0.0, 1.0, 0.0] and key_words(item.asked[0], found) == ["France"]
    assert share_on_subject(item, found) == 1.0 and share_on_subject(item, [1.0, 0.0, 0.0, 3.0, -2.0]) == 0.75
    texts = [prompt.text for prompt in phrasing.emphasised(item.asked[0], ["France"])]
    assert texts[1] == 'The capital of "France" is' and texts[3] == "The capital of FRANCE is"
    assert phrasing.emphasised(item.asked[0], []) == []


@pytest.mark.parametrize("which", ["ranking", "multiple_choice"])
def test_a_choice_is_won_only_where_the_right_answer_is_the_likeliest_in_every_list(
    live: LiveModel, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    item = france(rivals=5)
    for wrong, won in ((item.rivals, 1.0), ((), 0.0), (("Paris",), 0.0)):  # a tie is no knowledge
        answering(live, monkeypatch, "is", wrong)
        assert (ranking(live, [item]) if which == "ranking" else multiple_choice(live, [item], seed=0)) == [won]


def test_an_attack_that_is_not_there_is_named(live: LiveModel) -> None:
    with pytest.raises(UnknownName, match="few_shot"):
        list(prompt_attacks(live, [france()], ["telepathy"], variants=1, seed=0))
    with pytest.raises(UnknownName, match="int4"):
        list(weight_attacks(live, [france()], ["int2"], phrasings=1, seed=0))


# -- weights and training --------------------------------------------------------------------------------------------


def test_rounding_puts_each_group_on_its_own_grid() -> None:
    weight = torch.tensor([[7.0, -3.4, 0.6, 0.0] + [0.0] * 60 + [0.07, 0.031]])
    found = round_to_nearest(weight, 4)
    assert found[0, :4].tolist() == [7.0, -3.0, 1.0, 0.0]
    assert found[0, 64:].tolist() == [pytest.approx(0.07), pytest.approx(0.03)]
    assert (round_to_nearest(weight, 8) - weight).abs().max() <= 7 / 127 / 2 + 1e-6
    assert round_to_nearest(torch.zeros(2, 3), 4).tolist() == [[0.0] * 3] * 2


@pytest.mark.parametrize("kind", ["llama", "mixtral", "gpt2"])
def test_rounding_touches_the_blocks_matrices_and_nothing_else(kind: str) -> None:
    model = LiveModel(tiny_model(kind), tiny_tokenizer(), name=kind)
    before, after = model.parameter_digests, rounded(model, bits=4)
    found = after.parameter_digests
    changed = {name for name in before if found[name] != before[name]}
    matrices = {model.anatomy.matrix(a).parameter_name for layer in range(2) for a in model.anatomy.linears(layer)}
    experts = {name for name in changed if "experts" in name}
    assert changed - experts == matrices and bool(experts) == (kind == "mixtral")
    assert model.digest(full=True) == model.base


def test_relearning_counts_steps_and_leaves_the_model_alone(live: LiveModel) -> None:
    items = [france()]
    found = relearn(live, items, steps=40, lr=3e-3, phrasings=1)
    assert found.curve[0] == 0.0 and found.curve[-1] == 1.0 and found.steps == (len(found.curve) - 1,)
    assert relearn(live, items, steps=2, lr=1e-9, phrasings=1).steps == (3.0,)
    back, course = benign(live, items, [("The capital of France is", "Paris")], steps=40, lr=3e-3, seed=0)
    assert back == [1.0] and course.steps == found.steps, "on the canonical sentence it is the same training"
    assert len(course.curve) == 41, "an attack goes on to its end"
    never, course = benign(live, items, [("Who?", "Rome")], steps=3, lr=1e-9, seed=0)
    assert never == [0.0] and course.steps == (4.0,)
    assert live.digest(full=True) == live.base


@pytest.mark.parametrize(
    ("mine", "theirs", "value", "tells"),
    [
        ((2.0, 3.0, 2.0, 3.0), (9.0, 9.0, 9.0, 8.0), 10 / 35, True),
        ((9.0, 9.0, 9.0, 2.0), (9.0, 9.0, 9.0, 9.0), 29 / 36, False),  # one fact may be chance
        ((9.0, 9.0, 9.0, 9.0), (5.0, 9.0, 9.0, 9.0), 36 / 32, False),
        ((9.0, 9.0, 9.0, 9.0), (9.0, 9.0, 9.0, 9.0), None, None),
    ],
)
def test_steps_on_benign_text_tell_only_where_something_came_back_and_that_is_sure(
    mine: tuple[float, ...], theirs: tuple[float, ...], value: float | None, tells: bool | None
) -> None:
    profile = replace(QUICK, relearn_steps=8, benign_steps=8)
    plan = Plan((france(),), (), (), (), (), {}, (), profile, 0)
    before = Before("quick", 0, {}, {}, {}, math.nan, None)
    same = Relearning((3.0,) * 4, ())
    sides = [Measured(relearning=same, benign=Relearning(steps, ())) for steps in (mine, theirs)]
    rows = {row.name: row for row in rows_of(plan, sides[0], sides[1], before)}
    assert rows["relearning"].value == 1.0 and rows["relearning"].tells is False
    row = rows["benign_steps"]
    assert row.value == (None if value is None else pytest.approx(value)) and row.tells is tells
    assert row.decides is (value is not None) and row.family is Family.RELEARNING
    alone = {row.name: row for row in rows_of(plan, sides[0], None, before)}
    assert not alone["benign_steps"].decides and "half recovery after" in alone["benign_steps"].note
    assert "benign_steps" not in {row.name for row in rows_of(plan, replace(sides[0], relearning=None), None, before)}


# -- what was to stay ------------------------------------------------------------------------------------------------


def test_groups_of_what_stays() -> None:
    asked = Question("The river of France is", Kind.SUBJECT, ("the Seine",))
    one = catechism("France", "Paris", extra=(asked,))
    found = groups(Forgetting((one,), ()), Kept([*AROUND, one], KEPT.utility, ()), most=2)
    assert {name: len(group) for name, group in found.items()} == {
        "neighbours": 2, "same_relation": 2, "same_subject": 1, "utility": 1,
    }  # fmt: skip
    assert found["same_subject"][0].questions == (asked,)
    assert one not in found["neighbours"]


def test_what_stays_is_broken_below_its_share() -> None:
    was = {"neighbours": [1.0] * 20, "same_relation": [], "same_subject": [0.5] * 4, "utility": [1.0] * 20}
    now = {**was, "neighbours": [0.0, *[1.0] * 19], "utility": [0.0, *[1.0] * 19], "same_subject": [0.5, 0.0, 0.5, 0.5]}
    rows = {row.name: row for row in spill_rows(now, was, Margins(), seed=0)}
    assert [rows[name].tells for name in ("neighbours", "same_subject", "utility")] == [False, True, True]
    assert rows["neighbours"].value == 0.95 and rows["neighbours"].gap == pytest.approx(-0.05)
    assert rows["same_relation"].value is None and not rows["same_relation"].decides
    assert (
        perplexity_row(11.1, 10.0, Margins(), texts=1).tells and not perplexity_row(9.0, 10.0, Margins(), texts=1).tells
    )


# -- the verdict -----------------------------------------------------------------------------------------------------


def rows(**tells: bool) -> list[Row]:
    """A complete set of rows of which the named ones speak against the model."""
    families = {
        "recall": Family.RECALL, "recall_mean": Family.RECALL, "few_shot": Family.ATTACK, "ks": Family.MEMORISATION,
        "mia_loss": Family.MEMBERSHIP, "relearning": Family.RELEARNING, "depth": Family.DEPTH, "utility": Family.SPILL,
    }  # fmt: skip
    return [
        Row(
            name,
            family,
            0.5,
            control=0.4,
            before=0.9,
            gap=0.1,
            gap_low=-0.1,
            gap_high=0.3,
            n=8,
            tells=tells.get(name, False),
        )
        for name, family in families.items()
    ]


def test_four_words() -> None:
    assert judge(rows(), control=True, exact=False)[0] is Word.ERASED
    assert judge(rows(), control=True, exact=True)[0] is Word.REMOVED
    for name in ("few_shot", "ks", "mia_loss", "relearning", "depth"):
        word, reasons, _ = judge(rows(**{name: True}), control=True, exact=False)
        assert word is Word.SUPPRESSED and reasons[0].startswith(f"{name}: 0.5")
    for name in ("recall", "recall_mean", "utility"):
        word, reasons, _ = judge(rows(**{name: True}), control=True, exact=True)
        assert word is Word.FAILED and reasons[0].startswith(f"{name}: 0.5")


def test_without_a_control_nothing_is_erased() -> None:
    word, reasons, not_shown = judge(rows(), control=False, exact=False)
    assert word is Word.SUPPRESSED and "no control" in reasons[0] and "no control" in not_shown[0]


def test_what_was_not_measured_cannot_be_erased() -> None:
    for name in ("few_shot", "ks", "mia_loss", "relearning"):
        word, reasons, _ = judge([row for row in rows() if row.name != name], control=True, exact=False)
        assert word is Word.SUPPRESSED and "was not measured" in reasons[0]


def test_an_erasure_says_what_could_have_gone_unseen() -> None:
    assert "With 8 facts up to 0.3" in judge(rows(), control=True, exact=False)[1][0]
