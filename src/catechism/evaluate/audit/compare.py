"""Rows from the values of single facts: the audited model's beside the control's and those of before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from catechism.evaluate.audit.profile import Margins
from catechism.evaluate.audit.result import Family, Row
from catechism.evaluate.audit.statistics import mean_of, paired_difference

#: Values by name of a measure: one for each fact, nan where the measure does not apply to it.
Values = Mapping[str, Sequence[float]]


@dataclass(frozen=True)
class Sides:
    """The values of the audited model, of the control, and of the model before the edit; None for what there is not."""

    model: Values
    control: Values | None
    before: Values | None


def rate_row(name: str, family: Family, sides: Sides, margins: Margins, *, seed: int, chance: float) -> Row:
    """The mean of values in [0, 1] that a model which never learned has low.

    It tells the model from the control if the difference's interval lies above 0 and reaches above the margin. Without
    a control it tells if the value's interval lies above the rate of guessing.
    """
    mine = sides.model[name]
    theirs = None if sides.control is None else sides.control[name]
    used = [i for i, x in enumerate(mine) if not math.isnan(x) and (theirs is None or not math.isnan(theirs[i]))]
    if not used:
        return Row(name, family, None, decides=False, note="applies to none of the facts")
    values = [mine[i] for i in used]
    own = mean_of(values, (0.0, 1.0), seed)
    before = None if sides.before is None or name not in sides.before else _mean([sides.before[name][i] for i in used])
    if theirs is None:
        note = f"no control; guessing gives {chance:.3g}"
        tells = own.low > chance
        return Row(name, family, own.value, own.low, own.high, before=before, n=len(used), tells=tells, note=note)
    others = [theirs[i] for i in used]
    gap = paired_difference(values, others, seed)
    return Row(
        name,
        family,
        own.value,
        own.low,
        own.high,
        control=_mean(others),
        before=before,
        gap=gap.value,
        gap_low=gap.low,
        gap_high=gap.high,
        n=len(used),
        tells=gap.low > 0 and gap.high > margins.recall,
    )


def _mean(values: Sequence[float]) -> float | None:
    known = [value for value in values if not math.isnan(value)]
    return math.fsum(known) / len(known) if known else None
