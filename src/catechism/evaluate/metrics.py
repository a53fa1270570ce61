"""Every metric of a report, each from the marks of its questions.

``docs/scoring.md`` defines them. What was not asked is None.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from catechism.evaluate.intervals import bootstrap, wilson
from catechism.evaluate.interview import Forced
from catechism.matching import is_exactly
from catechism.types import UNMOVED, Kind, Question, Rate

#: Every metric of a report in its order, with what it is in a few words.
METRICS: Mapping[str, str] = {
    "efficacy": "facts whose canonical prompt gets the new object and not the old one",
    "efficacy_exact": "facts whose canonical prompt gets the new object and nothing else on the first line",
    "paraphrase_mean": "mean over facts of the share of paraphrases answered right",
    "paraphrase_worst": "facts with every paraphrase answered right",
    "reversed": "reversed questions answered right",
    "one_hop": "questions that need the fact and one more answered right",
    "multi_hop": "questions that need the fact and two or more others answered right",
    "alias": "questions under another name of the subject answered right",
    "portability": "reversed, one-hop, multi-hop and alias questions answered right, all in one count",
    "counterfactual": "questions after a text that says otherwise answered as the text says",
    "negative": "questions about something else whose answer does not hold the new object",
    "locality_neighbour": "other subjects of the relation answered as before the edit",
    "locality_subject": "other questions about the subject answered as before the edit",
    "locality_unrelated": "unrelated questions answered as before the edit",
    "locality": "neighbours, other questions about the subject and unrelated ones answered as before, in one count",
    "gold_neighbour": "other subjects of the relation answered right",
    "gold_subject": "other questions about the subject answered right",
    "gold_unrelated": "unrelated questions answered right",
    "retained": "earlier edits that were answered right before this one and still are",
    "kl_neighbour": "mean KL(before || after) of the next token's distribution after neighbour prompts, in nats",
    "norm_growth": "largest ratio of the change's norm to the matrix's own among the matrices that are edited",
    "perplexity_before": "perplexity of held-out text before the edit",
    "perplexity_after": "perplexity of held-out text after the edit",
    "perplexity_ratio": "perplexity after the edit divided by that before",
    "tf_efficacy": "teacher-forced: canonical prompts where the new object is likelier than the old one",
    "tf_magnitude": "teacher-forced: mean over facts of P(new) - P(old), probabilities per token",
    "tf_token_match": "teacher-forced: canonical prompts where every token of the new object is the first choice",
    "tf_paraphrase": "teacher-forced: mean over facts of the share of paraphrases where new is likelier than old",
    "tf_paraphrase_token_match": "teacher-forced: mean over facts of the share of paraphrases with every token first",
    "tf_neighbour": "teacher-forced: neighbours whose true answer is likelier than the new object",
    "tf_paraphrase_magnitude": "teacher-forced: mean over facts of P(new) - P(old) on paraphrases",
    "tf_neighbour_magnitude": "teacher-forced: mean over facts of P(true answer) - P(new) on neighbours",
    "tf_score": "teacher-forced: harmonic mean of tf_efficacy, tf_paraphrase and tf_neighbour",
    "tf_score_before": "teacher-forced: the same before the edit",
    "tf_token_accuracy": "teacher-forced: mean over facts of the share of the new object's tokens that come first",
    "tf_paraphrase_token_accuracy": "teacher-forced: the same on paraphrases",
    "tf_unrelated_token_accuracy": "teacher-forced: share of the true answer's tokens first on unrelated questions",
    "tf_locality": "teacher-forced: first choices in the places of the true answer that are those before the edit",
    "tf_portability": "teacher-forced: share of the answer's tokens first on the questions of portability",
    "tf_average": "teacher-forced: mean of tf_token_accuracy, tf_paraphrase_token_accuracy and tf_locality",
}

#: Kinds that ask for what follows from a fact.
PORTED = frozenset({Kind.REVERSED, Kind.ONE_HOP, Kind.MULTI_HOP, Kind.ALIAS})

#: Metrics that are plain figures; all others are rates.
FIGURES = frozenset(
    {
        *("perplexity_before", "perplexity_after", "perplexity_ratio", "kl_neighbour", "norm_growth"),
        *("tf_score", "tf_score_before", "tf_average"),
    }
)

Value = Rate | float | None


@dataclass(frozen=True, slots=True)
class Mark:
    """One question with its two answers and what is to be thought of them.

    Attributes:
        fact: the fact's place among the catechisms.
        round: the interview after the edit that the answer comes from.
        question: what was asked.
        before: the free answer before the edit.
        after: the free answer after it.
        right_before: whether the answer before passes; None if no answer is known.
        right: whether the answer after passes; None if no answer is known.
        same: whether the first lines of both answers are the same.
        forced_before: teacher-forced scores before.
        forced: teacher-forced scores after.
    """

    fact: int
    round: int
    question: Question
    before: str
    after: str
    right_before: bool | None
    right: bool | None
    same: bool
    forced_before: Forced | None
    forced: Forced | None

    @property
    def is_miss(self) -> bool:
        """Whether the question went wrong: it had to stay and moved, or had to be answered and was not."""
        return not self.same if self.question.kind in UNMOVED else self.right is not True


class NotFinite(ArithmeticError):
    """A teacher-forced score is NaN."""


def free_metrics(marks: Sequence[Mark], seed: int) -> dict[str, Value]:
    """Every metric of the free answers."""
    right = [
        (m, float(m.right_before), float(m.right)) for m in marks if m.right_before is not None and m.right is not None
    ]
    exact = [
        (m, float(is_exactly(m.before, m.question.accept)), float(is_exactly(m.after, m.question.accept)))
        for m in marks
        if m.question.accept
    ]
    same = [(m, 1.0, float(m.same)) for m in marks if m.question.kind in UNMOVED]
    return {
        "efficacy": _all_of(right, Kind.REWRITE),
        "efficacy_exact": _all_of(exact, Kind.REWRITE),
        "paraphrase_mean": _mean_over_facts(right, Kind.PARAPHRASE, seed),
        "paraphrase_worst": _all_of(right, Kind.PARAPHRASE),
        "reversed": _pooled(right, Kind.REVERSED),
        "one_hop": _pooled(right, Kind.ONE_HOP),
        "multi_hop": _pooled(right, Kind.MULTI_HOP),
        "alias": _pooled(right, Kind.ALIAS),
        "portability": _pooled(right, *PORTED),
        "counterfactual": _pooled(right, Kind.COUNTERFACTUAL),
        "negative": _pooled(right, Kind.NEGATIVE),
        "locality_neighbour": _pooled(same, Kind.NEIGHBOUR),
        "locality_subject": _pooled(same, Kind.SUBJECT),
        "locality_unrelated": _pooled(same, Kind.UNRELATED),
        "locality": _pooled(same, *UNMOVED),
        "gold_neighbour": _pooled(right, Kind.NEIGHBOUR),
        "gold_subject": _pooled(right, Kind.SUBJECT),
        "gold_unrelated": _pooled(right, Kind.UNRELATED),
    }


def forced_metrics(marks: Sequence[Mark], seed: int) -> dict[str, Callable[[], Value]]:
    """Every teacher-forced metric, computed when called. A call raises NotFinite where a score is NaN."""

    def seen(value: Callable[[Forced], float | None], *kinds: Kind) -> list[_Seen]:
        found: list[_Seen] = []
        for mark in marks:
            if mark.question.kind in kinds and mark.forced is not None and mark.forced_before is not None:
                pair = _finite(mark.forced_before, value), _finite(mark.forced, value)
                if pair[0] is not None and pair[1] is not None:
                    found.append((mark, pair[0], pair[1]))
        return found

    def mean(value: Callable[[Forced], float | None], kind: Kind, low: float = 0.0) -> Rate | None:
        return _mean_over_facts(seen(value, kind), kind, seed, (low, 1.0))

    compute: dict[str, Callable[[], Value]] = {
        "tf_efficacy": lambda: _all_of(seen(_prefers_new, Kind.REWRITE), Kind.REWRITE),
        "tf_magnitude": lambda: mean(_magnitude, Kind.REWRITE, -1.0),
        "tf_token_match": lambda: _all_of(seen(_matches, Kind.REWRITE), Kind.REWRITE),
        "tf_paraphrase": lambda: mean(_prefers_new, Kind.PARAPHRASE),
        "tf_paraphrase_token_match": lambda: mean(_matches, Kind.PARAPHRASE),
        "tf_neighbour": lambda: _pooled(seen(_prefers_old, Kind.NEIGHBOUR), Kind.NEIGHBOUR, per_fact=True),
        "tf_paraphrase_magnitude": lambda: mean(_magnitude, Kind.PARAPHRASE, -1.0),
        "tf_neighbour_magnitude": lambda: mean(_magnitude_of_old, Kind.NEIGHBOUR, -1.0),
        "tf_token_accuracy": lambda: mean(_accuracy, Kind.REWRITE),
        "tf_paraphrase_token_accuracy": lambda: mean(_accuracy, Kind.PARAPHRASE),
        "tf_unrelated_token_accuracy": lambda: _pooled(seen(_accuracy, Kind.UNRELATED), Kind.UNRELATED),
        "tf_locality": lambda: _pooled(_unchanged(marks), *UNMOVED),
        "tf_portability": lambda: _pooled(seen(_accuracy, *PORTED), *PORTED),
    }
    parts = compute["tf_efficacy"], compute["tf_paraphrase"], compute["tf_neighbour"]
    tokens = compute["tf_token_accuracy"], compute["tf_paraphrase_token_accuracy"], compute["tf_locality"]
    compute["tf_score"] = lambda: _harmonic([part() for part in parts], lambda rate: rate.value)
    compute["tf_score_before"] = lambda: _harmonic([part() for part in parts], lambda rate: rate.before)
    compute["tf_average"] = lambda: _average([part() for part in tokens])
    return compute


def _prefers_new(forced: Forced) -> float | None:
    return None if forced.new is None or forced.old is None else float(forced.new > forced.old)


def _prefers_old(forced: Forced) -> float | None:
    return None if forced.new is None or forced.old is None else float(forced.old > forced.new)


def _magnitude(forced: Forced) -> float | None:
    return None if forced.new is None or forced.old is None else math.exp(forced.new) - math.exp(forced.old)


def _magnitude_of_old(forced: Forced) -> float | None:
    return None if forced.new is None or forced.old is None else math.exp(forced.old) - math.exp(forced.new)


def _matches(forced: Forced) -> float | None:
    return float(forced.match)


def _accuracy(forced: Forced) -> float | None:
    return forced.accuracy


def _finite(forced: Forced, value: Callable[[Forced], float | None]) -> float | None:
    if any(score is not None and math.isnan(score) for score in (forced.new, forced.old)):
        raise NotFinite("A teacher-forced score is not a number. Check the model's logits for NaN.")
    return value(forced)


def _unchanged(marks: Sequence[Mark]) -> list[_Seen]:
    """The share of the true answer's places in which the model's first choice is the one it had before."""
    found: list[_Seen] = []
    for mark in marks:
        if mark.forced is not None and mark.forced_before is not None and mark.forced.choices:
            pairs = list(zip(mark.forced_before.choices, mark.forced.choices, strict=True))
            found.append((mark, 1.0, sum(a == b for a, b in pairs) / len(pairs)))
    return found


def _harmonic(rates: Sequence[Value], side: Callable[[Rate], float | None]) -> float | None:
    """Harmonic mean of rates; 0 where one of them is 0, None where one is missing."""
    values = [side(rate) for rate in rates if isinstance(rate, Rate)]
    known = [value for value in values if value is not None]
    if len(known) < len(rates):
        return None
    return 0.0 if min(known) == 0 else len(known) / math.fsum(1 / value for value in known)


def _average(rates: Sequence[Value]) -> float | None:
    known = [rate.value for rate in rates if isinstance(rate, Rate)]
    return math.fsum(known) / len(known) if len(known) == len(rates) else None


#: A mark with a value of it before and after the edit.
_Seen = tuple[Mark, float, float]


def _all_of(seen: Sequence[_Seen], kind: Kind) -> Rate | None:
    """Share of facts with every question of this kind at 1."""
    facts = _by_fact(seen, kind)
    if not facts:
        return None
    before, after = (sum(all(pair[side] == 1.0 for pair in pairs) for pairs in facts) for side in (0, 1))
    return wilson(after, len(facts), before=before / len(facts))


def _mean_over_facts(
    seen: Sequence[_Seen], kind: Kind, seed: int, bounds: tuple[float, float] = (0.0, 1.0)
) -> Rate | None:
    """Mean over facts of each fact's own mean: a fact with many questions weighs no more than one with few."""
    facts = _by_fact(seen, kind)
    if not facts:
        return None
    before, after = ([math.fsum(pair[side] for pair in pairs) / len(pairs) for pairs in facts] for side in (0, 1))
    return bootstrap(after, seed, bounds=bounds, before=math.fsum(before) / len(before))


def _pooled(seen: Sequence[_Seen], *kinds: Kind, per_fact: bool = False) -> Rate | None:
    """Share of questions at 1. A question that several facts of one round share is one observation, not several,
    unless its value depends on the fact; who wrote it makes no difference."""
    distinct: dict[object, tuple[float, float]] = {}
    for mark, before, after in seen:
        if mark.question.kind in kinds:
            key = (mark.round, replace(mark.question, origin=""), mark.fact if per_fact else None)
            distinct.setdefault(key, (before, after))
    if not distinct:
        return None
    n = len(distinct)
    return wilson(sum(a for _, a in distinct.values()), n, before=sum(b for b, _ in distinct.values()) / n)


def _by_fact(seen: Sequence[_Seen], kind: Kind) -> list[list[tuple[float, float]]]:
    facts: dict[int, list[tuple[float, float]]] = {}
    for mark, before, after in seen:
        if mark.question.kind is kind:
            facts.setdefault(mark.fact, []).append((before, after))
    return list(facts.values())
