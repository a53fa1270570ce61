from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path

import pytest

from catechism.errors import BadFact, UsageError
from catechism.evaluate import METRICS, Report, interview, report, wilson
from catechism.types import Catechism, Fact, Kind, Question, Rate
from tests.evaluate.fake import FakeModel


def catechism(subject: str, new: str, old: str | None, *more: Question, paraphrases: int = 0) -> Catechism:
    fact = Fact(f"Capital of {subject}:", subject, new, old, id=subject)
    wrong = () if old is None else (old,)
    asked = [Question(fact.prompt, Kind.REWRITE, (new,), wrong)]
    asked += [Question(f"{i}. {subject}?", Kind.PARAPHRASE, (new,), wrong) for i in range(paraphrases)]
    return Catechism(fact, (*asked, *more))


def compare(
    catechisms: list[Catechism], before: Mapping[str, str], after: Mapping[str, str], **kwargs: float
) -> Report:
    first = interview(FakeModel(before), catechisms)
    return report(catechisms, first, interview(FakeModel(after), catechisms), **kwargs)


def rate(found: Report, name: str) -> Rate:
    value = found.metrics[name]
    assert isinstance(value, Rate)
    return value


def test_efficacy_is_what_the_model_says_with_its_value_before() -> None:
    facts = [catechism("a", "X", "Y"), catechism("b", "X", "Y"), catechism("c", "X", "Y"), catechism("d", "X", None)]
    before = {"Capital of a:": "Y", "Capital of d:": "X"}
    after = {"Capital of a:": "X.", "Capital of b:": "X, once Y", "Capital of c:": "Y", "Capital of d:": "X"}
    found = compare(facts, before, after)
    assert found.metrics["efficacy"] == wilson(2, 4, before=0.25)
    assert found.n_facts == 4
    assert [m.question.text for m in found.misses()] == ["Capital of b:", "Capital of c:"]


def test_an_exact_answer_says_nothing_else() -> None:
    found = compare([catechism("a", "X", None), catechism("b", "X", None)], {}, {"Capital of a:": "X.\nmore"})
    assert found.metrics["efficacy_exact"] == wilson(1, 2, before=0.0)
    assert rate(compare([catechism("a", "X", None)], {}, {"Capital of a:": "X or Y"}), "efficacy_exact").value == 0


def test_paraphrases_are_averaged_over_facts_and_the_worst_counts_for_the_fact() -> None:
    facts = [catechism("a", "X", "Y", paraphrases=1), catechism("b", "X", "Y", paraphrases=4)]
    after = {"0. a?": "X", "0. b?": "X", "1. b?": "Y", "2. b?": "Z", "3. b?": "X Y"}
    found = compare(facts, {"0. b?": "X"}, after)
    mean = rate(found, "paraphrase_mean")
    assert (mean.value, mean.n) == (0.625, 2)  # (1/1 + 1/4) / 2, not 2 of 5
    assert mean.before == 0.125
    assert found.metrics["paraphrase_worst"] == wilson(1, 2, before=0.0)


def test_locality_is_the_same_first_line_right_or_wrong() -> None:
    asked = [Question(f"n{i}", Kind.NEIGHBOUR, ("A",) if i < 3 else ()) for i in range(4)]
    before = {"n0": "A", "n1": "B\nmore", "n2": "B", "n3": "C"}
    after = {"n0": "A ", "n1": "B\nother", "n2": "A", "n3": "D"}
    found = compare([catechism("a", "X", None, *asked)], before, after)
    assert found.metrics["locality_neighbour"] == wilson(2, 4, before=1.0)
    assert found.metrics["gold_neighbour"] == wilson(2, 3, before=1 / 3)


def test_a_question_that_facts_share_is_one_observation_in_each_round() -> None:
    shared = Question("water", Kind.UNRELATED)
    facts = [catechism("a", "X", None, shared), catechism("b", "Y", None, shared)]
    model = FakeModel({"water": "wet"})
    before = interview(model, facts)
    assert rate(report(facts, before, interview(model, facts)), "locality_unrelated").n == 1
    rounds = [interview(model, [fact]) for fact in facts]
    assert rate(report(facts, before, rounds), "locality_unrelated").n == 2


