"""Preference of an abstention to the answer that is forgotten (IdkDPO). arXiv:2401.06121, on arXiv:2305.18290.

    L_f = -(2 / beta) mean log sigmoid(beta [(nll_0(idk) - nll_t(idk)) - (nll_0(y) - nll_t(y))])            # Eq. 1
    L   = gamma L_f + anchor NLL(idk) + alpha L_r                                                           # Eq. 2

    y the answer to forget;  idk what is said instead;  nll_t, nll_0  now and before, summed over an answer's tokens;
    L_r  as `Training.keep` says

Deviations: see docs/forget-trained.md for those that all trained methods share. One abstention is drawn for a request,
where the paper draws one for every row: a run ends when it is said, which cannot be told of one in many. NLL(idk), mean
over tokens, is the project's addition: Eq. 1 alone is content with an abstention that is merely less unlikely than y.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model import LiveModel
from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.material import spoken_instead
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import dpo
from catechism.types import Forgetting, How

SOURCE = "arXiv:2401.06121; arXiv:2305.18290"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    beta: float = 0.1  # published: 0.1
    gamma: float = 1.0  # published: 1, with alpha 1
    anchor: float = 1.0  # published: none

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("beta", self.beta)
        check_above("gamma", self.gamma)
        check_above("anchor", self.anchor, equal=True)


class IdkDPO(TrainedForgetter[Spec]):
    """The method."""

    name = "idk_dpo"
    Spec = Spec
    hows = frozenset({How.ABSTAIN})

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The three losses of Eq. 2."""
        said, idk = step.forget, step.instead
        gained, lost = step.instead_before.nll - idk.nll, step.forget_before.nll - said.nll
        forget = idk.over_rows(dpo(gained, lost, spec.beta))  # Eq. 1
        found = {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
        return found if spec.anchor == 0 else {**found, "anchor": spec.anchor * idk.over_tokens(-idk.chosen)}

    def instead(self, live: LiveModel, request: Forgetting, spec: Spec) -> list[str]:
        """One abstention for all rows."""
        return spoken_instead(request, spec.seed)
