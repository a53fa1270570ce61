"""The rows of an audit from the values of the audited model, of the control, and of the model before."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

from catechism.evaluate.audit.compare import Sides, rate_row
from catechism.evaluate.audit.measures import Before, Measured, Plan
from catechism.evaluate.audit.membership import reference
from catechism.evaluate.audit.relearning import Relearning
from catechism.evaluate.audit.result import Family, Row
from catechism.evaluate.audit.statistics import auc_gap, greatest_gap, holm, ks_test, mean_of, ratio_of_means

NO_CONTROL = "needs a model that never learned"


def rows_of(plan: Plan, mine: Measured, control: Measured | None, before: Before) -> list[Row]:
    """All rows but those of depth and spill."""
    return [
        *_rates(plan, mine, control, before),
        *truth_rows(mine.truth, None if control is None else control.truth, alpha=plan.profile.margins.alpha),
        *_membership_rows(plan, mine, control),
        *_layer_rows(plan, "probe", mine, control),
        *_layer_rows(plan, "lens", mine, control),
        *_relearning_rows(plan, mine, control),
    ]


def _rates(plan: Plan, mine: Measured, control: Measured | None, before: Before) -> Iterator[Row]:
    sides = {
        Family.RECALL: Sides(mine.recall, control and control.recall, before.recall),
        Family.ATTACK: Sides(mine.attacks, control and control.attacks, None),
        Family.MEMORISATION: Sides(mine.memorisation, control and control.memorisation, before.memorisation),
    }
    for family, side in sides.items():
        for name in side.model:
            row = rate_row(name, family, side, plan.profile.margins, seed=plan.seed, chance=plan.chance)
            if name == "attribution_on_subject":
                row = replace(row, family=Family.MEMORISATION, decides=False, tells=None)
            elif control is None and family is Family.MEMORISATION:
                row = replace(row, decides=False, tells=None, note=NO_CONTROL)  # guessing is no measure of these
            yield row


def truth_rows(mine: Sequence[float], control: Sequence[float] | None, *, alpha: float) -> Iterator[Row]:
    """Mean of min(TR, 1 / TR), and the test that the ratios of both models are drawn from one distribution."""
    used = [i for i, value in enumerate(mine) if not math.isnan(value)]
    if not used:
        yield Row("truth_ratio", Family.MEMORISATION, None, decides=False, note="there are no wrong answers to compare")
        return
    own = mean_of([folded(mine[i]) for i in used], (0.0, 1.0), 0)
    if control is None:
        yield Row("truth_ratio", Family.MEMORISATION, own.value, own.low, own.high, n=len(used), decides=False)
        yield Row("ks", Family.MEMORISATION, None, decides=False, note=NO_CONTROL)
        return
    theirs = [control[i] for i in used]
    mean = math.fsum(folded(value) for value in theirs) / len(theirs)
    distance, p = ks_test([mine[i] for i in used], theirs)
    yield Row(
        "truth_ratio", Family.MEMORISATION, own.value, own.low, own.high, control=mean, n=len(used), decides=False,
        note="`ks` tests it",
    )  # fmt: skip
    yield Row("ks", Family.MEMORISATION, distance, p=p, n=len(used), tells=p < alpha, note="distance of truth ratios")


def folded(ratio: float) -> float:
    """min(TR, 1 / TR): 1 where the right answer is as likely as the wrong ones, from either side."""
    return min(ratio, 1 / ratio) if ratio > 0 else 0.0


def _membership_rows(plan: Plan, mine: Measured, control: Measured | None) -> Iterator[Row]:
    if not mine.members:
        return
    pairs = {name: (mine.members[name], mine.others[name]) for name in mine.members}
    held = None if control is None else {name: (control.members[name], control.others[name]) for name in mine.members}
    gaps = {name: auc_gap(pair, None if held is None else held[name], plan.seed) for name, pair in pairs.items()}
    if control is not None:
        scores = [
            reference(a["loss"], b["loss"]) for a, b in ((mine.members, control.members), (mine.others, control.others))
        ]
        gaps["reference"] = auc_gap((scores[0], scores[1]), None, plan.seed)
    corrected = holm({name: gap.p for name, gap in gaps.items()})
    for name, gap in gaps.items():
        against_half = control is None or name == "reference"
        yield Row(
            f"mia_{name}", Family.MEMBERSHIP, gap.here.value, gap.here.low, gap.here.high, control=gap.there,
            gap=gap.gap.value, gap_low=gap.gap.low, gap_high=gap.gap.high, p=gap.p, n=len(plan.members),
            tells=corrected[name] < plan.profile.margins.alpha,
            note="against 0.5" if against_half else "",
        )  # fmt: skip


def _layer_rows(plan: Plan, name: str, mine: Measured, control: Measured | None) -> Iterator[Row]:
    hits = mine.probe if name == "probe" else mine.lens
    theirs = None if control is None else (control.probe if name == "probe" else control.lens)
    used = [i for i in range(len(plan.items)) if hits and not math.isnan(hits[0][i])]
    if not used:
        if hits:
            note = "too few other facts of the relation" if name == "probe" else "there are no wrong answers"
            yield Row(name, Family.PROBE, None, decides=False, note=note)
        return
    here = [[row[i] for i in used] for row in hits]
    there = None if theirs is None else [[row[i] for i in used] for row in theirs]
    if there is None:
        best, gap, p = max(range(len(here)), key=lambda k: sum(here[k])), None, None
    else:
        best, gap, p = greatest_gap(here, there, plan.seed)
    own = mean_of(here[best], (0.0, 1.0), plan.seed)
    margins = plan.profile.margins
    yield Row(
        name, Family.PROBE, own.value, own.low, own.high, control=None if there is None else _mean(there[best]),
        gap=gap, p=p, n=len(used), decides=there is not None,
        tells=None if p is None or gap is None else p < margins.alpha and gap > margins.recall,
        note=f"layer {mine.layers[best]}" + ("" if there is not None else f"; {NO_CONTROL}"),
    )  # fmt: skip
    for k, layer in enumerate(mine.layers):
        level = None if there is None else _mean(there[k])
        yield Row(
            f"{name}_{layer}", Family.PROBE, _mean(here[k]), control=level,
            gap=None if level is None else _mean(here[k]) - level, n=len(used), decides=False,
        )  # fmt: skip


def _relearning_rows(plan: Plan, mine: Measured, control: Measured | None) -> Iterator[Row]:
    profile = plan.profile
    if mine.relearning is None:
        return
    yield _steps_row("relearning", profile.relearn_steps, mine.relearning, control and control.relearning, plan)
    if mine.benign is not None:  # few facts come back, by a step or two: only a ratio that is surely below 1 tells
        row = _steps_row("benign_steps", profile.benign_steps, mine.benign, control and control.benign, plan)
        yield replace(row, tells=row.tells and row.high is not None and row.high < 1.0)


def _steps_row(name: str, most: int, mine: Relearning, control: Relearning | None, plan: Plan) -> Row:
    """Steps to half recovery as a ratio to the control's; no value where neither recovers anything in time."""
    own = mine.steps
    if control is None:
        note = f"half recovery after {_mean(own):.3g} steps; {NO_CONTROL}"
        return Row(name, Family.RELEARNING, None, n=len(own), decides=False, note=note)
    theirs = control.steps
    if name == "benign_steps" and min(*own, *theirs) > most:
        note = f"nothing is back after {most} steps on other facts, in neither model"
        return Row(name, Family.RELEARNING, None, n=len(own), decides=False, note=note)
    ratio = ratio_of_means(own, theirs, plan.seed)
    late = sum(step > most for step in theirs)
    note = f"steps to half recovery: {_mean(own):.3g}, control {_mean(theirs):.3g}"
    note += f"; {late} of {len(theirs)} facts not learnt by the control in time" if late else ""
    return Row(
        name, Family.RELEARNING, ratio.value, ratio.low, ratio.high, control=1.0, n=len(own),
        tells=ratio.value < plan.profile.margins.relearning, note=note,
    )  # fmt: skip


def depth_row(scores: Sequence[float], *, seed: int, margin: float) -> Row:
    """The mean unlearning depth score; 1 in the control by definition."""
    used = [score for score in scores if not math.isnan(score)]
    if not used:
        note = "the control loses nothing in any layer: the model before does not know the facts"
        return Row("depth", Family.DEPTH, None, decides=False, note=note)
    own = mean_of(used, (0.0, 1.0), seed)
    return Row(
        "depth", Family.DEPTH, own.value, own.low, own.high, control=1.0, n=len(used), tells=own.high < margin,
    )  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
