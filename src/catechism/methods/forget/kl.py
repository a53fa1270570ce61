"""Ascent on what is forgotten, held to the model as it was on what is kept. arXiv:2401.06121, "KL minimization".

    L_f = -mean over answer tokens of nll_t(y)                                                              # Eq. 1
    L_r = mean over answer tokens of KL(pi_0 || pi_t)                                                       # Eq. 2
    L   = gamma L_f + alpha L_r

    y the answer to forget;  pi_0, pi_t  what the model said before and says now at the answers that are kept

Deviations: see docs/forget-trained.md for those that all trained methods share.
Released code takes the divergence over prompts and padding too; here answer tokens alone count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from catechism.errors import BadSpec
from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above

SOURCE = "arXiv:2401.06121"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    keep: Literal["kl"] = "kl"  # Eq. 2 is what makes the method
    steps: int = 150  # fifty leave most of forty facts
    gamma: float = 1.0  # published: 1, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.keep != "kl":
            raise BadSpec(f"keep={self.keep!r} is another method. Use 'kl', or grad_diff.")
        check_above("gamma", self.gamma)


class KLRegularised(TrainedForgetter[Spec]):
    """The method."""

    name = "kl"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses, Eq. 1 and, since `keep` is "kl", Eq. 2."""
        said = step.forget
        return {"forget": spec.gamma * said.over_tokens(said.chosen), **step.retained()}
