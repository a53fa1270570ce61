"""Gradient ascent on what is to be forgotten, and nothing else. arXiv:2401.06121.

    L = -mean over answer tokens of nll_t(y)                                                                # Eq. 1

Nothing is kept: the yardstick for every method that keeps something. Unbounded, it wrecks a model; here a row is let go
when it has come down to its level.

Deviations: see docs/forget-trained.md for those that all trained methods share.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training

SOURCE = "arXiv:2401.06121"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""


class GradAscent(TrainedForgetter[Spec]):
    """The method."""

    name = "grad_ascent"
    Spec = Spec
    keeps = False

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The loss of Eq. 1."""
        said = step.forget
        return {"forget": said.over_tokens(said.chosen)}  # Eq. 1
