"""Bi-level unlearning: a step that keeps what it can without taking anything from forgetting. arXiv:2506.08164.

    d = u_r + (gamma - <u_r, g_f> / <u_f, g_f>) u_f                                                         # Eq. 1
    u_f = D g_f,  u_r = alpha D g_r,  D = diag(1 / (sqrt(v) + 1e-8))                                        # Eq. 2

    g_f, g_r  gradients of the forget loss (NPO's, `catechism.solve.forgetting.npo`) and of L_r, over all parameters;
    v  running mean of the squares of g_f + alpha g_r, as in Adam

So <d, g_f> = gamma <u_f, g_f> > 0: to first order every step lowers the forget loss, by gamma times what a step for it
alone would, whatever L_r asks for. With D = 1 and alpha = 1 this is the published rule.

Deviations: see docs/forget-trained.md for those that all trained methods share. Released code projects first and hands
the result to AdamW, whose preconditioning (and momentum) void the guarantee; here D comes first and there is no
momentum, and the guarantee holds for the step that is taken. Released code for MUSE has a forget loss of its own that
does not follow the paper on NPO; this is NPO's.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms, Turn
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import combined, forget_first, npo

SOURCE = "arXiv:2506.08164"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 0.1  # published: 0.1, with NPO as the forget loss
    gamma: float = 1.0  # published: 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)


class Blur(TrainedForgetter[Spec]):
    """The method."""

    name = "blur"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The loss of NPO, and L_r."""
        said = step.forget
        return {"forget": said.over_rows(npo(said.nll, step.forget_before.nll, spec.beta)), **step.retained()}

    def direct(self, turn: Turn, spec: Spec) -> tuple[list[Tensor], Terms]:
        """The step of Eq. 1."""
        found = turn.terms()
        g_f, g_r = turn.gradient(found["forget"]), turn.gradient(found["retain"])
        turn.moments.see(combined(g_f, g_r, a_times=1.0, b_times=turn.alpha))
        u_f = turn.moments.precondition(g_f)  # Eq. 2
        u_r = turn.moments.precondition([turn.alpha * g for g in g_r])
        return forget_first(u_r, u_f, g_f, spec.gamma), found  # Eq. 1
