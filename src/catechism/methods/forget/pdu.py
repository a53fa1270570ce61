"""Primal-dual unlearning: flat logits, under a bound on what keeping may cost. arXiv:2506.05314.

    L_f = mean over answer tokens of (max_v logit - mean_v logit)^2                                         # Eq. 1
    minimise gamma L_f subject to L_r <= eps:  L = gamma L_f + lam (L_r - eps)                              # Eq. 2
    lam <- max(0, lam + eta (L_r - eps)) after every step, from alpha                                       # Eq. 3

    L_r  as `Training.keep` says

As long as keeping costs less than eps its weight falls, so forgetting has its way; as soon as it costs more the weight
rises.

Deviations: see docs/forget-trained.md for those that all trained methods share. Released code masks Eq. 1 by labels
that are one place off; here a place is the one that an answer's token is said from. There are no epochs in which lam
rests.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms, Turn
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import dual, flatness

SOURCE = "arXiv:2506.05314"

LAM = "lam"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own. `alphas` are where lam begins."""

    eps: float = 0.01  # published: 0.3, of models whose loss on what is kept is above 0.1
    eta: float = 10.0  # published: 1.0; larger, as eps is smaller
    gamma: float = 1.0  # published: 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("eps", self.eps)
        check_above("eta", self.eta, equal=True)
        check_above("gamma", self.gamma)


class PDU(TrainedForgetter[Spec]):
    """The method."""

    name = "pdu"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        return {"forget": spec.gamma * said.over_tokens(flatness(said.logprobs)), **step.retained()}  # Eq. 1

    def direct(self, turn: Turn, spec: Spec) -> tuple[list[Tensor], Terms]:
        """The gradient of Eq. 2, and a step of lam."""
        found, state = turn.terms(), turn.step.state
        lam = state.get(LAM, turn.alpha)
        loss = found["forget"] + lam * (found["retain"] - spec.eps)  # Eq. 2
        state[LAM] = dual(lam, float(found["retain"].detach()), spec.eps, spec.eta)  # Eq. 3
        return turn.adam(turn.gradient(loss)), {**found, LAM: found["forget"].new_tensor(lam)}
