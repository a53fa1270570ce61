"""Simple negative preference optimisation: NPO per token, without the model as it was. arXiv:2410.07163.

    L_f = -(2 / beta) mean log sigmoid(beta (nll_t(y) / |y| - delta))                                       # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    y the answer to forget;  L_r  as `Training.keep` says

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import simnpo

SOURCE = "arXiv:2410.07163"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 4.5  # published: 4.5
    delta: float = 0.0  # published: 0
    gamma: float = 10.0  # published: 0.125, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("delta", self.delta, equal=True)
        check_above("gamma", self.gamma)


class SimNPO(TrainedForgetter[Spec]):
    """The method."""

    name = "simnpo"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        forget = said.over_rows(simnpo(said.nll, said.lengths, spec.beta, spec.delta))  # Eq. 1
        return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
