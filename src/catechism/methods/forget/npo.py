"""Negative preference optimisation: ascent that slows down as an answer is forgotten. arXiv:2404.05868.

    L_f = -(2 / beta) mean log sigmoid(beta (nll_t(y) - nll_0(y)))                                          # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    y the answer to forget;  nll_t, nll_0  its negative log-likelihood, summed over its tokens, now and before;
    L_r  as `Training.keep` says

The gradient of Eq. 1 is that of ascent times 2 p_t^beta / (p_t^beta + p_0^beta), which falls as p_t does; as beta goes
to 0 it is ascent.

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import npo

SOURCE = "arXiv:2404.05868"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 0.1  # published: 0.1
    gamma: float = 1.0  # published: 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)


class NPO(TrainedForgetter[Spec]):
    """The method."""

    name = "npo"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        forget = said.over_rows(npo(said.nll, step.forget_before.nll, spec.beta))  # Eq. 1
        return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
