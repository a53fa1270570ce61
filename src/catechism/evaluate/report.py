"""What an edit did, from the answers before and after it.

A report never knows who made the change. Its headline is what the model says by free greedy decoding; columns that
start with ``tf_`` are teacher-forced and stand there for comparison with papers only. What was not asked is None.
``docs/scoring.md`` defines every metric.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from catechism.errors import BadFact, UsageError
from catechism.evaluate.intervals import bootstrap, wilson
from catechism.evaluate.interview import Forced, Interview, catechism_key, join
from catechism.matching import first_line, is_exactly, passes
from catechism.types import JSON, UNMOVED, Catechism, Kind, Question, Rate

#: Every metric of a report in its order, with what it is in a few words.
METRICS: Mapping[str, str] = {
    "efficacy": "facts whose canonical prompt gets the new object and not the old one",
    "efficacy_exact": "facts whose canonical prompt gets the new object and nothing else on the first line",
    "paraphrase_mean": "mean over facts of the share of paraphrases answered right",
    "paraphrase_worst": "facts with every paraphrase answered right",
    "reversed": "reversed questions answered right",
    "one_hop": "questions that need the fact and one more answered right",
    "alias": "questions under another name of the subject answered right",
    "counterfactual": "questions after a text that says otherwise answered as the text says",
    "negative": "questions about something else whose answer does not hold the new object",
    "locality_neighbour": "other subjects of the relation answered as before the edit",
    "locality_subject": "other questions about the subject answered as before the edit",
    "locality_unrelated": "unrelated questions answered as before the edit",
    "gold_neighbour": "other subjects of the relation answered right",
    "gold_subject": "other questions about the subject answered right",
    "gold_unrelated": "unrelated questions answered right",
    "retained": "earlier edits that were answered right before this one and still are",
    "perplexity_before": "perplexity of held-out text before the edit",
    "perplexity_after": "perplexity of held-out text after the edit",
    "perplexity_ratio": "perplexity after the edit divided by that before",
    "tf_efficacy": "teacher-forced: canonical prompts where the new object is likelier than the old one",
    "tf_magnitude": "teacher-forced: mean over facts of P(new) - P(old), probabilities per token",
    "tf_token_match": "teacher-forced: canonical prompts where every token of the new object is the first choice",
    "tf_paraphrase": "teacher-forced: mean over facts of the share of paraphrases where new is likelier than old",
    "tf_paraphrase_token_match": "teacher-forced: mean over facts of the share of paraphrases with every token first",
    "tf_neighbour": "teacher-forced: neighbours whose true answer is likelier than the new object",
}

#: Metrics that are plain figures; all others are rates.
FIGURES = frozenset({"perplexity_before", "perplexity_after", "perplexity_ratio"})

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


@dataclass(frozen=True)
class Report:
    """Every metric of an edit, or of several.

    Attributes:
        n_facts: number of facts.
        metrics: a value for each name in `METRICS`, None where nothing was measured; suites may add more.
        errors: metrics that could not be computed, with the reason. Their value is None.
        marks: every question with its answers, fact by fact.
        max_new_tokens: token budget of the free answers.
        seed: of the bootstrap.
    """

    n_facts: int
    metrics: Mapping[str, Value]
    errors: Mapping[str, str] = field(default_factory=dict[str, str])
    marks: tuple[Mark, ...] = ()
    max_new_tokens: int = 0
    seed: int = 0

    def with_metrics(self, metrics: Mapping[str, Value], errors: Mapping[str, str] | None = None) -> Report:
        """This report with more metrics, a suite's for instance."""
        return replace(self, metrics={**self.metrics, **metrics}, errors={**self.errors, **(errors or {})})

    def misses(self) -> tuple[Mark, ...]:
        """The questions that went wrong, with their answers."""
        return tuple(mark for mark in self.marks if mark.is_miss)

    def json(self) -> dict[str, JSON]:
        """The report without its marks, as a JSON object."""
        metrics: dict[str, JSON] = {
            name: value.json() if isinstance(value, Rate) else value for name, value in self.metrics.items()
        }
        return {
            "n_facts": self.n_facts,
            "metrics": metrics,
            "errors": dict(self.errors),
            "max_new_tokens": self.max_new_tokens,
            "seed": self.seed,
        }


def report(
    catechisms: Sequence[Catechism],
    before: Interview,
    after: Interview | Sequence[Interview],
    *,
    perplexity_before: float | None = None,
    perplexity_after: float | None = None,
    seed: int = 0,
) -> Report:
    """Compare the answers before and after an edit.

    Args:
        catechisms: what was asked.
        before: the interview of the model without the edit.
        after: the interview of the model with all edits on it; or one for each edit that was on it alone, in the
            order of `catechisms`.
        perplexity_before: of held-out text without the edit.
        perplexity_after: of the same text with it.
        seed: of the bootstrap intervals.

    Raises:
        UsageError: an interview is about other questions, or the token budgets differ.
        BadFact: a question that must be answered has no answer that passes.
    """
    after = after if isinstance(after, Interview) else join(after)
    _check_interviews(catechisms, before, after)
    marks = _marks(catechisms, before, after)
    metrics: dict[str, Value] = dict.fromkeys(METRICS)
    metrics.update(_free_metrics(marks, seed))
    errors: dict[str, str] = {}
    for name, compute in _forced_metrics(marks, seed).items():
        try:
            metrics[name] = compute()
        except _NotFinite as error:
            errors[name] = str(error)
    found, broken = _perplexities(perplexity_before, perplexity_after)
    return Report(
        n_facts=len(catechisms),
        metrics={**metrics, **found},
        errors={**errors, **broken},
        marks=marks,
        max_new_tokens=before.max_new_tokens,
        seed=seed,
    )


