"""What was to stay: neighbours, the same relation, the same subject's other facts, everything else, and plain text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from catechism.evaluate.audit.items import Kept
from catechism.evaluate.audit.profile import Margins
from catechism.evaluate.audit.result import Family, Row
from catechism.evaluate.audit.statistics import mean_of, paired_difference
from catechism.evaluate.interview import answer_budget
from catechism.matching import says
from catechism.model import LiveModel
from catechism.types import Catechism, Forgetting, Kind

GROUPS = ("neighbours", "same_relation", "same_subject", "utility")


def groups(request: Forgetting, kept: Kept, *, most: int) -> dict[str, list[Catechism]]:
    """What has to stay, by group. A fact may be in several; none of them is one that is forgotten.

    Questions of neighbours and of the subject that stand in the catechisms to be forgotten count too, where their
    answer is known.

    Args:
        most: facts of each group, spread evenly over what there is; 0 takes all.
    """
    facts = {one.fact for one in request.forget}
    relations = {fact.relation for fact in facts if fact.relation is not None}
    subjects = {fact.subject for fact in facts if fact.subject}
    near = [one for one in kept.neighbours if one.fact not in facts]
    far = [one for one in kept.utility if one.fact not in facts]
    asked = {kind: _questions(request, kind) for kind in (Kind.NEIGHBOUR, Kind.SUBJECT)}
    found = {
        "neighbours": [*near, *asked[Kind.NEIGHBOUR]],
        "same_relation": [*(one for one in near if one.fact.relation in relations), *asked[Kind.NEIGHBOUR]],
        "same_subject": [
            *(one for one in (*near, *far, *request.retain) if one.fact.subject in subjects and one.fact not in facts),
            *asked[Kind.SUBJECT],
        ],
        "utility": far,
    }
    return {name: _spread(group, most) for name, group in found.items()}


def _questions(request: Forgetting, kind: Kind) -> list[Catechism]:
    """Questions of one kind in the exam of what is forgotten, each as a catechism of its own."""
    return [
        replace(one, questions=(question,), study=())
        for one in request.forget
        for question in one.of(kind)
        if question.accept
    ]


def _spread(things: Sequence[Catechism], most: int) -> list[Catechism]:
    step = max(len(things) / most, 1.0) if most else 1.0
    return [things[int(i * step)] for i in range(min(len(things), most) if most else len(things))]


def retained(live: LiveModel, asked: Mapping[str, Sequence[Catechism]]) -> dict[str, list[float]]:
    """By group and fact: share of its questions that are answered right, freely."""
    every = [one for group in asked.values() for one in group]
    prompts = list(dict.fromkeys(q.text for one in every for q in one.questions if q.accept))
    answers = live.generate(prompts, max_new_tokens=answer_budget(every)) if prompts else []
    said = {prompt: answer.text for prompt, answer in zip(prompts, answers, strict=True)}
    return {name: [_right(one, said) for one in group] for name, group in asked.items()}


def _right(one: Catechism, said: Mapping[str, str]) -> float:
    marks = [says(said[q.text], q.accept, one.fact.prompt) for q in one.questions if q.accept]
    return sum(marks) / len(marks) if marks else 0.0


def spill_rows(
    after: Mapping[str, Sequence[float]], before: Mapping[str, Sequence[float]], margins: Margins, *, seed: int
) -> list[Row]:
    """A row for each group; `gap` is the difference to before. Broken if less than the margin's share is left."""
    found: list[Row] = []
    for name in GROUPS:
        mine, was = after[name], before[name]
        if not mine:
            found.append(Row(name, Family.SPILL, None, decides=False, note="nothing of this sort was given"))
            continue
        own, gap = mean_of(mine, (0.0, 1.0), seed), paired_difference(mine, was, seed)
        mean = sum(was) / len(was)
        least = margins.utility if name == "utility" else margins.neighbours
        found.append(
            Row(
                name, Family.SPILL, own.value, own.low, own.high, before=mean, gap=gap.value, gap_low=gap.low,
                gap_high=gap.high, n=len(mine), tells=own.value < least * mean,
                note="gap is to before the edit",
            )
        )  # fmt: skip
    return found


def perplexity_row(after: float, before: float, margins: Margins, *, texts: int) -> Row:
    """The ratio of perplexities as a row; `before` is the perplexity that it is a ratio to."""
    ratio = after / before
    tells = not ratio <= margins.perplexity
    return Row(
        "perplexity_ratio",
        Family.SPILL,
        ratio,
        before=before,
        n=texts,
        tells=tells,
        note=f"{before:.4g} to {after:.4g}",
    )
