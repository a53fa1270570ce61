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

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.objective import Objective, Step, Terms, Turn
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import combined, forget_first, npo
from catechism.types import Forgetting, How

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


class Blur:
    """The method."""

    name = "blur"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said = step.forget
            return {"forget": said.over_rows(npo(said.nll, step.forget_before.nll, spec.beta)), **step.retained()}

        return self._fitting.fit(live, request, Objective(terms, lambda turn: direction(turn, spec.gamma)), spec)


def direction(turn: Turn, gamma: float) -> tuple[list[Tensor], Terms]:
    """The step that is taken, to be subtracted times the rate, and the losses that it was made from."""
    found = turn.terms()
    g_f, g_r = turn.gradient(found["forget"]), turn.gradient(found["retain"])
    turn.moments.see(combined(g_f, g_r, a_times=1.0, b_times=turn.alpha))
    u_f = turn.moments.precondition(g_f)  # Eq. 2
    u_r = turn.moments.precondition([turn.alpha * g for g in g_r])
    return forget_first(u_r, u_f, g_f, gamma), found  # Eq. 1
