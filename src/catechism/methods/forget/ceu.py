"""Cross-entropy unlearning: towards what the model would say if the answer were no option. arXiv:2503.01224.

    target = softmax(stopgrad(logits_t) with the answer's token at -infinity)                               # Eq. 1
    L_f    = mean over answer tokens, but each answer's first n, of CE(pi_t, target)                        # Eq. 2
    L      = gamma L_f + alpha L_r

    y the answer to forget;  logits_t  of the model now;  L_r  as `Training.keep` says

Deviations: see docs/forget-trained.md for those that all trained methods share.
What is kept is the project's addition.
"""

from __future__ import annotations

from dataclasses import dataclass

from catechism.model.forgetting.fitting import TrainedForgetter
from catechism.model.forgetting.objective import Step, Terms
from catechism.model.forgetting.training import Training, check_above
from catechism.solve.forgetting import ceu

SOURCE = "arXiv:2503.01224"


@dataclass(frozen=True)
class Spec(Training):
    """Settings; those of `Training` beside its own."""

    skipped: int = 0  # published: n = 1, of long answers; on answers of one word it would leave nothing
    gamma: float = 1.0  # published: no term that keeps

    def __post_init__(self) -> None:
        super().__post_init__()
        check_above("skipped", self.skipped, equal=True)
        check_above("gamma", self.gamma)


class CEU(TrainedForgetter[Spec]):
    """The method."""

    name = "ceu"
    Spec = Spec
    keeps = False

    def terms(self, step: Step, spec: Spec) -> Terms:
        """The loss of Eq. 2, and what is kept."""
        said = step.forget
        forget = said.over_tokens(ceu(said.logprobs, said.tokens) * (said.order >= spec.skipped))  # Eq. 1, Eq. 2
        return {"forget": spec.gamma * forget, **step.retained()}
