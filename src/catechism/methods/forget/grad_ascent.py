"""Gradient ascent on what is to be forgotten, and nothing else. arXiv:2401.06121.

    L = -mean over answer tokens of nll_t(y)                                                                # Eq. 1

Nothing is kept: the yardstick for every method that keeps something. Unbounded, it wrecks a model; here a row is let go
when it has come down to its level.

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training
from catechism.types import Forgetting, How

SOURCE = "arXiv:2401.06121"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""


class GradAscent:
    """The method."""

    name = "grad_ascent"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, keeps=False, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said = step.forget
            return {"forget": said.over_tokens(said.chosen)}  # Eq. 1

        return self._fitting.fit(live, request, Objective(terms), spec)
