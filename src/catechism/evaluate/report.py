"""What an edit did, from the answers before and after it.

A report never knows who made the change. Its headline is what the model says by free greedy decoding; columns that
start with ``tf_`` are teacher-forced and stand there for comparison with papers only. What was not asked is None.
``docs/scoring.md`` defines every metric.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from catechism.errors import BadFact, UsageError
from catechism.evaluate.interview import Interview, catechism_key, join
from catechism.evaluate.metrics import METRICS, Mark, NotFinite, Value, forced_metrics, free_metrics
from catechism.matching import first_line, passes
from catechism.types import JSON, UNMOVED, Catechism, Rate


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
    figures: Mapping[str, float | None] | None = None,
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
        figures: what was measured beside the questions, ``kl_neighbour`` and ``norm_growth`` for instance.
        seed: of the bootstrap intervals.

    Raises:
        UsageError: an interview is about other questions, or the token budgets differ.
        BadFact: a question that must be answered has no answer that passes.
    """
    after = after if isinstance(after, Interview) else join(after)
    _check_interviews(catechisms, before, after)
    marks = _marks(catechisms, before, after)
    metrics: dict[str, Value] = dict.fromkeys(METRICS)
    metrics.update(free_metrics(marks, seed))
    errors: dict[str, str] = {}
    for name, compute in forced_metrics(marks, seed).items():
        try:
            metrics[name] = compute()
        except NotFinite as error:
            errors[name] = str(error)
    found, broken = _perplexities(perplexity_before, perplexity_after)
    for name, figure in (figures or {}).items():
        if figure is None or math.isfinite(figure):
            found[name] = figure
        else:
            broken[name] = f"{name} is {figure}. Check the edited model for NaN and infinity."
    return Report(
        n_facts=len(catechisms),
        metrics={**metrics, **found},
        errors={**errors, **broken},
        marks=marks,
        max_new_tokens=before.max_new_tokens,
        seed=seed,
    )


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