class _NotFinite(ArithmeticError):
    """A teacher-forced score is NaN."""


def _check_interviews(catechisms: Sequence[Catechism], before: Interview, after: Interview) -> None:
    keys = tuple(catechism_key(c) for c in catechisms)
    for when, interview in (("before", before), ("after", after)):
        if interview.keys != keys:
            raise UsageError(
                f"The interview {when} the edit holds the questions of {len(interview.keys)} catechisms, not of the "
                f"{len(keys)} to report on. Interview the same catechisms, in the same order."
            )
    if before.max_new_tokens != after.max_new_tokens:
        raise UsageError(
            f"The answers had {before.max_new_tokens} tokens before the edit and {after.max_new_tokens} after it. "
            f"Interview again with max_new_tokens={before.max_new_tokens}."
        )


def _marks(catechisms: Sequence[Catechism], before: Interview, after: Interview) -> tuple[Mark, ...]:
    marks: list[Mark] = []
    for i, catechism in enumerate(catechisms):
        for j, question in enumerate(catechism.questions):
            if question.kind not in UNMOVED and not question.accept and not question.reject:
                raise BadFact(
                    f"The {question.kind} question {question.text!r} has no answer that passes. Add one to `accept`."
                )
            old, new = before.answers[i][j], after.answers[i][j]
            known = bool(question.accept or question.reject)
            marks.append(
                Mark(
                    fact=i,
                    round=after.rounds[i],
                    question=question,
                    before=old,
                    after=new,
                    right_before=passes(old, question.accept, question.reject) if known else None,
                    right=passes(new, question.accept, question.reject) if known else None,
                    same=first_line(old) == first_line(new),
                    forced_before=before.forced[i][j],
                    forced=after.forced[i][j],
                )
            )
    return tuple(marks)


def _free_metrics(marks: tuple[Mark, ...], seed: int) -> dict[str, Value]:
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
        "alias": _pooled(right, Kind.ALIAS),
        "counterfactual": _pooled(right, Kind.COUNTERFACTUAL),
        "negative": _pooled(right, Kind.NEGATIVE),
        "locality_neighbour": _pooled(same, Kind.NEIGHBOUR),
        "locality_subject": _pooled(same, Kind.SUBJECT),
        "locality_unrelated": _pooled(same, Kind.UNRELATED),
        "gold_neighbour": _pooled(right, Kind.NEIGHBOUR),
        "gold_subject": _pooled(right, Kind.SUBJECT),
        "gold_unrelated": _pooled(right, Kind.UNRELATED),
    }


def _forced_metrics(marks: tuple[Mark, ...], seed: int) -> dict[str, Callable[[], Value]]:
    def seen(kind: Kind, value: Callable[[Forced], float | None]) -> list[_Seen]:
        found: list[_Seen] = []
        for mark in marks:
            if mark.question.kind is kind and mark.forced is not None and mark.forced_before is not None:
                pair = _finite(mark.forced_before, value), _finite(mark.forced, value)
                if pair[0] is not None and pair[1] is not None:
                    found.append((mark, pair[0], pair[1]))
        return found

    both = (-1.0, 1.0)
    return {
        "tf_efficacy": lambda: _all_of(seen(Kind.REWRITE, _prefers_new), Kind.REWRITE),
        "tf_magnitude": lambda: _mean_over_facts(seen(Kind.REWRITE, _magnitude), Kind.REWRITE, seed, both),
        "tf_token_match": lambda: _all_of(seen(Kind.REWRITE, _matches), Kind.REWRITE),
        "tf_paraphrase": lambda: _mean_over_facts(seen(Kind.PARAPHRASE, _prefers_new), Kind.PARAPHRASE, seed),
        "tf_paraphrase_token_match": lambda: _mean_over_facts(seen(Kind.PARAPHRASE, _matches), Kind.PARAPHRASE, seed),
        "tf_neighbour": lambda: _pooled(seen(Kind.NEIGHBOUR, _prefers_old), Kind.NEIGHBOUR, per_fact=True),
    }


def _prefers_new(forced: Forced) -> float | None:
    return None if forced.old is None else float(forced.new > forced.old)


def _prefers_old(forced: Forced) -> float | None:
    return None if forced.old is None else float(forced.old > forced.new)


def _magnitude(forced: Forced) -> float | None:
    return None if forced.old is None else math.exp(forced.new) - math.exp(forced.old)


def _matches(forced: Forced) -> float | None:
    return float(forced.match)


def _finite(forced: Forced, value: Callable[[Forced], float | None]) -> float | None:
    if math.isnan(forced.new) or (forced.old is not None and math.isnan(forced.old)):
        raise _NotFinite("A teacher-forced score is not a number. Check the model's logits for NaN.")
    return value(forced)


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


def _pooled(seen: Sequence[_Seen], kind: Kind, *, per_fact: bool = False) -> Rate | None:
    """Share of questions at 1. A question that several facts of one round share is one observation, not several,
    unless its value depends on the fact; who wrote it makes no difference."""
    distinct: dict[object, tuple[float, float]] = {}
    for mark, before, after in seen:
        if mark.question.kind is kind:
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


def _perplexities(before: float | None, after: float | None) -> tuple[dict[str, Value], dict[str, str]]:
    found: dict[str, Value] = {}
    errors: dict[str, str] = {}
    given = {"perplexity_before": before, "perplexity_after": after}
    for name, value in given.items():
        if value is not None and not (math.isfinite(value) and value > 0):
            errors[name] = f"The perplexity is {value}. Check that the model's logits are finite on the held-out text."
        else:
            found[name] = value
    if errors:
        errors["perplexity_ratio"] = next(iter(errors.values()))
    elif before is not None and after is not None:
        found["perplexity_ratio"] = after / before
    return found, errors
