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

from catechism.delta import Delta
from catechism.model import LiveModel
from catechism.model.background import Background
from catechism.model.forgetting.fitting import Fitting
from catechism.model.forgetting.objective import Objective, Step, Terms
from catechism.model.forgetting.trainer import Watch
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import npo
from catechism.types import Forgetting, How

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


class NPO:
    """The method."""

    name = "npo"
    Spec = Spec
    hows = frozenset({How.ERASE})

    def __init__(self, background: Background, *, watch: Watch | None = None) -> None:
        self._fitting = Fitting(background, self.name, self.hows, watch=watch)

    def fit(self, live: LiveModel, request: Forgetting, spec: Spec) -> Delta:
        """One delta for the whole request. Raises as `Fitting.check` and `Fitting.fit`."""
        self._fitting.check(live, request)

        def terms(step: Step) -> Terms:
            said = step.forget
            forget = said.over_rows(npo(said.nll, step.forget_before.nll, spec.beta))  # Eq. 1
            return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2

        return self._fitting.fit(live, request, Objective(terms), spec)