def test_each_kind_has_its_own_metric() -> None:
    kinds = {
        Kind.REVERSED: "reversed",
        Kind.ONE_HOP: "one_hop",
        Kind.MULTI_HOP: "multi_hop",
        Kind.ALIAS: "alias",
        Kind.COUNTERFACTUAL: "counterfactual",
        Kind.SUBJECT: "gold_subject",
        Kind.UNRELATED: "gold_unrelated",
    }
    asked = [Question(kind, kind, ("A",)) for kind in kinds]
    for kind, name in kinds.items():
        found = compare([catechism("a", "X", None, *asked)], {}, {str(kind): "A"})
        right = [n for n in kinds.values() if rate(found, n).value == 1]
        assert right == [name]


def test_a_negative_question_passes_when_the_new_object_is_absent() -> None:
    asked = [Question(f"n{i}", Kind.NEGATIVE, (), ("X", "Ex")) for i in range(4)]
    before = {"n0": "X"}
    after = {"n0": "A", "n1": "X.", "n2": "A, once Ex", "n3": ""}
    found = compare([catechism("a", "X", None, *asked)], before, after)
    assert found.metrics["negative"] == wilson(2, 4, before=0.75)
    assert [m.question.text for m in found.misses()][1:] == ["n1", "n2"]


def test_a_counterfactual_question_passes_with_the_answer_of_its_text() -> None:
    asked = [Question(f"It is Z. {i}?", Kind.COUNTERFACTUAL, ("Z",), ("X",)) for i in range(3)]
    after = {"It is Z. 0?": "Z.", "It is Z. 1?": "X", "It is Z. 2?": "Z, or X"}
    found = compare([catechism("a", "X", "Y", *asked)], {"It is Z. 1?": "Z"}, after)
    assert found.metrics["counterfactual"] == wilson(1, 3, before=1 / 3)


def test_counterfactual_and_negative_questions_change_no_other_metric() -> None:
    unmoved = Question("n", Kind.NEIGHBOUR, ("A",))
    more = (Question("It is Z. a?", Kind.COUNTERFACTUAL, ("Z",)), Question("b?", Kind.NEGATIVE, (), ("X",)))
    after = {"Capital of a:": "X", "0. a?": "X", "n": "A", "It is Z. a?": "X", "b?": "X"}
    without = compare([catechism("a", "X", "Y", unmoved, paraphrases=1)], {"n": "A"}, after)
    found = compare([catechism("a", "X", "Y", unmoved, *more, paraphrases=1)], {"n": "A"}, after)
    changed = {name for name in METRICS if found.metrics[name] != without.metrics[name]}
    assert changed == {"counterfactual", "negative"}
    asked = interview(FakeModel(), [catechism("a", "X", "Y", *more)])
    assert [forced is None for forced in asked.forced[0]] == [False, True, True]


def test_one_question_of_two_writers_is_one_observation() -> None:
    facts = [
        catechism(s, "X", None, Question("water", Kind.UNRELATED, origin=o)) for s, o in (("a", "feed"), ("b", ""))
    ]
    assert rate(compare(facts, {}, {}), "locality_unrelated").n == 1


def test_what_was_not_asked_is_none() -> None:
    found = compare([catechism("a", "X", None)], {}, {"Capital of a:": "X"})
    measured = {name for name, value in found.metrics.items() if value is not None}
    assert measured == {"efficacy", "efficacy_exact", "tf_token_match", "tf_token_accuracy"}
    assert set(compare([], {}, {}).metrics.values()) == {None}
    assert list(found.metrics) == list(METRICS)


