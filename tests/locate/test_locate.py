"""The ranking on a budget: it finds what was planted, and every number in it is that of the measurement it names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from catechism.errors import ArchitectureMismatch, BadFact, BadSpec, WrongBase
from catechism.hashing import canonical_json
from catechism.locate.layers import rank_layers
from catechism.locate.locate import ENOUGH, Budget, locate
from catechism.locate.patching import Where, estimate_gains, patch_gains
from catechism.locate.tracing import Tracing, trace_cause
from catechism.model import BlockSite, LiveModel, Part
from catechism.model.background import Background
from catechism.reference import open_model
from catechism.types import Catechism, Fact, Locus, Role, Site
from tests.locate.planted import FACT, LAYERS, background, reads_its_context_in, tiny, untouched

SMALL = Tracing(samples=2)
OTHER = Fact("The capital of the country of Spain", "Spain", "the", "a")


def lesson(fact: Fact) -> Catechism:
    return Catechism(fact, ())


@pytest.mark.parametrize("layer", range(LAYERS))
@pytest.mark.parametrize(("model_type", "confirm"), [("llama", 2 * LAYERS), ("gpt_neox", 2), ("gptj", 2)])
def test_the_only_layer_that_reads_the_context_is_found(model_type: str, confirm: int, layer: int) -> None:
    live = tiny(model_type)
    fact = reads_its_context_in(live, layer)
    live = LiveModel(live.model, live.tokenizer, name="planted")  # its base is the planted model
    ranking = locate(live, lesson(fact), background(live), budget=Budget(confirm, SMALL))
    assert ranking.teacher > ranking.before
    first = ranking.loci[0]
    assert first.site.layer == ranking.distill == layer
    assert first.evidence["confirmed"] == 1.0
    if confirm == 2:  # the closed form's site has one place, so the cheap score alone found the other
        assert first.site.role is Role.ATTN_OUT and first.evidence["cheap"] == 1.0
    assert untouched(live) and live.digest(full=True) == live.base


def test_a_ranking_holds_the_numbers_of_the_measurements() -> None:
    live, budget = tiny(), Budget(confirm=3, tracing=SMALL)
    lessons = [lesson(FACT), lesson(OTHER)]
    facts = [FACT, OTHER]
    ranking = locate(live, lessons, background(live), budget=budget)
    assert len(ranking.loci) == 2 * LAYERS
    flags = [locus.evidence["confirmed"] for locus in ranking.loci]
    assert flags == [1.0] * 3 + [0.0] * (2 * LAYERS - 3)
    confirmed, rest = ranking.loci[:3], ranking.loci[3:]
    for group in (confirmed, rest):
        assert [locus.score for locus in group] == sorted((locus.score for locus in group), reverse=True)
    for locus in ranking.loci:
        part = Part.ATTENTION if locus.site.role is Role.ATTN_OUT else Part.MLP
        where = {"places": [BlockSite(locus.site.layer, part)], "wheres": [Where.SUBJECT, Where.LAST]}
        guess = [sum(x) / 2 for x in zip(*estimate_gains(live, facts, **where), strict=True)]
        assert locus.evidence["estimate_subject"] == pytest.approx(guess[0], rel=1e-3, abs=1e-5)
        assert locus.evidence["estimate_last"] == pytest.approx(guess[1], rel=1e-3, abs=1e-5)
        if locus in rest:
            assert locus.score == max(locus.evidence["estimate_subject"], locus.evidence["estimate_last"])
            continue
        gains = [[gain.logprob_gain for gain in row] for row in patch_gains(live, facts, **where)]
        subject, last = (sum(x) / 2 for x in zip(*gains, strict=True))
        assert locus.evidence["logprob_gain_subject"] == pytest.approx(subject, rel=1e-3, abs=1e-5)
        assert locus.evidence["logprob_gain_last"] == pytest.approx(last, rel=1e-3, abs=1e-5)
        assert locus.score == pytest.approx(max(subject, last), rel=1e-3, abs=1e-5)


def test_the_closed_form_is_the_best_of_the_layers_and_is_always_confirmed() -> None:
    live = tiny()
    layers = rank_layers(live, [lesson(FACT), lesson(OTHER)], background(live))
    ranking = locate(live, lesson(FACT), background(live), budget=Budget(confirm=1, tracing=SMALL), layers=layers)
    assert ranking.closed_form == layers[0]
    assert ranking.loci[0].site == layers[0].site and ranking.loci[0].evidence["confirmed"] == 1.0
    for locus in ranking.loci:
        if locus.site.role is Role.MLP_OUT:
            measured = next(other for other in layers if other.site == locus.site)
            assert locus.evidence["separability"] == measured.score
            assert locus.evidence["same_subject"] == measured.evidence["same_subject"]
    # without them they are measured on the facts themselves
    alone = locate(live, lesson(FACT), background(live), budget=Budget(confirm=1, tracing=SMALL))
    assert alone.closed_form == rank_layers(live, [lesson(FACT)], background(live))[0]


def test_distillation_goes_to_the_first_block_that_brings_enough() -> None:
    live = tiny()
    ranking = locate(live, lesson(FACT), background(live), budget=Budget(confirm=1, tracing=SMALL))
    assert [gain.place for gain in ranking.blocks] == [BlockSite(layer) for layer in range(LAYERS)]
    (row,) = patch_gains(live, [FACT], places=[BlockSite(n) for n in range(LAYERS)], wheres=[Where.PROMPT])
    gains = [gain.logprob_gain for gain in row]
    assert [gain.logprob_gain for gain in ranking.blocks] == pytest.approx(gains, rel=1e-3, abs=1e-5)
    bar = ENOUGH * max(gains) if max(gains) > 0 else max(gains)
    assert ranking.distill == next(n for n, gain in enumerate(gains) if gain >= bar - 1e-6)


def test_narrowness_is_the_share_that_one_mlp_at_the_subject_restores() -> None:
    live = open_model("almanac")
    fact = Fact("The capital of France is", "France", "Rome", "Paris")
    trace = trace_cause(
        live, fact.prompt, fact.subject, "Paris", part=Part.MLP, subject_end_only=True, spec=Budget().tracing
    )
    assert trace.total > 0.1
    shares = [row[trace.subject[1]] / trace.total for row in trace.effects]
    measured = [Locus(Site(2, Role.MLP_OUT), 0.5, {"same_subject": 0.6, "other_subject": 0.1})]
    ranking = locate(live, lesson(fact), Background(live), layers=measured)
    assert ranking.narrowness == pytest.approx(min(max(*shares, 0.0), 1.0))
    assert ranking.closed_form == measured[0]


def test_narrowness_is_not_measured_where_the_old_object_is_not_said() -> None:
    live = tiny()  # a random model knows nothing
    for fact in (FACT, replace(OTHER, old_object="a")):
        assert locate(live, lesson(fact), background(live), budget=Budget(1, SMALL)).narrowness is None


@pytest.mark.parametrize(("model_type", "n_layers"), [("mixtral", 3), ("gpt_oss", 2)])
def test_a_model_of_mixtures_alone_has_experts_and_no_closed_form(model_type: str, n_layers: int) -> None:
    live = tiny(model_type, n_layers=n_layers)
    ranking = locate(live, lesson(FACT), background(live), budget=Budget(tracing=SMALL))
    assert ranking.closed_form is None and ranking.json()["closed_form"] is None
    experts = [locus.site for locus in ranking.loci if locus.site.role is Role.EXPERT_OUT]
    assert sorted(site.layer for site in experts) == list(range(n_layers))
    assert all(site.expert is not None for site in experts)
    with pytest.raises(ArchitectureMismatch, match="no dense MLP"):
        rank_layers(live, [lesson(FACT)], background(live))


def test_a_dense_layer_between_mixtures_takes_the_closed_form() -> None:
    live = tiny("qwen3_moe", n_layers=3)
    ranking = locate(live, lesson(FACT), background(live), budget=Budget(tracing=SMALL))
    assert ranking.closed_form is not None and ranking.closed_form.site == Site(1, Role.MLP_OUT)


def test_the_same_question_gets_the_same_answer() -> None:
    live = tiny()
    one, again = (locate(live, lesson(FACT), background(live), budget=Budget(tracing=SMALL)) for _ in range(2))
    assert one == again


def test_data_and_table_say_the_same() -> None:
    live = tiny()
    ranking = locate(live, lesson(FACT), background(live), budget=Budget(confirm=2, tracing=SMALL))
    data, rows = ranking.json(), ranking.rows()
    canonical_json(data)
    canonical_json(rows)
    assert [row["rank"] for row in rows] == list(range(1, 2 * LAYERS + 1))
    assert len({tuple(row) for row in rows}) == 1, "one set of columns"
    for row, locus in zip(rows, ranking.loci, strict=True):
        assert (row["layer"], row["role"], row["score"]) == (locus.site.layer, locus.site.role.value, locus.score)
        assert all(row[name] == value for name, value in locus.evidence.items())
    assert rows[-1]["logprob_gain_last"] is None  # not confirmed
    assert isinstance(data["loci"], list) and len(data["loci"]) == len(rows)


def test_what_cannot_be_located_is_refused() -> None:
    live = tiny()
    other = tiny("gpt2")
    with pytest.raises(BadSpec, match="confirm=0"):
        Budget(confirm=0)
    with pytest.raises(BadSpec, match="Give at least one"):
        locate(live, [], background(live))
    with pytest.raises(BadFact, match="'Paris' is not in the prompt"):
        locate(live, lesson(Fact("The capital is", "Paris", "Rome")), background(live))
    with pytest.raises(BadFact, match="Give a target that is not empty"):
        locate(live, lesson(replace(FACT, object=" ")), background(live))
    with pytest.raises(WrongBase, match="Make a Background"):
        locate(live, lesson(FACT), background(other))
    assert untouched(live)
