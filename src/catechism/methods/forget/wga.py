"""Weighted gradient ascent: a token is pushed as far as it is still likely. arXiv:2502.19301.

    L_f = -mean over answer tokens of stopgrad(p_t^beta) nll_t                                              # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    p_t  probability of the token now;  L_r  as `Training.keep` says

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
from catechism.solve.forgetting import weighted_ascent
from catechism.types import Forgetting, How

SOURCE = "arXiv:2502.19301"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 1.0  # published: 1
    gamma: float = 1.0  # published: 1, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)


class WGA:
    """The method."""

    name = "wga"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said = step.forget
            forget = said.over_tokens(weighted_ascent(said.chosen, spec.beta))  # Eq. 1
            return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2

        return self._fitting.fit(live, request, Objective(terms), spec)