def test_teacher_forced_columns_compare_probabilities_per_token() -> None:
    neighbour = Question("n", Kind.NEIGHBOUR, ("A",))
    facts = [catechism("a", "X", "Y", neighbour, paraphrases=2), catechism("b", "X", "Y")]
    scores = {("Capital of a:", "X"): -0.5, ("Capital of a:", "Y"): -1.0, ("0. a?", "X"): -2.0, ("n", "A"): -3.0}
    before = interview(FakeModel(), facts)
    found = report(facts, before, interview(FakeModel(scores=scores), facts))
    assert found.metrics["tf_efficacy"] == wilson(1, 2, before=0.0)
    magnitude = rate(found, "tf_magnitude")
    assert magnitude.value == pytest.approx((math.exp(-0.5) - math.exp(-1.0)) / 2)
    assert magnitude.before == 0.0
    assert found.metrics["tf_token_match"] == wilson(1, 2, before=0.0)
    assert rate(found, "tf_paraphrase").value == 0.5
    assert rate(found, "tf_paraphrase_token_match").value == 0.0
    assert found.metrics["tf_neighbour"] == wilson(1, 1, before=0.0)
    assert rate(found, "efficacy").value == 0.0  # likelier is not said


def test_the_papers_own_columns_follow_their_definitions() -> None:
    """CounterFact's magnitudes and score; zsRE's and EasyEdit's accuracy of tokens."""
    neighbour, far = Question("n", Kind.NEIGHBOUR, ("A",)), Question("u", Kind.UNRELATED, ("B",))
    facts = [catechism("a", "X", "Y", neighbour, far, Question("r", Kind.REVERSED, ("a",)), paraphrases=1)]
    scores = {
        ("Capital of a:", "X"): -0.5, ("Capital of a:", "Y"): -1.0, ("0. a?", "X"): -0.2, ("0. a?", "Y"): -3.0,
        ("n", "A"): -0.1, ("n", "X"): -4.0, ("u", "B"): -7.0, ("r", "a"): -0.3,
    }  # fmt: skip
    before = {pair: -5.0 for pair in scores} | {("u", "B"): -0.5}
    found = report(facts, interview(FakeModel(scores=before), facts), interview(FakeModel(scores=scores), facts))
    assert rate(found, "tf_paraphrase_magnitude").value == pytest.approx(math.exp(-0.2) - math.exp(-3.0))
    assert rate(found, "tf_neighbour_magnitude").value == pytest.approx(math.exp(-0.1) - math.exp(-4.0))
    assert found.metrics["tf_score"] == 1.0 and found.metrics["tf_score_before"] == 0.0
    assert rate(found, "tf_token_accuracy").value == rate(found, "tf_paraphrase_token_accuracy").value == 1.0
    assert rate(found, "tf_unrelated_token_accuracy") == wilson(0, 1, before=1.0)
    assert rate(found, "tf_locality") == wilson(0, 2, before=1.0), "the first choices at both true answers changed"
    assert rate(found, "tf_portability") == wilson(1, 1, before=0.0)
    assert found.metrics["tf_average"] == pytest.approx(2 / 3)


def test_portability_and_locality_are_one_count_over_their_kinds() -> None:
    asked = [Question(kind, kind, ("A",)) for kind in (Kind.REVERSED, Kind.ONE_HOP, Kind.MULTI_HOP, Kind.ALIAS)]
    stay = [Question(kind, kind, ("A",)) for kind in (Kind.NEIGHBOUR, Kind.SUBJECT, Kind.UNRELATED)]
    after = {"multi_hop": "A", "neighbour": "Z"}
    found = compare([catechism("a", "X", None, *asked, *stay)], {}, after)
    assert found.metrics["portability"] == wilson(1, 4, before=0.0)
    assert found.metrics["multi_hop"] == wilson(1, 1, before=0.0)
    assert found.metrics["locality"] == wilson(2, 3, before=1.0)


def test_figures_from_beside_the_questions_stand_in_the_report() -> None:
    facts = [catechism("a", "X", "Y")]
    one = interview(FakeModel(), facts)
    found = report(facts, one, one, figures={"kl_neighbour": 0.25, "norm_growth": math.inf})
    assert found.metrics["kl_neighbour"] == 0.25 and found.metrics["norm_growth"] is None
    assert "norm_growth is inf" in found.errors["norm_growth"]


