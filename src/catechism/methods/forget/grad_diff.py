"""Gradient difference: ascent on what is forgotten, descent on what is kept. arXiv:2401.06121.

    L_f = -mean over answer tokens of nll_t(y)                                                              # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    y the answer to forget;  L_r  as `Training.keep` says

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
from catechism.model.forgetting.training import Training, check_above
from catechism.types import Forgetting, How

SOURCE = "arXiv:2401.06121"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    gamma: float = 1.0  # published: 1, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("gamma", self.gamma)


class GradDiff:
    """The method."""

    name = "grad_diff"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said = step.forget
            forget = said.over_tokens(said.chosen)  # Eq. 1
            return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2

        return self._fitting.fit(live, request, Objective(terms), spec)
