"""Gradient difference: ascent on what is forgotten, descent on what is kept. arXiv:2401.06121.

    L_f = -mean over answer tokens of nll_t(y)                                                              # Eq. 1
    L   = gamma L_f + alpha L_r                                                                             # Eq. 2

    y the answer to forget;  L_r  the nll of what is kept, as published; with `keep="kl"` this is the method `kl`

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above

SOURCE = "arXiv:2401.06121"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    keep: Literal["nll", "kl"] = "nll"
    gamma: float = 1.0  # published: 1, with alpha 1

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("gamma", self.gamma)


class GradDiff(TrainedForgetter[Spec]):
    """The method."""

    name = "grad_diff"
    Spec = Spec

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The two losses of Eq. 2."""
        said = step.forget
        forget = said.over_tokens(said.chosen)  # Eq. 1
        return {"forget": spec.gamma * forget, **step.retained()}  # Eq. 2