def test_a_score_that_is_no_number_is_an_error_not_a_value() -> None:
    facts = [catechism("a", "X", "Y")]
    broken = interview(FakeModel(scores={("Capital of a:", "X"): math.nan}), facts)
    found = report(facts, interview(FakeModel(), facts), broken)
    assert set(found.errors) == {
        *("tf_efficacy", "tf_magnitude", "tf_token_match", "tf_token_accuracy"),
        *("tf_score", "tf_score_before", "tf_average"),
    }
    assert found.metrics["tf_efficacy"] is None
    assert found.metrics["efficacy"] is not None


@pytest.mark.parametrize(
    ("before", "after", "ratio", "errors"),
    [
        (10.0, 11.0, 1.1, set()),
        (None, 11.0, None, set()),
        (10.0, None, None, set()),
        (10.0, math.inf, None, {"perplexity_after", "perplexity_ratio"}),
        (math.nan, 1.0, None, {"perplexity_before", "perplexity_ratio"}),
    ],
)
def test_perplexity_is_a_ratio_or_an_error(
    before: float | None, after: float | None, ratio: float | None, errors: set[str]
) -> None:
    empty = interview(FakeModel(), [])
    found = report([], empty, empty, perplexity_before=before, perplexity_after=after)
    assert found.metrics["perplexity_ratio"] == ratio
    assert set(found.errors) == errors


def test_interviews_about_other_questions_are_refused() -> None:
    facts, others = [catechism("a", "X", "Y")], [catechism("b", "X", "Y")]
    one, other = interview(FakeModel(), facts), interview(FakeModel(), others)
    with pytest.raises(UsageError, match="interview after the edit"):
        report(facts, one, other)
    with pytest.raises(UsageError, match="interview before the edit"):
        report(facts, other, one)
    with pytest.raises(UsageError, match="max_new_tokens=24"):
        report(facts, one, interview(FakeModel(), facts, max_new_tokens=5))


def test_a_question_without_an_answer_that_passes_is_refused() -> None:
    facts = [catechism("a", "X", None, Question("who?", Kind.REVERSED))]
    with pytest.raises(BadFact, match="reversed question 'who\\?' has no answer"):
        compare(facts, {}, {})


def test_forgetting_is_the_absence_of_the_old_object() -> None:
    fact = Fact("Capital of a:", "a", "", "Y")
    facts = [Catechism(fact, (Question(fact.prompt, Kind.REWRITE, (), ("Y",)),))]
    found = compare(facts, {"Capital of a:": "Y"}, {"Capital of a:": "I do not know."})
    assert found.metrics["efficacy"] == wilson(1, 1, before=0.0)
    assert found.metrics["efficacy_exact"] is None


def test_a_report_is_json_and_takes_metrics_of_suites() -> None:
    found = compare([catechism("a", "X", "Y")], {}, {"Capital of a:": "X"}, perplexity_before=2.0, perplexity_after=2.0)
    found = found.with_metrics({"harness/t/acc": wilson(1, 2)}, {"harness/u": "offline"})
    row = json.loads(json.dumps(found.json(), allow_nan=False))
    assert row["metrics"]["efficacy"] == {"value": 1.0, "low": row["metrics"]["efficacy"]["low"], "high": 1.0, "n": 1,
                                          "before": 0.0}  # fmt: skip
    assert row["metrics"]["perplexity_ratio"] == 1.0
    assert row["metrics"]["reversed"] is None
    assert row["metrics"]["harness/t/acc"]["n"] == 2
    assert row["errors"] == {"harness/u": "offline"}


def test_the_same_answers_and_seed_give_the_same_report() -> None:
    facts = [catechism(str(i), "X", "Y", paraphrases=3) for i in range(6)]
    after = {f"{j}. {i}?": "X" for i in range(6) for j in range(3) if (i + j) % 2}
    assert compare(facts, {}, after) == compare(facts, {}, after)


def test_the_documentation_defines_every_metric() -> None:
    page = (Path(__file__).parents[2] / "docs" / "scoring.md").read_text(encoding="utf-8")
    assert [name for name in METRICS if f"`{name}`" not in page] == []
