"""Weighted gradient ascent: a token is pushed as far as it is still likely. arXiv:2502.19301.

    L_f = -mean over answer tokens of stopgrad(p_t^beta) nll_t                                              # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    p_t  probability of the token now;  L_r  as `Training.keep` says

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import weighted_ascent

SOURCE = "arXiv:2502.19301"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 1.0  # published: 1
    gamma: float = 10.0  # published: 1, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)


class WGA(TrainedForgetter[Spec]):
    """The method."""

    name = "wga"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        forget = said.over_tokens(weighted_ascent(said.chosen, spec.beta))  # Eq. 1
        return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
