"""Ascent weighted by saturation and importance: tokens that are nearly certain count less. arXiv:2505.11953.

    L_f = -mean over answer tokens of stopgrad(p_t^beta_1 (1 - p_t)^beta_2) nll_t                           # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    p_t  probability of the token now;  L_r  as `Training.keep` says

A memorised token has p_t near 1, so the weight is near 0 at first: the smaller beta_2 is, the sooner anything moves.
With the published beta_2 of 1 nothing does where a model is as sure of its answers as ours is.

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import satimp

SOURCE = "arXiv:2505.11953"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta_1: float = 5.0  # published: 5
    beta_2: float = 0.1  # published: 1
    steps: int = 150  # fifty leave half of forty facts
    gamma: float = 10.0  # published: 0.1, with alpha 1; in the code's own defaults 10 times alpha

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta_1", self.beta_1, equal=True)
        check_above("beta_2", self.beta_2, equal=True)
        check_above("gamma", self.gamma)


class SatImp(TrainedForgetter[Spec]):
    """The method."""

    name = "satimp"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        forget = said.over_tokens(satimp(said.chosen, spec.beta_1, spec.beta_2))  # Eq. 1
        return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
