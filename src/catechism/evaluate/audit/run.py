"""The audit of an edit that was to forget: every measure on the model and on a control, and the verdict."""

from __future__ import annotations

import math
from functools import cached_property

from catechism.errors import UsageError
from catechism.evaluate.audit import depth, spill
from catechism.evaluate.audit.items import Kept
from catechism.evaluate.audit.measures import Before, Measured, Progress, before_of, measure, plan_of
from catechism.evaluate.audit.profile import QUICK, Profile
from catechism.evaluate.audit.result import Audit, Family, Row
from catechism.evaluate.audit.rows import NO_CONTROL, depth_row, rows_of
from catechism.evaluate.audit.verdict import judge
from catechism.model import LiveModel
from catechism.model.merged import unedited
from catechism.types import Forgetting


class Auditor:
    """Audits edits of one request against one control, which is measured once.

    Audited itself, the control is not measured again as long as its full digest is that of when it was measured: every
    measure is seeded, so the same bytes have the same values. With one bit changed everything is measured anew.

    Args:
        control: a model that never learned what is to be forgotten; None if there is none, and then the verdict is at
            best "suppressed".
        request: what was to be forgotten.
        kept: what was to stay.
        profile: how much is done.
        seed: of every draw.
        progress: told what is being measured.

    Raises: UsageError for a request without facts, or with a fact that nothing asks for.
    """

    def __init__(
        self,
        control: LiveModel | None,
        request: Forgetting,
        kept: Kept,
        *,
        profile: Profile = QUICK,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self._control, self._progress = control, progress
        self._plan = plan_of(request, kept, profile, seed)

    @cached_property
    def _never(self) -> tuple[Measured | None, str]:
        """The control's values, and the full digest that it has them under."""
        if self._control is None:
            return None, ""
        digest = self._control.digest(full=True)
        return measure(self._control, self._plan, self._progress, who="control"), digest

    def _measured(self, live: LiveModel) -> Measured:
        """A model's values: those at hand if it is the control, and still byte for byte what was measured."""
        never, digest = self._never
        if never is not None and live is self._control and live.digest(full=True) == digest:
            return never
        return measure(live, self._plan, self._progress)

    def measure_before(self, live: LiveModel) -> Before:
        """What a model does before the edit, as it is; to be taken once for many edits of it."""
        return before_of(live, self._plan)

    def audit(self, live: LiveModel, *, before: Before | None = None, exact: bool = False) -> Audit:
        """Audit a model with its edit on. It is left as it is.

        Args:
            live: with the deltas that are to be audited.
            before: of `measure_before`; None measures a copy without any delta.
            exact: whether the caller took the edit that had taught the facts out and found the weights equal to those
                of before, by their digest.

        Raises: UsageError for a `before` that was measured with another profile or seed.
        """
        plan = self._plan
        if before is None:
            before = self.measure_before(unedited(live))
        elif (before.profile, before.seed) != (plan.profile.name, plan.seed):
            raise UsageError(
                f"`before` was measured with profile {before.profile!r} and seed {before.seed}, the audit has "
                f"{plan.profile.name!r} and {plan.seed}. Measure it with the same."
            )
        rows = rows_of(plan, self._measured(live), self._never[0], before)
        rows += self._depth(live, before) + self._spill(live, before)
        word, reasons, not_shown = judge(rows, control=self._control is not None, exact=exact)
        control = None if self._control is None else self._control.digest()
        return Audit(
            plan.profile.name, plan.seed, len(plan.items), live.digest(), control, tuple(rows), word, tuple(reasons),
            tuple(not_shown),
        )  # fmt: skip

    def _depth(self, live: LiveModel, before: Before) -> list[Row]:
        plan = self._plan
        if not plan.profile.depth:
            return []
        if self._control is None or before.full is None:
            note = NO_CONTROL if self._control is None else "needs a model that knows"
            return [Row("depth", Family.DEPTH, None, decides=False, note=note)]
        if self._control.anatomy.n_layers != live.anatomy.n_layers:
            note = "needs a control of the same depth"
            return [Row("depth", Family.DEPTH, None, decides=False, note=note)]
        layers = depth.layers_of(live, plan.profile.layers)
        lost = depth.losses(before.full, live, plan.items, layers)
        control = lost if live is self._control else depth.losses(before.full, self._control, plan.items, layers)
        scores = [
            depth.depth_score(a, b) for a, b in zip(zip(*lost, strict=True), zip(*control, strict=True), strict=True)
        ]
        known = [score if knew else math.nan for score, knew in zip(scores, before.recall["recall"], strict=True)]
        return [depth_row(known, seed=plan.seed, margin=plan.profile.margins.depth)]

    def _spill(self, live: LiveModel, before: Before) -> list[Row]:
        plan = self._plan
        margins = plan.profile.margins
        rows = spill.spill_rows(spill.retained(live, plan.kept), before.kept, margins, seed=plan.seed)
        if plan.texts:
            after = live.perplexity(plan.texts)
            return [*rows, spill.perplexity_row(after, before.perplexity, margins, texts=len(plan.texts))]
        return [*rows, Row("perplexity_ratio", Family.SPILL, None, decides=False, note="no texts were given")]


def audit(
    live: LiveModel,
    control: LiveModel | None,
    request: Forgetting,
    kept: Kept,
    *,
    profile: Profile = QUICK,
    seed: int = 0,
    progress: Progress | None = None,
) -> Audit:
    """Audit one edit: `live` carries it, `control` never learned. For several edits, an exact removal, or values of
    before that are at hand, make an `Auditor`.

    Raises: UsageError for a request without facts, or with a fact that nothing asks for.
    """
    return Auditor(control, request, kept, profile=profile, seed=seed, progress=progress).audit(live)


def measure_before(
    live: LiveModel, request: Forgetting, kept: Kept, *, profile: Profile = QUICK, seed: int = 0
) -> Before:
    """What a model does before the edit, as it is, for `Auditor.audit`. Raises UsageError as `audit` does."""
    return before_of(live, plan_of(request, kept, profile, seed))
